//! Vectors of f32 behind one trait, so that each kernel is written once and runs on every instruction set.
//!
//! A value of a type that implements [`Simd`] is proof that the processor has the instructions: only
//! [`InstructionSet::detect`] and [`Isa::new`] make one. So the vector operations are safe to call, and the intrinsics
//! and their `unsafe` stay in this folder. A kernel is a struct of its arguments that implements [`Kernel`];
//! [`Isa::run`] picks the copy compiled for this processor.
//!
//! Every function from [`Kernel::run`] down to an intrinsic is `#[inline(always)]`: only code inlined into the one
//! function with `#[target_feature]` is compiled with these features.

#![allow(unsafe_code, reason = "loads and stores through pointers, for the innermost loop")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
pub(super) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

pub use dispatch::InstructionSet;
pub(super) use dispatch::Isa;

/// Vectors side by side in one panel of a packed matrix. With [`Simd::TILE_ROWS`] rows, two keep twelve to twenty-four
/// sums in flight: enough to hide the latency of a fused multiply-add on current processors.
pub(super) const PANEL_VECTORS: usize = 2;

/// Most rows of a register tile on any instruction set: products have a copy of their tile for each number up to it.
pub(super) const MAX_TILE_ROWS: usize = 12;

/// Most columns of a panel on any instruction set.
pub(super) const MAX_PANEL: usize = 32;

/// A kernel's arguments; `run` is the kernel.
pub(super) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, and so must everything it calls.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// One instruction set's vectors. Floats never trap, and denormals are kept.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// [`LANES`](Self::LANES) f32.
    type F32: Copy;

    /// [`LANES`](Self::LANES) i32, or twice as many i16 side by side.
    type I32: Copy;

    /// Sums of products of pairs, in the form in which the set adds to them.
    type Sum: Copy;

    /// Numbers in a vector.
    const LANES: usize;

    /// Rows of a matrix product's register tile: as many as the registers hold.
    const TILE_ROWS: usize;

    /// The same for integers, whose sums may take more registers.
    const INTEGER_TILE_ROWS: usize = Self::TILE_ROWS;

    /// Columns of a panel.
    const PANEL: usize = PANEL_VECTORS * Self::LANES;

    /// Runs a kernel compiled with this set's instructions.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a · b + c`, rounded once where the processor can.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn abs(self, a: Self::F32) -> Self::F32;

    /// The nearest integer, ties to even; `a` is within ±2²².
    fn round(self, a: Self::F32) -> Self::F32;

    /// 2ⁿ for integral `n` in -126 to 127.
    fn pow2(self, n: Self::F32) -> Self::F32;

    /// Lanes of `negative` where `sign` has its sign bit set, of `positive` elsewhere.
    fn select_by_sign(self, sign: Self::F32, negative: Self::F32, positive: Self::F32) -> Self::F32;

    /// The sum of the lanes, always in the same order.
    fn reduce_add(self, a: Self::F32) -> f32;
    fn reduce_max(self, a: Self::F32) -> f32;

    /// # Safety
    /// `from` is valid for reading [`LANES`](Self::LANES) f32; no alignment is asked.
    unsafe fn load_ptr(self, from: *const f32) -> Self::F32;

    /// # Safety
    /// `to` is valid for writing [`LANES`](Self::LANES) f32; no alignment is asked.
    unsafe fn store_ptr(self, to: *mut f32, a: Self::F32);

    fn zero_sum(self) -> Self::Sum;
    fn to_f32(self, sum: Self::Sum) -> Self::F32;

    /// Some of a sum's numbers as pairs of i16: for measuring, where each product must depend on the one before.
    fn as_pairs(self, sum: Self::Sum) -> Self::I32;

    /// `sum + a₀·b₀ + a₁·b₁` for each lane's two i16, exactly: no product of an i16 and an i8 pair overflows an i32.
    fn dot_pairs(self, a: Self::I32, b: Self::I32, sum: Self::Sum) -> Self::Sum;

    /// The same two i16 in every lane.
    ///
    /// # Safety
    /// `from` is valid for reading two i16; no alignment is asked.
    unsafe fn splat_pair(self, from: *const i16) -> Self::I32;

    /// Widens i8 to i16.
    ///
    /// # Safety
    /// `from` is valid for reading two i8 a lane.
    unsafe fn load_i8_pairs(self, from: *const i8) -> Self::I32;

    /// # Safety
    /// `from` is valid for reading two i16 a lane; no alignment is asked.
    unsafe fn load_i16_pairs(self, from: *const i16) -> Self::I32;

    /// # Safety
    /// `to` is valid for writing two i16 a lane; no alignment is asked.
    unsafe fn store_pairs(self, to: *mut i16, a: Self::I32);

    /// Writes numbers rounded to i16; they are within its range.
    ///
    /// # Safety
    /// `to` is valid for writing [`LANES`](Self::LANES) i16; no alignment is asked.
    unsafe fn store_i16(self, to: *mut i16, a: Self::F32);

    /// Prefetches the cache line at `at` into the second-level cache; any address is valid.
    fn prefetch(self, at: *const u8);

    /// The first [`LANES`](Self::LANES) numbers of `from`.
    ///
    /// # Panics
    /// `from` is shorter.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F32 {
        let from = &from[..Self::LANES];
        // SAFETY: the slice has just been cut to LANES numbers.
        unsafe { self.load_ptr(from.as_ptr()) }
    }

    /// Writes the first [`LANES`](Self::LANES) numbers of `to`.
    ///
    /// # Panics
    /// `to` is shorter.
    #[inline(always)]
    fn store(self, to: &mut [f32], a: Self::F32) {
        let to = &mut to[..Self::LANES];
        // SAFETY: the slice has just been cut to LANES numbers.
        unsafe {
            self.store_ptr(to.as_mut_ptr(), a);
        }
    }
}
