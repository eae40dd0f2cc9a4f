//! The parts of heads side by side.

use super::cut::cut;
use crate::team::{Disjoint, Team};

/// Copies the parts of each head, `widths` of `x` and of `y`, side by side into `out`.
///
/// # Shapes
/// `x` is `[T, heads * widths[0]]`, `y` is `[T, heads * widths[1]]`, `out` is `[T, heads * (widths[0] + widths[1])]`; so a head of a row is
/// a row of its own.
///
/// # Panics
/// When lengths do not fit these shapes.
pub fn concat(team: &Team, x: &[f32], y: &[f32], [p, q]: [usize; 2], out: &mut [f32]) {
    let heads = out.len().checked_div(p + q).unwrap_or(0);
    assert!(
        x.len() == heads * p && y.len() == heads * q && out.len() == heads * (p + q),
        "{heads} heads of {p} and {q}"
    );
    let (n, out) = (out.len(), Disjoint::new(out));
    cut(team, heads, 1, n, |part| {
        // SAFETY: the heads of members do not overlap.
        let out = unsafe { out.slice(part.start * (p + q)..part.end * (p + q)) };
        for (head, out) in part.zip(out.chunks_exact_mut((p + q).max(1))) {
            let (left, right) = out.split_at_mut(p);
            left.copy_from_slice(&x[head * p..(head + 1) * p]);
            right.copy_from_slice(&y[head * q..(head + 1) * q]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_heads_lie_side_by_side_for_any_team() {
        for (threads, heads) in [(1, 5), (3, 20_000)] {
            let x: Vec<f32> = (0..heads * 2).map(|i| i as f32).collect();
            let y: Vec<f32> = (0..heads).map(|i| -(i as f32)).collect();
            let mut out = vec![f32::NAN; heads * 3];
            concat(&Team::new(threads), &x, &y, [2, 1], &mut out);
            let expected = |head: usize| [2.0 * head as f32, 2.0 * head as f32 + 1.0, -(head as f32)];
            assert!(out.chunks(3).enumerate().all(|(head, out)| out == expected(head)));
        }
    }
}
