//! K-quants: each group's scale (and minimum) is fitted by weighted least squares over several trial grids, then all groups' scales are
//! rounded to multiples of one number, and the integers are chosen anew for what the scales became.
//!
//! Source: `make_qkx2_quants`, `make_qx_quants` and `quantize_row_q*_K_ref` of `ggml-quants.c` in llama.cpp, for grids and weights.

use super::{extreme, nearest};
use half::f16;

/// Groups whose values are all below this are taken for zeros.
const NOTHING: f32 = 1e-15;

/// 8 groups of 32 values of 4 bits; scales and minima of 6 bits.
pub(super) fn q4_k(values: &[f32; 256], bytes: &mut [u8; 144]) {
    const LAST: f32 = 15.0;
    const LAST_SCALE: f32 = 63.0;
    let groups = values.as_chunks::<32>().0;
    let mut lines = [Line::default(); 8];
    for (line, group) in lines.iter_mut().zip(groups) {
        *line = Line::through(group, LAST);
    }
    let greatest = |part: fn(&Line) -> f32| lines.iter().map(part).fold(0.0, f32::max);
    let (scale, depth) = (greatest(|line| line.scale), greatest(|line| line.depth));
    let multiple = |value: f32, inverse: f32| nearest(inverse * value).min(LAST_SCALE) as u8;
    let over = |greatest: f32| if greatest > 0.0 { LAST_SCALE / greatest } else { 0.0 };
    let (of_scale, of_depth) = (over(scale), over(depth));
    let (scale, depth) = (f16::from_f32(scale / LAST_SCALE), f16::from_f32(depth / LAST_SCALE));
    let (mut scales, mut depths, mut quants) = ([0; 8], [0; 8], [0; 256]);
    for (i, line) in lines.iter().enumerate() {
        (scales[i], depths[i]) = (multiple(line.scale, of_scale), multiple(line.depth, of_depth));
        let (scale, depth) = (scale.to_f32() * f32::from(scales[i]), depth.to_f32() * f32::from(depths[i]));
        for (quant, value) in quants[32 * i..].iter_mut().zip(&groups[i]) {
            *quant = if scale == 0.0 { 0 } else { nearest(((value + depth) / scale).clamp(0.0, LAST)) as u8 };
        }
    }
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    bytes[2..4].copy_from_slice(&depth.to_le_bytes());
    bytes[4..16].copy_from_slice(&six_bits(&scales, &depths));
    for (out, quants) in bytes[16..].as_chunks_mut::<32>().0.iter_mut().zip(quants.as_chunks::<64>().0) {
        pair_nibbles(quants, out);
    }
}

/// 16 groups of 16 values of 6 bits around 32; scales of 8 bits.
pub(super) fn q6_k(values: &[f32; 256], bytes: &mut [u8; 210]) {
    let groups = values.as_chunks::<16>().0;
    let mut fitted = [0.0; 16];
    for (scale, group) in fitted.iter_mut().zip(groups) {
        *scale = scale_of(group, 32.0);
    }
    let greatest = extreme(&fitted);
    if greatest.abs() < NOTHING {
        bytes.fill(0);
        return;
    }
    let of_scale = -128.0 / greatest;
    let scale = f16::from_f32(1.0 / of_scale);
    let (mut scales, mut quants) = ([0_i8; 16], [0_u8; 256]);
    for (i, fitted) in fitted.iter().enumerate() {
        scales[i] = nearest(of_scale * fitted).min(127.0) as i8;
        let scale = scale.to_f32() * f32::from(scales[i]);
        for (quant, value) in quants[16 * i..].iter_mut().zip(&groups[i]) {
            if scale != 0.0 {
                *quant = (nearest((value / scale).clamp(-32.0, 31.0)) + 32.0) as u8;
            }
        }
    }
    let (low, rest) = bytes.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    let halves = low.as_chunks_mut::<64>().0.iter_mut().zip(high.as_chunks_mut::<32>().0);
    for (quants, (low, high)) in quants.as_chunks::<128>().0.iter().zip(halves) {
        pair_nibbles(quants, low);
        for (k, out) in high.iter_mut().enumerate() {
            *out = (0..4).fold(0, |bits, i| bits | (quants[32 * i + k] >> 4) << (2 * i));
        }
    }
    rest.iter_mut().zip(scales).for_each(|(out, scale)| *out = scale.cast_unsigned());
    rest[16..].copy_from_slice(&scale.to_le_bytes());
}

/// What a group's integers stand for: `scale * q - depth`.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    depth: f32,
}

impl Line {
    /// The best of 22 for `values` and integers from 0 to `last`; the greater a value, the more its error counts.
    fn through(values: &[f32; 32], last: f32) -> Line {
        let squares: f32 = values.iter().map(|value| value * value).sum();
        let typical = (squares / 32.0).sqrt();
        let weights = values.map(|value| typical + value.abs());
        let (mut low, mut high) = (values[0], values[0]);
        let (mut sum_w, mut sum_x) = (0.0, 0.0);
        for (&x, w) in values.iter().zip(weights) {
            (low, high) = (low.min(x), high.max(x));
            sum_w += w;
            sum_x += w * x;
        }
        let low = low.min(0.0);
        if high <= low {
            return Line { scale: 0.0, depth: -low };
        }
        let error = |scale: f32, low: f32, quants: &[f32; 32]| {
            let errors = values.iter().zip(weights).zip(quants).map(|((x, w), q)| {
                let off = scale * q + low - x;
                w * off * off
            });
            errors.sum::<f32>()
        };
        let on_grid = |inverse: f32| values.map(|x| nearest((inverse * (x - low)).clamp(0.0, last)));
        let inverse = last / (high - low);
        let mut best = (1.0 / inverse, low);
        let mut least = error(best.0, best.1, &on_grid(inverse));
        for step in 0..=20_u8 {
            let quants = on_grid((-1.0 + 0.1 * f32::from(step) + last) / (high - low));
            let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0, 0.0, 0.0);
            for ((x, w), q) in values.iter().zip(weights).zip(quants) {
                sum_q += w * q;
                sum_qq += w * q * q;
                sum_xq += w * q * x;
            }
            let determinant = sum_w * sum_qq - sum_q * sum_q;
            if determinant <= 0.0 {
                continue;
            }
            let mut scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
            let mut low = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
            // Minima are taken off and cannot add.
            if low > 0.0 {
                (scale, low) = (sum_xq / sum_qq, 0.0);
            }
            let error = error(scale, low, &quants);
            if error < least {
                (least, best) = (error, (scale, low));
            }
        }
        Line { scale: best.0, depth: -best.1 }
    }
}

/// The best of 19 scales for integers from `-middle` to below `middle`; errors count by the square of their value.
fn scale_of(values: &[f32; 16], middle: f32) -> f32 {
    let extreme = extreme(values);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut sum_xq, mut sum_qq) = (0.0, 0.0);
        for x in values {
            let (q, w) = (nearest((inverse * x).clamp(-middle, middle - 1.0)), x * x);
            sum_xq += w * x * q;
            sum_qq += w * q * q;
        }
        (sum_xq, sum_qq)
    };
    let (sum_xq, sum_qq) = sums(-middle / extreme);
    let mut scale = if sum_qq == 0.0 { 0.0 } else { sum_xq / sum_qq };
    let mut best = scale * sum_xq;
    for step in (-9_i8..=9).filter(|&step| step != 0) {
        let (sum_xq, sum_qq) = sums(-(middle + 0.1 * f32::from(step)) / extreme);
        if sum_qq > 0.0 && sum_xq * sum_xq > best * sum_qq {
            scale = sum_xq / sum_qq;
            best = scale * sum_xq;
        }
    }
    scale
}

/// Eight scales and eight minima of 6 bits in 12 bytes, as the reader of blocks has them.
fn six_bits(scales: &[u8; 8], depths: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = depths[i] | depths[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | depths[i + 4] << 4;
    }
    packed
}

/// Low nibbles of the first half of `quants` below those of the second.
fn pair_nibbles(quants: &[u8], out: &mut [u8]) {
    let (first, second) = quants.split_at(out.len());
    for (out, (low, high)) in out.iter_mut().zip(first.iter().zip(second)) {
        *out = low & 15 | high << 4;
    }
}
