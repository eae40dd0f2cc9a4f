//! Functions of single values.

use super::cut::cut;
use super::exp::tanh;
use super::gated::act;
use super::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::Map;

/// `x = f(x)`. A value's bits depend on it alone.
pub fn map(team: &Team, isa: Isa, f: Map, x: &mut [f32]) {
    let (n, x) = (x.len(), Disjoint::new(x));
    // As much work as an activation between gate and up.
    cut(team, n, 2 * LANES, 8 * n, |part| {
        // SAFETY: the parts of members do not overlap.
        let x = unsafe { x.slice(part) };
        dispatch(isa, Mapped { f, x });
    });
}

struct Mapped<'a> {
    f: Map,
    x: &'a mut [f32],
}

impl Kernel for Mapped<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let (x, last) = self.x.as_chunks_mut::<LANES>();
        for x in x {
            mapped(self.f, zero.load(x)).store(x);
        }
        if !last.is_empty() {
            mapped(self.f, zero.load_part(last)).store_part(last);
        }
    }
}

#[inline(always)]
fn mapped<L: Lanes>(f: Map, x: L) -> L {
    match f {
        Map::Activation(activation) => act(activation, x),
        // The bounds come second: a NaN stays one, as a comparison with it gives the other operand.
        Map::Clamp(limit) => x.splat(-limit).max(x.splat(limit).min(x)),
        Map::SoftCap(cap) => tanh(x / x.splat(cap)) * x.splat(cap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_ops::Gated;

    #[test]
    fn every_isa_length_and_team_has_the_bits_of_the_scalar_function() {
        let value = |i: usize| (i as f32 * 0.77).sin() * 30.0;
        let all = [Map::Activation(Gated::Relu2), Map::Activation(Gated::Silu), Map::Clamp(4.5), Map::SoftCap(7.0)];
        let run = |isa, threads, f, x: &[f32]| {
            let mut out = x.to_vec();
            map(&Team::new(threads), isa, f, &mut out);
            out
        };
        for f in all {
            for n in [0, 1, 7, 8, 9, 17, 5003] {
                let x: Vec<f32> = (0..n).map(value).collect();
                let alone: Vec<f32> = x.iter().flat_map(|&x| run(Isa::Scalar, 1, f, &[x])).collect();
                for isa in Isa::available() {
                    for threads in [1, 3] {
                        let got = run(isa, threads, f, &x);
                        assert!(got.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{f:?} {isa:?} {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_clamp_keeps_nan() {
        let mut x = [f32::NAN, 9.0, -9.0, 0.5, f32::INFINITY];
        map(&Team::new(1), Isa::detect(), Map::Clamp(2.0), &mut x);
        assert!(x[0].is_nan());
        assert_eq!(x[1..], [2.0, -2.0, 0.5, 2.0]);
    }
}
