//! Gives memory that is free in the process back to the system.
//!
//! GNU's C library keeps what is freed: its threshold for mapping an allocation by itself grows with what is freed, up
//! to 32 MiB, and from then on matrices lie between small allocations that stay. After a large model is on its device,
//! that is a whole copy of the model which nothing uses. Other C libraries are not asked.
#![allow(unsafe_code, reason = "one function of the C library, which no crate wraps")]

/// Gives it back, in about a tenth of a second for a gigabyte.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn give_back() {
    // SAFETY: the function's type as glibc declares it, `int malloc_trim(size_t)`. It takes no pointer, locks what it
    // works on, and gives back only pages on which nothing is allocated, so any thread may call it at any time.
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // Whether any was given back.
    let _ = malloc_trim(0);
}

/// Nothing to do here.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_back() {}
