//! Arithmetic at its fastest: chains of one instruction sequence on registers, as many as hide its latency, and no memory.
#![allow(unsafe_code, reason = "instructions of one instruction set, run where the processor has it")]

use nxd_cpu::Isa;
use std::hint::black_box;

/// Steps of a round. Enough to make the clock's cost nothing.
const STEPS: usize = 20_000;
/// Independent accumulators: two a cycle, latencies of 4 or 5 cycles.
const CHAINS: usize = 10;

/// One instruction sequence.
pub(crate) struct Peak {
    /// The name in JSON.
    pub(crate) key: &'static str,
    pub(crate) numbers: &'static str,
    pub(crate) instructions: &'static str,
    isa: Isa,
    /// Multiplications and additions of one chain's step.
    per_step: usize,
    /// A round. Only where `isa` is available.
    round: unsafe fn() -> u64,
}

impl Peak {
    /// Those that this machine can run.
    pub(crate) fn available() -> impl Iterator<Item = &'static Peak> {
        PEAKS.iter().filter(|peak| peak.isa.is_available())
    }

    /// Operations of a round.
    pub(crate) fn operations(&self) -> f64 {
        (STEPS * CHAINS * self.per_step) as f64
    }

    /// Runs a round; the value only keeps it alive.
    pub(crate) fn run(&self) -> u64 {
        assert!(self.isa.is_available(), "{} is not there", self.isa);
        // SAFETY: the processor has the instructions, by the line above.
        unsafe { (self.round)() }
    }
}

/// Sends a value through an empty `asm!`. ARM's registers have their width in their names.
macro_rules! opaque {
    (vreg, $x:ident) => { opaque!("/* {0:v} */", vreg, $x) };
    ($register:ident, $x:ident) => { opaque!("/* {0} */", $register, $x) };
    ($text:literal, $register:ident, $x:ident) => {
        // SAFETY: no instruction at all.
        unsafe { std::arch::asm!($text, inout($register) $x, options(nomem, nostack, preserves_flags)) }
    };
}

/// A round of `$step(acc, x, y)` on all chains. `x` goes through an empty `asm!`, so that a product of constants is not taken out
/// of the loop; the accumulators do not, as that would order the chains.
macro_rules! round {
    ($name:ident, $features:literal, $register:ident, $splat:expr, ($acc:ident, $x:ident, $y:ident) => $step:expr, $value:expr) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name() -> u64 {
            let mut chains = [$splat(black_box(0)); CHAINS];
            let (x, $y) = ($splat(black_box(3)), $splat(black_box(1)));
            for _ in 0..STEPS {
                for acc in &mut chains {
                    let (mut $x, $acc) = (x, *acc);
                    opaque!($register, $x);
                    *acc = $step;
                }
            }
            chains.into_iter().map($value).fold(0, |all, value| all ^ value)
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, STEPS, black_box};
    use std::arch::x86_64::*;

    round!(fma_avx2, "avx2,fma", ymm_reg, |v: i8| _mm256_set1_ps(f32::from(v)), (acc, x, y) => _mm256_fmadd_ps(x, y, acc),
        |acc| u64::from(_mm256_cvtss_f32(acc).to_bits()));
    round!(maddubs_i32_avx2, "avx2", ymm_reg, |v| _mm256_set1_epi8(v), (acc, x, y) => {
            _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), y))
        }, |acc| _mm256_extract_epi64::<0>(acc).cast_unsigned());
    round!(maddubs_i16_avx2, "avx2", ymm_reg, |v| _mm256_set1_epi8(v), (acc, x, y) => {
            _mm256_add_epi16(acc, _mm256_maddubs_epi16(x, y))
        }, |acc| _mm256_extract_epi64::<0>(acc).cast_unsigned());
    // Each factor is opaque, as the products of a sum would be one product taken several times.
    round!(bytes_avx2, "avx2,fma", ymm_reg, |v| _mm256_set1_epi8(v), (acc, x, y) => {
            let (dot, _) = (0..8).fold((_mm256_setzero_si256(), x), |(dot, mut x), _| {
                opaque!(ymm_reg, x);
                (_mm256_add_epi16(dot, _mm256_maddubs_epi16(x, y)), x)
            });
            let scale = _mm256_mul_ps(_mm256_castsi256_ps(x), _mm256_set1_ps(2.0));
            let dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(dot, y));
            _mm256_castps_si256(_mm256_fmadd_ps(scale, dot, _mm256_castsi256_ps(acc)))
        }, |acc| _mm256_extract_epi64::<0>(acc).cast_unsigned());
    round!(signed_avx2, "avx2,fma", ymm_reg, |v| _mm256_set1_epi8(v), (acc, x, y) => {
            let (dot, _) = (0..8).fold((_mm256_setzero_si256(), x), |(dot, mut x), _| {
                opaque!(ymm_reg, x);
                let products = _mm256_maddubs_epi16(y, _mm256_sign_epi8(x, y));
                (_mm256_add_epi32(dot, _mm256_madd_epi16(products, y)), x)
            });
            let scale = _mm256_mul_ps(_mm256_castsi256_ps(x), _mm256_set1_ps(2.0));
            _mm256_castps_si256(_mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(acc)))
        }, |acc| _mm256_extract_epi64::<0>(acc).cast_unsigned());
    round!(words_avx2, "avx2,fma", ymm_reg, |v| _mm256_set1_epi8(v), (acc, x, y) => {
            let (dot, _) = (0..16).fold((_mm256_setzero_si256(), x), |(dot, mut x), _| {
                opaque!(ymm_reg, x);
                (_mm256_add_epi32(dot, _mm256_madd_epi16(x, y)), x)
            });
            let (scale, dot) = (_mm256_castsi256_ps(x), _mm256_cvtepi32_ps(dot));
            _mm256_castps_si256(_mm256_fmadd_ps(scale, dot, _mm256_castsi256_ps(acc)))
        }, |acc| _mm256_extract_epi64::<0>(acc).cast_unsigned());

    round!(fma_avx512, "avx512f", zmm_reg, |v: i8| _mm512_set1_ps(f32::from(v)), (acc, x, y) => _mm512_fmadd_ps(x, y, acc),
        |acc| u64::from(_mm512_cvtss_f32(acc).to_bits()));
    round!(dpbusd_avx512, "avx512f,avx512vnni", zmm_reg, |v: i8| _mm512_set1_epi8(v), (acc, x, y) => _mm512_dpbusd_epi32(acc, x, y),
        |acc| u64::from(_mm512_cvtsi512_si32(acc).cast_unsigned()));
    round!(exact_avx512, "avx512f,avx512vnni", zmm_reg, |v: i8| _mm512_set1_epi8(v), (acc, x, y) => {
            let dot = (0..8).fold(_mm512_setzero_si512(), |dot, _| _mm512_dpbusd_epi32(dot, x, y));
            let scale = _mm512_mul_ps(_mm512_castsi512_ps(x), _mm512_set1_ps(2.0));
            _mm512_castps_si512(_mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), _mm512_castsi512_ps(acc)))
        }, |acc| u64::from(_mm512_cvtsi512_si32(acc).cast_unsigned()));
    round!(words_avx512, "avx512f,avx512vnni", zmm_reg, |v: i8| _mm512_set1_epi8(v), (acc, x, y) => {
            let dot = (0..16).fold(_mm512_setzero_si512(), |dot, _| _mm512_dpwssd_epi32(dot, x, y));
            _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_cvtepi32_ps(dot), _mm512_castsi512_ps(acc)))
        }, |acc| u64::from(_mm512_cvtsi512_si32(acc).cast_unsigned()));
}

/// Tiles of 16 rows of 32 values by 16 outputs: their product goes through memory to vectors, which scale and add it.
#[cfg(target_arch = "x86_64")]
mod amx {
    use super::{CHAINS, STEPS, black_box};
    use std::arch::asm;
    use std::arch::x86_64::*;

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        reserved: [u8; 15],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    #[repr(align(64))]
    struct Sums([[i32; 16]; 16]);

    #[target_feature(enable = "avx512f")]
    pub(super) fn exact() -> u64 {
        let mut config = Config { palette: 1, reserved: [0; 15], bytes: [0; 16], rows: [0; 16] };
        for (tile, bytes, rows) in [(0, 64, 16), (1, 64, 16), (4, 32, 16), (6, 64, 8)] {
            (config.bytes[tile], config.rows[tile]) = (bytes, rows);
        }
        let mut sums = [const { Sums([[1; 16]; 16]) }; 2];
        let (mut acc, own) = ([_mm512_setzero_ps(); 16], _mm512_set1_ps(black_box(0.5)));
        let scales = black_box([0.25_f32; 16]);
        // SAFETY: the instructions are there, or the round is not run; tiles are stored to 16 rows of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", "tilezero tmm4", "tilezero tmm6", in(reg) &raw const config, options(nostack, readonly));
            macro_rules! step {
                ($tile:literal, $to:expr, $from:expr) => {
                    asm!(concat!("tilezero ", $tile), concat!("tdpbssd ", $tile, ", tmm4, tmm6"), options(nostack, nomem));
                    for ((acc, sums), scale) in acc.iter_mut().zip(&$from.0).zip(&scales) {
                        let sums = _mm512_cvtepi32_ps(_mm512_load_si512(sums.as_ptr().cast()));
                        *acc = _mm512_fmadd_ps(_mm512_mul_ps(own, _mm512_set1_ps(*scale)), sums, *acc);
                    }
                    asm!(concat!("tilestored [{} + {}], ", $tile), in(reg) $to.0.as_mut_ptr(), in(reg) 64_usize, options(nostack));
                };
            }
            for _ in 0..STEPS * CHAINS / 2 {
                step!("tmm0", sums[0], sums[1]);
                step!("tmm1", sums[1], sums[0]);
            }
            asm!("tilerelease", options(nostack, nomem));
        }
        acc.into_iter().fold(0, |all, acc| all ^ u64::from(_mm512_cvtss_f32(acc).to_bits()))
    }
}

#[cfg(target_arch = "x86_64")]
static PEAKS: [Peak; 11] = [
    Peak {
        key: "f32_avx2",
        numbers: "f32",
        instructions: "AVX2 fmadd",
        isa: Isa::Avx2,
        per_step: 2 * 8,
        round: x86::fma_avx2,
    },
    Peak {
        key: "int8_avx2",
        numbers: "int8",
        instructions: "AVX2 maddubs, madd, add",
        isa: Isa::Avx2,
        per_step: 2 * 32,
        round: x86::maddubs_i32_avx2,
    },
    Peak {
        key: "int8_avx2_i16",
        numbers: "int8",
        instructions: "AVX2 maddubs, add in 16 bits",
        isa: Isa::Avx2,
        per_step: 2 * 32,
        round: x86::maddubs_i16_avx2,
    },
    // 32 values of K have one order of float operations after their dot products: a scale, a conversion, a sum.
    Peak {
        key: "int8_exact_avx2",
        numbers: "int8",
        instructions: "AVX2 maddubs, 4 bits, scaled and added each 32",
        isa: Isa::Avx2,
        per_step: 8 * 2 * 32,
        round: x86::bytes_avx2,
    },
    Peak {
        key: "int8_signed_exact_avx2",
        numbers: "int8",
        instructions: "AVX2 sign, maddubs, madd, 8 bits, scaled and added each 32",
        isa: Isa::Avx2,
        per_step: 8 * 2 * 32,
        round: x86::signed_avx2,
    },
    Peak {
        key: "int16_exact_avx2",
        numbers: "int16",
        instructions: "AVX2 madd, added each 32",
        isa: Isa::Avx2,
        per_step: 16 * 2 * 16,
        round: x86::words_avx2,
    },
    Peak {
        key: "f32_avx512",
        numbers: "f32",
        instructions: "AVX-512 fmadd",
        isa: Isa::Avx512,
        per_step: 2 * 16,
        round: x86::fma_avx512,
    },
    Peak {
        key: "int8_avx512",
        numbers: "int8",
        instructions: "AVX-512 VNNI dpbusd",
        isa: Isa::Avx512,
        per_step: 2 * 64,
        round: x86::dpbusd_avx512,
    },
    Peak {
        key: "int8_exact_avx512",
        numbers: "int8",
        instructions: "AVX-512 VNNI dpbusd, scaled and added each 32",
        isa: Isa::Avx512,
        per_step: 8 * 2 * 64,
        round: x86::exact_avx512,
    },
    Peak {
        key: "int8_exact_amx",
        numbers: "int8",
        instructions: "AMX tdpbssd, scaled and added each 32",
        isa: Isa::Amx,
        per_step: 2 * 16 * 16 * 32,
        round: amx::exact,
    },
    Peak {
        key: "int16_exact_avx512",
        numbers: "int16",
        instructions: "AVX-512 VNNI dpwssd, added each 32",
        isa: Isa::Avx512,
        per_step: 16 * 2 * 32,
        round: x86::words_avx512,
    },
];

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{CHAINS, STEPS, black_box};
    use std::arch::aarch64::*;

    round!(fma, "neon", vreg, |v: i8| vdupq_n_f32(f32::from(v)), (acc, x, y) => vfmaq_f32(acc, x, y),
        |acc| u64::from(vgetq_lane_f32::<0>(acc).to_bits()));
    round!(mlal, "neon", vreg, |v: i8| vdupq_n_s8(v), (acc, x, y) => {
            vreinterpretq_s8_s16(vmlal_s8(vreinterpretq_s16_s8(acc), vget_low_s8(x), vget_low_s8(y)))
        }, |acc| vgetq_lane_u64::<0>(vreinterpretq_u64_s8(acc)));
    round!(dot, "neon,dotprod", vreg, |v: i8| vreinterpretq_s32_s8(vdupq_n_s8(v)), (acc, x, y) => sdot(acc, x, y),
        |acc| vgetq_lane_u64::<0>(vreinterpretq_u64_s32(acc)));

    /// The intrinsic is not stable.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn sdot(acc: int32x4_t, x: int32x4_t, y: int32x4_t) -> int32x4_t {
        let mut sum = acc;
        // SAFETY: the instruction is there, by the line above, and touches registers alone.
        unsafe {
            std::arch::asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) x, in(vreg) y,
                options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }
}

#[cfg(target_arch = "aarch64")]
static PEAKS: [Peak; 3] = [
    Peak {
        key: "f32_neon",
        numbers: "f32",
        instructions: "NEON fmla",
        isa: Isa::Neon,
        per_step: 2 * 4,
        round: neon::fma,
    },
    Peak {
        key: "int8_neon_i16",
        numbers: "int8",
        instructions: "NEON smlal in 16 bits",
        isa: Isa::Neon,
        per_step: 2 * 8,
        round: neon::mlal,
    },
    Peak {
        key: "int8_neon_dot",
        numbers: "int8",
        instructions: "NEON sdot",
        isa: Isa::NeonDot,
        per_step: 2 * 16,
        round: neon::dot,
    },
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static PEAKS: [Peak; 0] = [];
