//! NEON: 32 registers of 4 lanes. Twelve rows by two vectors are 24 sums, 2 of the panel and 1 of the rows. A sum of
//! integers is two registers, because `smlal` adds four products to four sums: six rows by two vectors.

#![allow(unsafe_code, reason = "intrinsics")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "each block is one intrinsic, safe as the type's doc says")]

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// Proof that the processor has NEON, so every intrinsic below is safe to call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

impl Simd for Neon {
    type F32 = float32x4_t;
    type I32 = int32x4_t;
    /// Products of the first two lanes' pairs and of the last two's: each pair is still to be added up.
    type Sum = [int32x4_t; 2];
    const LANES: usize = 4;
    const TILE_ROWS: usize = 12;
    const INTEGER_TILE_ROWS: usize = 6;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        fn with_features<K: Kernel>(simd: Neon, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        unsafe { with_features(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        unsafe { vabsq_f32(a) }
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }

    #[inline(always)]
    fn pow2(self, n: float32x4_t) -> float32x4_t {
        unsafe {
            let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }
    }

    #[inline(always)]
    fn select_by_sign(self, sign: float32x4_t, negative: float32x4_t, positive: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(sign)), negative, positive) }
    }

    #[inline(always)]
    fn reduce_add(self, a: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    fn reduce_max(self, a: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(a) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, a: float32x4_t) {
        unsafe { vst1q_f32(to, a) }
    }

    #[inline(always)]
    fn zero_sum(self) -> [int32x4_t; 2] {
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    fn to_f32(self, [low, high]: [int32x4_t; 2]) -> float32x4_t {
        unsafe { vcvtq_f32_s32(vpaddq_s32(low, high)) }
    }

    #[inline(always)]
    fn as_pairs(self, [low, _]: [int32x4_t; 2]) -> int32x4_t {
        low
    }

    #[inline(always)]
    fn dot_pairs(self, a: int32x4_t, b: int32x4_t, [low, high]: [int32x4_t; 2]) -> [int32x4_t; 2] {
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            [vmlal_s16(low, vget_low_s16(a), vget_low_s16(b)), vmlal_high_s16(high, a, b)]
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> int32x4_t {
        unsafe { vdupq_n_s32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(self, from: *const i8) -> int32x4_t {
        unsafe { vreinterpretq_s32_s16(vmovl_s8(vld1_s8(from))) }
    }

    #[inline(always)]
    unsafe fn load_i16_pairs(self, from: *const i16) -> int32x4_t {
        unsafe { vreinterpretq_s32_s16(vld1q_s16(from)) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut i16, a: int32x4_t) {
        unsafe { vst1q_s16(to, vreinterpretq_s16_s32(a)) }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, a: float32x4_t) {
        unsafe { vst1_s16(to, vqmovn_s32(vcvtnq_s32_f32(a))) }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {
        // The intrinsic is not stable, and the hardware prefetches the panels by itself.
    }
}
