//! AVX-512 (F and BW): 32 registers of 16 lanes. Twelve rows by two vectors are 24 sums, 2 of the panel and 1 of the
//! rows. With VNNI, one instruction multiplies pairs of integers and adds both products to a sum.

#![allow(unsafe_code, reason = "intrinsics")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "each block is one intrinsic, safe as the type's doc says")]

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that the processor has AVX-512F and BW, and VNNI if `VNNI` is true, so every intrinsic below is safe to call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    pub(super) fn new() -> Option<Self> {
        let vnni = !VNNI || is_x86_feature_detected!("avx512vnni");
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && vnni).then_some(Self(()))
    }
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type F32 = __m512;
    type I32 = __m512i;
    type Sum = __m512i;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw")]
        fn with_features<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn with_vnni<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        if VNNI { unsafe { with_vnni(self, kernel) } } else { unsafe { with_features(self, kernel) } }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn select_by_sign(self, sign: __m512, negative: __m512, positive: __m512) -> __m512 {
        unsafe {
            let mask = _mm512_cmplt_epi32_mask(_mm512_castps_si512(sign), _mm512_setzero_si512());
            _mm512_mask_blend_ps(mask, positive, negative)
        }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(to, a) }
    }

    #[inline(always)]
    fn zero_sum(self) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn as_pairs(self, sum: __m512i) -> __m512i {
        sum
    }

    #[inline(always)]
    fn dot_pairs(self, a: __m512i, b: __m512i, sum: __m512i) -> __m512i {
        match VNNI {
            true => unsafe { _mm512_dpwssd_epi32(sum, a, b) },
            false => unsafe { _mm512_add_epi32(_mm512_madd_epi16(a, b), sum) },
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(self, from: *const i8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_i16_pairs(self, from: *const i16) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut i16, a: __m512i) {
        unsafe { _mm512_storeu_si512(to.cast(), a) }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, a: __m512) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a))) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}
