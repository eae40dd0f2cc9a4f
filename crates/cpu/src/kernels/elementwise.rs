//! Sums and products of single values. Each is one IEEE operation, so every instruction set has the same bits.

use super::cut::cut;
use super::lanes::{Kernel, Lanes, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};

/// Values of a cache line.
const LINE: usize = 16;

/// `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add(team: &Team, isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "both summands have the same shape");
    let (n, x) = (x.len(), Disjoint::new(x));
    cut(team, n, LINE, n, |part| {
        // SAFETY: the parts of members do not overlap.
        let x = unsafe { x.slice(part.clone()) };
        add_part(isa, x, &y[part]);
    });
}

/// As [`add`], on the thread that calls.
#[inline]
pub(super) fn add_part(isa: Isa, x: &mut [f32], y: &[f32]) {
    dispatch(isa, Add { x, y });
}

/// `x += bias` for every row of `bias.len()` values.
///
/// # Panics
/// If `x` is not a whole number of rows.
pub fn bias(team: &Team, isa: Isa, x: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    if width == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(width), "{} values in rows of {width}", x.len());
    let (n, x) = (x.len(), Disjoint::new(x));
    cut(team, n / width, 1, n, |rows| {
        // SAFETY: the rows of members do not overlap.
        let x = unsafe { x.slice(rows.start * width..rows.end * width) };
        for x in x.chunks_exact_mut(width) {
            dispatch(isa, Add { x, y: bias });
        }
    });
}

/// `x *= factor`.
pub fn scale(team: &Team, isa: Isa, x: &mut [f32], factor: f32) {
    let (n, x) = (x.len(), Disjoint::new(x));
    cut(team, n, LINE, n, |part| {
        // SAFETY: the parts of members do not overlap.
        dispatch(isa, Scale { x: unsafe { x.slice(part) }, factor });
    });
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _zero: L) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _zero: L) {
        for x in self.x {
            *x *= self.factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_are_those_of_single_values_for_any_length_and_team() {
        for threads in [1, 3] {
            let team = Team::new(threads);
            for isa in Isa::available() {
                for n in [0, 1, 7, 8, 9, 64, 100_003] {
                    let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
                    let y: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
                    let mut sum = x.clone();
                    add(&team, isa, &mut sum, &y);
                    assert!(sum.iter().zip(&x).zip(&y).all(|((s, x), y)| s.to_bits() == (x + y).to_bits()));
                    let mut product = x.clone();
                    scale(&team, isa, &mut product, 1.7);
                    assert!(product.iter().zip(&x).all(|(p, x)| p.to_bits() == (x * 1.7).to_bits()));
                }
                let b = [1.0, -2.5, 0.25];
                let mut x = vec![0.5; 3 * 20_000];
                bias(&team, isa, &mut x, &b);
                assert!(x.chunks(3).all(|row| row == [1.5, -2.0, 0.75]));
            }
        }
    }
}
