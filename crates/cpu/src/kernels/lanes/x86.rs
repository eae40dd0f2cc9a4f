//! [`Lanes`] with AVX2, FMA and F16C, and the same with the registers of AVX-512.
//!
//! AVX-512 serves with eight lanes as well: it has twice the registers, and a product takes its broadcast from memory. Where a product has
//! vectors enough it takes them two at a time ([`Zmm`]). CPUs that split 64-byte vectors (Zen 4) compute no more by that, others twice as much.

use super::{Floats, Kernel, LANES, Lanes, Wide};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

/// Eight lanes in one of so many registers. The field is private and the first value is made by [`run_avx2`] or [`run_avx512`]: who
/// holds one runs on a CPU that has the instructions, which is the safety of every block below.
#[derive(Clone, Copy)]
pub(super) struct Ymm<const REGISTERS: usize>(__m256);

/// Two vectors with AVX-512. It is made of two [`Ymm`] in one of 32 registers, which are the proof that the CPU has it.
#[derive(Clone, Copy)]
pub(super) struct Zmm<const REGISTERS: usize>(__m512);

impl<const REGISTERS: usize> Wide<Ymm<REGISTERS>> for Zmm<REGISTERS> {
    const VECTORS: usize = 2;

    #[inline(always)]
    fn of(first: Ymm<REGISTERS>, second: Ymm<REGISTERS>) -> Self {
        assert!(REGISTERS == 32, "AVX2 has no such vectors");
        // SAFETY: a `Ymm` of AVX-512 exists.
        Zmm(unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(first.0), second.0) })
    }
    #[inline(always)]
    fn vector(self, index: usize) -> Ymm<REGISTERS> {
        // SAFETY: a `Zmm` exists.
        Ymm(unsafe { if index == 0 { _mm512_castps512_ps256(self.0) } else { _mm512_extractf32x8_ps::<1>(self.0) } })
    }
}

/// Runs `kernel`, compiled with these instructions.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Ymm::<16>(_mm256_setzero_ps()))
}

/// Runs `kernel`, compiled with these instructions.
///
/// # Safety
/// The CPU has AVX2, FMA, F16C and AVX-512 F, BW, DQ and VL.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Ymm::<32>(_mm256_setzero_ps()))
}

/// An operator of a vector.
macro_rules! operator {
    ($name:ident, $method:ident, $vector:ident, $instruction:ident) => {
        impl<const REGISTERS: usize> $name for $vector<REGISTERS> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: a vector of this kind exists.
                $vector(unsafe { $instruction(self.0, other.0) })
            }
        }
    };
}
operator!(Add, add, Ymm, _mm256_add_ps);
operator!(Sub, sub, Ymm, _mm256_sub_ps);
operator!(Mul, mul, Ymm, _mm256_mul_ps);
operator!(Div, div, Ymm, _mm256_div_ps);
operator!(Add, add, Zmm, _mm512_add_ps);
operator!(Sub, sub, Zmm, _mm512_sub_ps);
operator!(Mul, mul, Zmm, _mm512_mul_ps);
operator!(Div, div, Zmm, _mm512_div_ps);

impl<const REGISTERS: usize> Floats for Ymm<REGISTERS> {
    #[inline(always)]
    fn mul_sub(self, by: Self, minus: Self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_fmsub_ps(self.0, by.0, minus.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_fmadd_ps(self.0, by.0, plus.0) })
    }
    #[inline(always)]
    fn sub_from(self, by: Self, from: Self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_fnmadd_ps(self.0, by.0, from.0) })
    }
    #[inline(always)]
    fn exp2_shifted(self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(self.0))) })
    }
    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_blendv_ps(otherwise.0, then.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0)) })
    }
}

impl<const REGISTERS: usize> Floats for Zmm<REGISTERS> {
    #[inline(always)]
    fn mul_sub(self, by: Self, minus: Self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_fmsub_ps(self.0, by.0, minus.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_abs_ps(self.0) })
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_fmadd_ps(self.0, by.0, plus.0) })
    }
    #[inline(always)]
    fn sub_from(self, by: Self, from: Self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_fnmadd_ps(self.0, by.0, from.0) })
    }
    #[inline(always)]
    fn exp2_shifted(self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self.0))) })
    }
    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: a `Zmm` exists.
        Zmm(unsafe { _mm512_mask_mov_ps(otherwise.0, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0), then.0) })
    }
}

impl<const REGISTERS: usize> Lanes for Ymm<REGISTERS> {
    const ROWS: usize = if REGISTERS == 32 { 12 } else { 6 };

    /// With 16 registers a type without values.
    type Wide = Zmm<REGISTERS>;

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a `Ymm` exists.
        unsafe { if const { REGISTERS == 32 } { run_avx512(kernel) } else { run_avx2(kernel) } }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self {
        // SAFETY: a `Ymm` exists; the reference covers 32 bytes.
        Ymm(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: a `Ymm` exists; the reference covers 32 bytes.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> Self {
        // SAFETY: a `Ymm` exists; the reference covers 16 bytes.
        Ymm(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) })
    }
    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES]) {
        // SAFETY: a `Ymm` exists; the reference covers 16 bytes.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm_storeu_si128(to.as_mut_ptr().cast(), halves);
        }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self {
        // SAFETY: a `Ymm` exists; the reference covers 16 bytes.
        Ymm(unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Self {
        // SAFETY: a `Ymm` exists; the reference covers 8 bytes.
        Ymm(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast()))) })
    }
    #[inline(always)]
    fn load_e4m3(self, from: &[u8; LANES]) -> Self {
        // SAFETY: a `Ymm` exists; the reference covers 8 bytes.
        Ymm(unsafe {
            let wide = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(_mm_loadl_epi64(from.as_ptr().cast())));
            // The sign came along twice.
            _mm256_cvtph_ps(_mm_and_si128(wide, _mm_set1_epi16(!0x4000)))
        })
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: a `Ymm` exists.
        Ymm(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: a `Ymm` exists.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn top(self) -> f32 {
        // SAFETY: a `Ymm` exists.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
