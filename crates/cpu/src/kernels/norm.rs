//! Root-mean-square and layer norms.

use super::cut::cut;
use super::elementwise::add_part;
use super::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::{Centre, NormSpec};

/// What is multiplied and added after the division: a value for each column of a group, or for each column of a row; nothing for 1 and 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine<'a> {
    /// The weight.
    pub weight: Option<&'a [f32]>,
    /// The bias.
    pub bias: Option<&'a [f32]>,
}

impl<'a> Affine<'a> {
    /// The part for a group of `width` columns that begins at value `start` of the tensor.
    fn of_group(self, start: usize, width: usize) -> Self {
        let part = |vector: &'a [f32]| {
            let at = start % vector.len().max(1);
            &vector[at..at + width]
        };
        Affine { weight: self.weight.map(part), bias: self.bias.map(part) }
    }

    fn check(self, width: usize) {
        let fits = |vector: Option<&[f32]>| vector.is_none_or(|v| v.len().is_multiple_of(width) && !v.is_empty());
        assert!(
            fits(self.weight) && fits(self.bias),
            "a norm's weight has a value a column of a group of {width}, or of all"
        );
    }
}

/// `out = (x - c) / sqrt(mean((x - c)²) + eps) * (weight + offset) + bias` over groups of [`NormSpec::width`] neighbouring values.
///
/// The squares of a group are summed in 16 lanes, value `i` in lane `i mod 16`, and these by a fixed tree; so are the values for a mean.
///
/// # Panics
/// If weight or bias are no whole number of groups, `x` is none, or `out` has another length.
pub fn norm(team: &Team, isa: Isa, x: &[f32], affine: Affine<'_>, spec: &NormSpec, out: &mut [f32]) {
    let width = spec.width;
    assert_eq!(x.len(), out.len(), "a norm keeps the shape");
    if width == 0 {
        return;
    }
    affine.check(width);
    assert!(x.len().is_multiple_of(width), "{} values in groups of {width}", x.len());
    let (n, out) = (x.len(), Disjoint::new(out));
    cut(team, n / width, 1, n, |groups| {
        let part = groups.start * width..groups.end * width;
        // SAFETY: the groups of members do not overlap.
        let out = unsafe { out.slice(part.clone()) };
        dispatch(isa, Norm { x: &x[part.clone()], first: part.start, affine, spec, out });
    });
}

/// `sum += x` and `out = norm(sum)`, a row of some groups after the other: the norm meets the sum in the nearest cache. Equals
/// [`add`](super::elementwise::add) and then [`norm`] in every bit.
///
/// # Panics
/// As [`norm`], and if `sum` and `x` have different lengths.
pub fn add_norm(
    team: &Team,
    isa: Isa,
    sum: &mut [f32],
    x: &[f32],
    affine: Affine<'_>,
    spec: &NormSpec,
    out: &mut [f32],
) {
    let width = spec.width;
    assert!(sum.len() == x.len() && sum.len() == out.len(), "sum and norm keep the shape");
    if width == 0 {
        return;
    }
    affine.check(width);
    assert!(x.len().is_multiple_of(width), "{} values in groups of {width}", x.len());
    let (n, sum, out) = (x.len(), Disjoint::new(sum), Disjoint::new(out));
    cut(team, n / width, 1, 2 * n, |groups| {
        for group in groups {
            let part = group * width..(group + 1) * width;
            // SAFETY: the groups of members do not overlap.
            let (sum, out) = unsafe { (sum.slice(part.clone()), out.slice(part.clone())) };
            add_part(isa, sum, &x[part.clone()]);
            dispatch(isa, Norm { x: sum, first: part.start, affine, spec, out });
        }
    });
}

/// The sum of squares of each row of `cols` values: this rank's part of the mean of a row that is spread over ranks.
pub fn squares_of_rows(isa: Isa, x: &[f32], cols: usize, sums: &mut [f32]) {
    for (x, sum) in x.chunks_exact(cols.max(1)).zip(sums) {
        *sum = dispatch(isa, Squares { x });
    }
}

/// `out = x / sqrt(mean + eps) * (weight + offset)` for rows of `cols` values, whose mean squares `means` has.
///
/// # Panics
/// If the weight has another length than a row.
pub fn scaled_rows(x: &[f32], cols: usize, means: &[f32], weight: Option<&[f32]>, spec: &NormSpec, out: &mut [f32]) {
    assert!(weight.is_none_or(|weight| weight.len() == cols), "a value for each column");
    let rows = x.chunks_exact(cols.max(1)).zip(out.chunks_exact_mut(cols.max(1)));
    for ((x, out), mean) in rows.zip(means) {
        let inverse = 1.0 / (mean + spec.eps).sqrt();
        match weight {
            Some(weight) => {
                for ((x, weight), out) in x.iter().zip(weight).zip(out) {
                    *out = x * inverse * (weight + spec.offset);
                }
            }
            None => x.iter().zip(out).for_each(|(x, out)| *out = x * inverse),
        }
    }
}

struct Norm<'a> {
    x: &'a [f32],
    /// Where `x` begins in the tensor.
    first: usize,
    affine: Affine<'a>,
    spec: &'a NormSpec,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let &NormSpec { width, eps, offset, centre, .. } = self.spec;
        for (group, (x, out)) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)).enumerate() {
            let Affine { weight, bias } = self.affine.of_group(self.first + group * width, width);
            let one = Group { x, out, eps, offset };
            match (centre, weight, bias) {
                (Centre::Zero, Some(weight), None) => one.of_squares(zero, weight),
                _ => one.centred(zero, centre, weight.unwrap_or(&[]), bias.unwrap_or(&[])),
            }
        }
    }
}

/// One group to be normalised.
struct Group<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    eps: f32,
    offset: f32,
}

impl Group<'_> {
    /// By its root mean square: what most models have, in as few instructions as it takes.
    #[inline(always)]
    fn of_squares<L: Lanes>(self, zero: L, weight: &[f32]) {
        let mean = squares(zero, self.x) / self.x.len() as f32;
        let (inverse, offset) = (zero.splat(1.0 / (mean + self.eps).sqrt()), zero.splat(self.offset));
        let ((x, last_x), (weights, last_weights)) = (self.x.as_chunks(), weight.as_chunks::<LANES>());
        let (out, last_out) = self.out.as_chunks_mut();
        for ((x, weight), out) in x.iter().zip(weights).zip(out) {
            (zero.load(x) * inverse * (zero.load(weight) + offset)).store(out);
        }
        if !last_x.is_empty() {
            let weight = zero.load_part(last_weights) + offset;
            (zero.load_part(last_x) * inverse * weight).store_part(last_out);
        }
    }

    /// By its distance from a centre; an empty weight is ones, an empty bias zeros.
    #[inline(always)]
    fn centred<L: Lanes>(self, zero: L, centre: Centre, weight: &[f32], bias: &[f32]) {
        let width = self.x.len();
        let mean = match centre {
            Centre::Zero => 0.0,
            Centre::Mean => total(zero, self.x) / width as f32,
        };
        let centre = zero.splat(mean);
        for (x, out) in self.x.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            (zero.load_part(x) - centre).store_part(out);
        }
        let mean = squares(zero, self.out) / width as f32;
        let (inverse, offset) = (zero.splat(1.0 / (mean + self.eps).sqrt()), zero.splat(self.offset));
        for (i, out) in self.out.chunks_mut(LANES).enumerate() {
            let columns = i * LANES..i * LANES + out.len();
            let mut y = zero.load_part(out) * inverse;
            if let Some(weight) = weight.get(columns.clone()) {
                y = y * (zero.load_part(weight) + offset);
            }
            if let Some(bias) = bias.get(columns) {
                y = y + zero.load_part(bias);
            }
            y.store_part(out);
        }
    }
}

struct Squares<'a> {
    x: &'a [f32],
}

impl Kernel for Squares<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) -> f32 {
        squares(zero, self.x)
    }
}

/// The sum in 16 lanes.
#[inline(always)]
fn total<L: Lanes>(zero: L, x: &[f32]) -> f32 {
    let (mut even, mut odd) = (zero, zero);
    for pair in x.chunks(2 * LANES) {
        let (a, b) = pair.split_at(pair.len().min(LANES));
        even = even + zero.load_part(a);
        odd = odd + zero.load_part(b);
    }
    (even + odd).sum()
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
    use proptest::prelude::*;

    fn spec(width: usize, offset: f32) -> NormSpec {
        let (centre, eps) = (Centre::Zero, 1e-6);
        NormSpec { centre, weight: None, bias: None, width, eps, offset, spread: None }
    }

    fn of(weight: &[f32]) -> Affine<'_> {
        Affine { weight: Some(weight), bias: None }
    }

    fn run(threads: usize, isa: Isa, x: &[f32], weight: &[f32], offset: f32) -> Vec<f32> {
        let spec = spec(weight.len(), offset);
        let mut out = vec![f32::NAN; x.len()];
        norm(&Team::new(threads), isa, x, of(weight), &spec, &mut out);
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
                    let spec = spec(width, offset);
                    add_norm(&Team::new(threads), isa, &mut sum, &x, of(&weight), &spec, &mut normed);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_isa_has_the_bits_of_the_scalar_layer_norm(
            width in 1usize..100, groups in 1usize..4, rows in 0usize..5, by_row in any::<bool>(), biased in any::<bool>(),
        ) {
            let value = |i: usize| (i as f32 * 0.77).sin() * 3.0 + 1.0;
            let x: Vec<f32> = (0..rows * groups * width).map(value).collect();
            let vector: Vec<f32> = (0..if by_row { groups * width } else { width }).map(|i| value(i + 17)).collect();
            let affine = Affine { weight: Some(&vector), bias: biased.then_some(&vector) };
            let spec = NormSpec { centre: Centre::Mean, ..spec(width, 1.0) };
            let run = |isa, threads| {
                let mut out = vec![f32::NAN; x.len()];
                norm(&Team::new(threads), isa, &x, affine, &spec, &mut out);
                out
            };
            let scalar = run(Isa::Scalar, 1);
            for isa in Isa::available() {
                for threads in [1, 3] {
                    prop_assert!(run(isa, threads).iter().zip(&scalar).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
            }
            for (group, (x, got)) in x.chunks(width).zip(scalar.chunks(width)).enumerate() {
                let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / width as f64;
                for (i, (&x, &got)) in x.iter().zip(got).enumerate() {
                    let w = f64::from(vector[(group % groups * width + i) % vector.len()]);
                    let expected = (f64::from(x) - mean) / (variance + f64::from(1e-6f32)).sqrt() * (w + 1.0)
                        + if biased { w } else { 0.0 };
                    prop_assert!((f64::from(got) - expected).abs() <= 2e-5 * expected.abs().max(1.0), "{got} {expected}");
                }
            }
        }
    }
}
