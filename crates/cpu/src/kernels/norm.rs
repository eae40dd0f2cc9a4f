//! Root-mean-square norms.

use super::cut::cut;
use super::elementwise::add_part;
use super::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::NormSpec;

/// `out = x / sqrt(mean(x²) + eps) * (weight + offset)` over groups of `weight.len()` neighbouring values.
///
/// The squares of a group are summed in 16 lanes, value `i` in lane `i mod 16`, and these by a fixed tree.
///
/// # Panics
/// If `weight` has another length than [`NormSpec::width`], `x` is not a whole number of groups, or `out` has another length.
pub fn rms_norm(team: &Team, isa: Isa, x: &[f32], weight: &[f32], spec: &NormSpec, out: &mut [f32]) {
    let width = spec.width;
    assert_eq!(weight.len(), width, "a norm's weight has one value a column");
    assert_eq!(x.len(), out.len(), "a norm keeps the shape");
    if width == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(width), "{} values in groups of {width}", x.len());
    let (n, out) = (x.len(), Disjoint::new(out));
    cut(team, n / width, 1, n, |groups| {
        let part = groups.start * width..groups.end * width;
        // SAFETY: the groups of members do not overlap.
        let out = unsafe { out.slice(part.clone()) };
        dispatch(isa, Norm { x: &x[part], weight, eps: spec.eps, offset: spec.offset, out });
    });
}

/// `sum += x` and `out = norm(sum)`, a row of some groups after the other: the norm meets the sum in the nearest cache. Equals
/// [`add`](super::elementwise::add) and then [`rms_norm`] in every bit.
///
/// # Panics
/// As [`rms_norm`], and if `sum` and `x` have different lengths.
pub fn add_rms_norm(
    team: &Team,
    isa: Isa,
    sum: &mut [f32],
    x: &[f32],
    weight: &[f32],
    spec: &NormSpec,
    out: &mut [f32],
) {
    let width = spec.width;
    assert_eq!(weight.len(), width, "a norm's weight has one value a column");
    assert!(sum.len() == x.len() && sum.len() == out.len(), "sum and norm keep the shape");
    if width == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(width), "{} values in groups of {width}", x.len());
    let (n, sum, out) = (x.len(), Disjoint::new(sum), Disjoint::new(out));
    cut(team, n / width, 1, 2 * n, |groups| {
        for group in groups {
            let part = group * width..(group + 1) * width;
            // SAFETY: the groups of members do not overlap.
            let (sum, out) = unsafe { (sum.slice(part.clone()), out.slice(part.clone())) };
            add_part(isa, sum, &x[part]);
            dispatch(isa, Norm { x: sum, weight, eps: spec.eps, offset: spec.offset, out });
        }
    });
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    offset: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let width = self.weight.len();
        let (weights, last_weights) = self.weight.as_chunks::<LANES>();
        let offset = zero.splat(self.offset);
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mean = squares(zero, x) / width as f32;
            let inverse = zero.splat(1.0 / (mean + self.eps).sqrt());
            let (x, last_x) = x.as_chunks();
            let (out, last_out) = out.as_chunks_mut();
            for ((x, weight), out) in x.iter().zip(weights).zip(out) {
                (zero.load(x) * inverse * (zero.load(weight) + offset)).store(out);
            }
            if !last_x.is_empty() {
                let weight = zero.load_part(last_weights) + offset;
                (zero.load_part(last_x) * inverse * weight).store_part(last_out);
            }
        }
    }
}

/// The sum of squares in 16 lanes.
#[inline(always)]
fn squares<L: Lanes>(zero: L, x: &[f32]) -> f32 {
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (mut even, mut odd) = (zero, zero);
    for pair in pairs {
        let (pair, _) = pair.as_chunks::<LANES>();
        let (a, b) = (zero.load(&pair[0]), zero.load(&pair[1]));
        even = a.mul_add(a, even);
        odd = b.mul_add(b, odd);
    }
    let (a, b) = rest.split_at(rest.len().min(LANES));
    let (a, b) = (zero.load_part(a), zero.load_part(b));
    (a.mul_add(a, even) + b.mul_add(b, odd)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise::add;
    use nxd_ops::Weight;
    use proptest::prelude::*;

    fn run(threads: usize, isa: Isa, x: &[f32], weight: &[f32], offset: f32) -> Vec<f32> {
        let spec = NormSpec { weight: Weight(0), width: weight.len(), eps: 1e-6, offset };
        let mut out = vec![f32::NAN; x.len()];
        rms_norm(&Team::new(threads), isa, x, weight, &spec, &mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_isa_and_team_has_the_bits_of_the_scalar_norm(
            width in 1usize..200, rows in 0usize..5, offset in 0u8..2, large in any::<bool>(), seed in any::<u32>(),
        ) {
            let rows = if large { 32 * 1024 / width + rows } else { rows };
            let value = |i: usize| ((i as f32 + seed as f32 * 1e-4) * 0.77).sin() * 3.0;
            let x: Vec<f32> = (0..rows * width).map(value).collect();
            let weight: Vec<f32> = (0..width).map(|i| value(i + 17)).collect();
            let offset = f32::from(offset);
            let scalar = run(1, Isa::Scalar, &x, &weight, offset);
            let equal = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            let residual: Vec<f32> = (0..x.len()).map(|i| value(i + 5)).collect();
            let mut summed = residual.clone();
            add(&Team::new(1), Isa::Scalar, &mut summed, &x);
            let scalar_of_sum = run(1, Isa::Scalar, &summed, &weight, offset);
            for isa in Isa::available() {
                for threads in [1, 3] {
                    prop_assert!(equal(&run(threads, isa, &x, &weight, offset), &scalar));
                    let (mut sum, mut normed) = (residual.clone(), vec![f32::NAN; x.len()]);
                    let spec = NormSpec { weight: Weight(0), width, eps: 1e-6, offset };
                    add_rms_norm(&Team::new(threads), isa, &mut sum, &x, &weight, &spec, &mut normed);
                    prop_assert!(equal(&sum, &summed) && equal(&normed, &scalar_of_sum));
                }
            }
            for (row, got) in x.chunks(width).zip(scalar.chunks(width)) {
                let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / width as f64;
                for ((&x, &w), &got) in row.iter().zip(&weight).zip(got) {
                    let expected = f64::from(x) / (mean + f64::from(1e-6f32)).sqrt() * (f64::from(w) + f64::from(offset));
                    prop_assert!((f64::from(got) - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{got} {expected}");
                }
            }
        }
    }
}
