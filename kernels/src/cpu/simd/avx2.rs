//! AVX2 and FMA: 16 registers of 8 lanes. Six rows by two vectors are 12 sums, 2 of the panel and 1 of the rows. With
//! AVX-VNNI, one instruction multiplies pairs of integers and adds both products to a sum.

#![allow(unsafe_code, reason = "intrinsics")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "each block is one intrinsic, safe as the type's doc says")]

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that the processor has AVX2 and FMA, and AVX-VNNI if `VNNI` is true, so every intrinsic below is safe to call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    pub(super) fn new() -> Option<Self> {
        let vnni = !VNNI || is_x86_feature_detected!("avxvnni");
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && vnni).then_some(Self(()))
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F32 = __m256;
    type I32 = __m256i;
    type Sum = __m256i;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        fn with_features<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx2,fma,avxvnni")]
        fn with_vnni<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        if VNNI { unsafe { with_vnni(self, kernel) } } else { unsafe { with_features(self, kernel) } }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn select_by_sign(self, sign: __m256, negative: __m256, positive: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(positive, negative, sign) }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, a: __m256) {
        unsafe { _mm256_storeu_ps(to, a) }
    }

    #[inline(always)]
    fn zero_sum(self) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn to_f32(self, a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn as_pairs(self, sum: __m256i) -> __m256i {
        sum
    }

    #[inline(always)]
    fn dot_pairs(self, a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
        match VNNI {
            true => unsafe { _mm256_dpwssd_avx_epi32(sum, a, b) },
            false => unsafe { _mm256_add_epi32(_mm256_madd_epi16(a, b), sum) },
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(self, from: *const i16) -> __m256i {
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(self, from: *const i8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_i16_pairs(self, from: *const i16) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut i16, a: __m256i) {
        unsafe { _mm256_storeu_si256(to.cast(), a) }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16, a: __m256) {
        unsafe {
            let wide = _mm256_cvtps_epi32(a);
            let narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
            _mm_storeu_si128(to.cast(), narrow);
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}
