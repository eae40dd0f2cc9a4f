//! NEON: four vectors of 4 outputs a panel; 6 rows take 24 of 32 registers.

use super::{Element, Weights};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::tile::Target;
use std::arch::aarch64::*;

/// How 16 stored weights become four vectors of f32.
trait Load {
    const BYTES: usize;
    /// Whether runs of them have scales.
    const SCALED: bool = Self::BYTES == 1;

    /// # Safety
    /// `step` points at 16 weights.
    unsafe fn load(step: *const u8) -> [float32x4_t; 4];
}

struct F32;
struct F16;
struct Bf16;
struct E4m3;
struct E5m2;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(step: *const u8) -> [float32x4_t; 4] {
        let step = step.cast::<f32>();
        // SAFETY: 64 bytes, by the duties of `load`.
        unsafe { [vld1q_f32(step), vld1q_f32(step.add(4)), vld1q_f32(step.add(8)), vld1q_f32(step.add(12))] }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(step: *const u8) -> [float32x4_t; 4] {
        // SAFETY: 32 bytes, by the duties of `load`.
        halves(unsafe { pair(step) })
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(step: *const u8) -> [float32x4_t; 4] {
        // SAFETY: 32 bytes, by the duties of `load`.
        let [a, b] = unsafe { pair(step) };
        let (a, b) = (vreinterpretq_u32_u16(a), vreinterpretq_u32_u16(b));
        let high = vdupq_n_u32(0xffff_0000);
        [
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(a)),
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(b)),
            vreinterpretq_f32_u32(vandq_u32(a, high)),
            vreinterpretq_f32_u32(vandq_u32(b, high)),
        ]
    }
}

impl Load for E4m3 {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(step: *const u8) -> [float32x4_t; 4] {
        // SAFETY: 16 bytes, by the duties of `load`.
        let bytes = unsafe { vld1q_s8(step.cast()) };
        let wide = [vshll_n_s8::<7>(vget_low_s8(bytes)), vshll_high_n_s8::<7>(bytes)];
        // The sign came along twice.
        halves(wide.map(|wide| vandq_u16(vreinterpretq_u16_s16(wide), vdupq_n_u16(!0x4000))))
    }
}

impl Load for E5m2 {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(step: *const u8) -> [float32x4_t; 4] {
        // SAFETY: 16 bytes, by the duties of `load`.
        let (zeros, bytes) = (vdupq_n_u8(0), unsafe { vld1q_u8(step) });
        halves([vreinterpretq_u16_u8(vzip1q_u8(zeros, bytes)), vreinterpretq_u16_u8(vzip2q_u8(zeros, bytes))])
    }
}

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn halves(halves: [uint16x8_t; 2]) -> [float32x4_t; 4] {
    let [a, b] = halves.map(|halves| vreinterpretq_f16_u16(halves));
    [vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)]
}

/// # Safety
/// `step` points at 32 bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pair(step: *const u8) -> [uint16x8_t; 2] {
    // SAFETY: by the caller's duties.
    unsafe { [vld1q_u16(step.cast()), vld1q_u16(step.add(16).cast())] }
}

// Sixteen chains hide the latency of the FMA, and four streams read memory better than one.
by_element_and_shape!("neon", tile, [1, 4] [1, 1] [2, 1] [3, 1] [4, 1] [5, 1] [6, 1]);

#[target_feature(enable = "neon")]
unsafe fn tile<L: Load, const ROWS: usize, const PANELS: usize>(
    weights: Weights<'_>,
    x: &[f32],
    out: Target,
    first: bool,
) {
    let mut acc = [[[vdupq_n_f32(0.0); 4]; PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' steps, panels and scales lie in their bytes, as
    // checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    *acc = F32::load(out.row(row, panel).as_ptr().cast());
                }
            }
        }
        let (mut step, mut ahead) = (weights.bytes.as_ptr(), weights.ahead);
        for x in x.as_chunks::<ROWS>().0 {
            for panel in 0..PANELS {
                if PANELS == 1 {
                    ahead.ask_line();
                }
                let w = L::load(step.add(panel * weights.panel_bytes));
                for (x, acc) in x.iter().zip(&mut acc) {
                    for (w, acc) in w.into_iter().zip(&mut acc[panel]) {
                        *acc = vfmaq_n_f32(*acc, w, *x);
                    }
                }
            }
            step = step.wrapping_add(PANEL * L::BYTES);
        }
        if L::SCALED
            && let Some(scales) = weights.scales
        {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    let scales = F32::load(scales.as_ptr().add(panel * weights.panel_bytes));
                    let mut sums = [vdupq_n_f32(0.0); 4];
                    if weights.sums {
                        sums = F32::load(out.row(row, panel).as_ptr().cast());
                    }
                    for (acc, (scale, sum)) in acc.iter_mut().zip(scales.into_iter().zip(sums)) {
                        *acc = vfmaq_f32(sum, *acc, scale);
                    }
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                let (sums, _) = out.row(row, panel).as_chunks_mut::<4>();
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    vst1q_f32(sums.as_mut_ptr(), *acc);
                }
            }
        }
    }
}
