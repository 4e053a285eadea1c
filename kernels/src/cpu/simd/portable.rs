//! Plain Rust in groups of four lanes: runs on any processor, and compilers turn it into its baseline vectors.

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

#[inline(always)]
fn pair(low: i16, high: i16) -> i32 {
    i32::from(high) << 16 | i32::from(low as u16)
}

impl Simd for Portable {
    type F32 = Lanes;
    type I32 = [i32; 4];
    type Sum = [i32; 4];
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
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Not `f32::mul_add`: that is a slow library call if the processor has no such instruction.
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
        // Adding 1.5 · 2²³ leaves no bits for the fraction, so the addition rounds to an integer.
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
    fn zero_sum(self) -> [i32; 4] {
        [0; 4]
    }

    #[inline(always)]
    fn to_f32(self, a: [i32; 4]) -> Lanes {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn as_pairs(self, sum: [i32; 4]) -> [i32; 4] {
        sum
    }

    #[inline(always)]
    fn dot_pairs(self, a: [i32; 4], b: [i32; 4], sum: [i32; 4]) -> [i32; 4] {
        let low = |x: i32| i32::from(x as i16);
        let high = |x: i32| x >> 16;
        std::array::from_fn(|lane| sum[lane] + low(a[lane]) * low(b[lane]) + high(a[lane]) * high(b[lane]))
    }

    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> [i32; 4] {
        // SAFETY: the caller's promise.
        let [low, high] = unsafe { from.cast::<[i16; 2]>().read_unaligned() };
        [pair(low, high); 4]
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(self, from: *const i8) -> [i32; 4] {
        // SAFETY: the caller's promise: two i8 for each of four lanes.
        let values = unsafe { from.cast::<[i8; 8]>().read_unaligned() };
        std::array::from_fn(|lane| pair(i16::from(values[2 * lane]), i16::from(values[2 * lane + 1])))
    }

    #[inline(always)]
    unsafe fn load_i16_pairs(self, from: *const i16) -> [i32; 4] {
        // SAFETY: the caller's promise: two i16 for each of four lanes.
        let values = unsafe { from.cast::<[i16; 8]>().read_unaligned() };
        std::array::from_fn(|lane| pair(values[2 * lane], values[2 * lane + 1]))
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut i16, a: [i32; 4]) {
        let values = a.map(|a| [a as i16, (a >> 16) as i16]);
        // SAFETY: the caller's promise: two i16 for each of four lanes.
        unsafe { to.cast::<[[i16; 2]; 4]>().write_unaligned(values) }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, a: Lanes) {
        let rounded = self.round(a).map(|a| a as i16);
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i16; 4]>().write_unaligned(rounded) }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}
}
