//! Plain Rust in groups of four lanes, which any processor can run and compilers turn into its baseline vectors.

#![allow(unsafe_code, reason = "the trait's pointer loads")]

use super::{Kernel, Simd};

/// No instructions beyond the target's baseline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

type Lanes = [f32; 4];

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Simd for Portable {
    type F32 = Lanes;
    type I32 = [i32; 4];
    const LANES: usize = 4;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; 4]
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Not `f32::mul_add`, which is a slow library call where the processor has no such instruction.
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        // Adding 1.5 · 2²³ leaves no bits for the fraction: the sum is rounded to an integer by the addition.
        const SHIFT: f32 = 12_582_912.0;
        a.map(|a| (a + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn pow2(self, n: Lanes) -> Lanes {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn select_by_sign(self, sign: Lanes, negative: Lanes, positive: Lanes) -> Lanes {
        std::array::from_fn(|lane| if sign[lane].is_sign_negative() { negative[lane] } else { positive[lane] })
    }

    #[inline(always)]
    fn reduce_add(self, a: Lanes) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    fn reduce_max(self, a: Lanes) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Lanes {
        // SAFETY: the caller's promise; an array of f32 asks for no more alignment than read_unaligned gives.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, a: Lanes) {
        // SAFETY: the caller's promise, as above.
        unsafe { to.cast::<Lanes>().write_unaligned(a) }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}
}
