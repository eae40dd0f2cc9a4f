//! Rotary position embedding.

use super::cut::cut;
use super::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};

/// Rotates each head of `x` `[T, heads * head_dim]` in place; `cos` and `sin` are `[T, rotary_dim / 2]`.
///
/// Value `i` of a head pairs with value `i + rotary_dim / 2`: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`, where the second
/// product is rounded and the first is not. Values from `rotary_dim` on stay.
///
/// # Panics
/// If `rotary_dim` is odd or above `head_dim`, or the lengths do not fit each other.
pub fn rope(team: &Team, isa: Isa, x: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize, rotary_dim: usize) {
    assert!(rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim, "{rotary_dim} rotated values of {head_dim}");
    assert_eq!(cos.len(), sin.len(), "each angle has a cosine and a sine");
    let half = rotary_dim / 2;
    if half == 0 || cos.is_empty() {
        return;
    }
    let rows = cos.len() / half;
    assert!(cos.len() == rows * half && x.len().is_multiple_of(rows), "{} values, {rows} rows", x.len());
    let width = x.len() / rows;
    assert!(width.is_multiple_of(head_dim), "rows of {width} values in heads of {head_dim}");
    let (n, x) = (x.len(), Disjoint::new(x));
    cut(team, rows, 1, n, |rows| {
        // SAFETY: the rows of members do not overlap.
        let x = unsafe { x.slice(rows.start * width..rows.end * width) };
        let angles = rows.start * half..rows.end * half;
        dispatch(isa, Rotate { x, width, head_dim, half, cos: &cos[angles.clone()], sin: &sin[angles] });
    });
}

struct Rotate<'a> {
    x: &'a mut [f32],
    width: usize,
    head_dim: usize,
    half: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        if self.width == 0 {
            return;
        }
        let angles = self.cos.chunks_exact(self.half).zip(self.sin.chunks_exact(self.half));
        for (row, (cos, sin)) in self.x.chunks_exact_mut(self.width).zip(angles) {
            for head in row.chunks_exact_mut(self.head_dim) {
                let (a, b) = head.split_at_mut(self.half);
                turn(zero, a, &mut b[..self.half], cos, sin);
            }
        }
    }
}

/// Turns the points `(a, b)`.
#[inline(always)]
fn turn<L: Lanes>(zero: L, a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    let ((a, last_a), (b, last_b)) = (a.as_chunks_mut::<LANES>(), b.as_chunks_mut::<LANES>());
    let ((cos, last_cos), (sin, last_sin)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x, y, c, s) = (zero.load(a), zero.load(b), zero.load(cos), zero.load(sin));
        x.mul_sub(c, y * s).store(a);
        y.mul_add(c, x * s).store(b);
    }
    if !last_a.is_empty() {
        let (x, y) = (zero.load_part(last_a), zero.load_part(last_b));
        let (c, s) = (zero.load_part(last_cos), zero.load_part(last_sin));
        x.mul_sub(c, y * s).store_part(last_a);
        y.mul_add(c, x * s).store_part(last_b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_isa_and_team_has_the_bits_of_the_formula(
            half in 0usize..70, more in 0usize..20, heads in 1usize..5, rows in 0usize..4, large in any::<bool>(),
        ) {
            let (rotary_dim, head_dim) = (2 * half, 2 * half + more);
            prop_assume!(head_dim > 0);
            let rows = if large { 32 * 1024 / (heads * head_dim) + rows } else { rows };
            let x: Vec<f32> = (0..rows * heads * head_dim).map(|i| (i as f32 * 0.3).sin()).collect();
            let (sin, cos): (Vec<f32>, Vec<f32>) = (0..rows * half).map(|i| (i as f32 * 1.1).sin_cos()).unzip();
            let mut expected = x.clone();
            for (h, head) in expected.chunks_exact_mut(head_dim).enumerate() {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    let (c, s) = (cos[h / heads * half + i], sin[h / heads * half + i]);
                    (head[i], head[i + half]) = (a.mul_add(c, -(b * s)), b.mul_add(c, a * s));
                }
            }
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let mut got = x.clone();
                    rope(&Team::new(threads), isa, &mut got, &cos, &sin, head_dim, rotary_dim);
                    prop_assert!(got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
            }
        }
    }
}
