//! Gated activations: `act(gate) * up`.

use super::cut::cut;
use super::exp::{normal_cdf, sigmoid};
use super::lanes::{Floats, Kernel, LANES, Lanes, Wide, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::Gated;

/// `gate = act(gate) * up`. A value's bits depend on the two values alone.
///
/// # Panics
/// If the lengths differ.
pub fn gated(team: &Team, isa: Isa, activation: Gated, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up have the same shape");
    let (n, gate) = (gate.len(), Disjoint::new(gate));
    // An activation is some ten times the work of a sum.
    cut(team, n, 2 * LANES, 8 * n, |part| {
        // SAFETY: the parts of members do not overlap.
        let gate = unsafe { gate.slice(part.clone()) };
        gated_part(isa, activation, gate, &up[part]);
    });
}

/// As [`gated`], on the thread that calls.
#[inline]
pub(super) fn gated_part(isa: Isa, activation: Gated, gate: &mut [f32], up: &[f32]) {
    dispatch(isa, Gate { activation, gate, up });
}

struct Gate<'a> {
    activation: Gated,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        // One vector at a time where others would be of no use; what a condition excludes is not compiled.
        if const { L::ROWS < 12 } {
            self.of::<L, L>(zero);
        } else {
            self.of::<L, L::Wide>(zero);
        }
    }
}

impl Gate<'_> {
    /// With as many vectors at once as `C` has.
    #[inline(always)]
    fn of<L: Lanes, C: Wide<L>>(self, zero: L) {
        let Gate { activation, gate, up } = self;
        let ((gate, last_gate), (up, last_up)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks::<LANES>());
        for (gate, up) in gate.chunks_mut(C::VECTORS).zip(up.chunks(C::VECTORS)) {
            // A single one is taken twice.
            let last = gate.len() - 1;
            let of = C::of(zero.load(&gate[0]), zero.load(&gate[last]));
            let met = met(activation, C::of(zero.load(&up[0]), zero.load(&up[last])));
            let product = act(activation, of) * met;
            for (i, gate) in gate.iter_mut().enumerate() {
                product.vector(i).store(gate);
            }
        }
        if !last_gate.is_empty() {
            let up = met(activation, zero.load_part(last_up));
            (act(activation, zero.load_part(last_gate)) * up).store_part(last_gate);
        }
    }
}

/// A `match` in the loop: handed over as an `impl Fn`, the functions are called through a shim that is compiled without AVX2, at ten
/// times the cost.
#[inline(always)]
pub(super) fn act<F: Floats>(activation: Gated, x: F) -> F {
    match activation {
        Gated::Silu => silu(x),
        Gated::Gelu => gelu(x),
        Gated::GeluTanh => gelu_tanh(x),
        Gated::Relu2 => relu2(x),
        Gated::Clamped { limit } => {
            let x = at_most(x, limit);
            x * sigmoid(x * x.splat(1.702))
        }
    }
}

/// What multiplies the gate.
#[inline(always)]
fn met<F: Floats>(activation: Gated, up: F) -> F {
    match activation {
        Gated::Clamped { limit } => {
            let (up, least) = (at_most(up, limit), up.splat(-limit));
            up.if_less(least, least, up) + up.splat(1.0)
        }
        _ => up,
    }
}

/// The smaller of value and limit. A NaN stays one.
#[inline(always)]
fn at_most<F: Floats>(x: F, limit: f32) -> F {
    let most = x.splat(limit);
    most.if_less(x, most, x)
}

#[inline(always)]
fn silu<F: Floats>(x: F) -> F {
    x * sigmoid(x)
}

#[inline(always)]
fn gelu<F: Floats>(x: F) -> F {
    x * normal_cdf(x)
}

#[inline(always)]
fn relu2<F: Floats>(x: F) -> F {
    // Zero comes first: a NaN stays one.
    let positive = x.splat(0.0).max(x);
    positive * positive
}

/// `x (1 + tanh u) / 2` with `u = √(2/π) (x + 0.044715 x³)`; half of one plus tanh is the sigmoid of `2u`, without cancellation.
#[inline(always)]
fn gelu_tanh<F: Floats>(x: F) -> F {
    let factor = x.splat(2.0 * 0.797_884_6);
    let cubic = (x * x).mul_add(x.splat(0.044_715), x.splat(1.0));
    x * sigmoid(factor * x * cubic)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that leave large values as they are.
    const LINEAR: [Gated; 3] = [Gated::Silu, Gated::Gelu, Gated::GeluTanh];
    const ALL: [Gated; 5] = [Gated::Silu, Gated::Gelu, Gated::GeluTanh, Gated::Relu2, Gated::Clamped { limit: 7.0 }];

    fn run(isa: Isa, threads: usize, activation: Gated, gate: &[f32], up: &[f32]) -> Vec<f32> {
        let mut out = gate.to_vec();
        gated(&Team::new(threads), isa, activation, &mut out, up);
        out
    }

    /// `Φ(x)` in double precision: a Taylor series near zero, the continued fraction of the tail beyond.
    fn normal_cdf_f64(x: f64) -> f64 {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= x * x / f64::from(2 * n + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let tail = density / (1..200).rev().fold(x.abs(), |f, k| x.abs() + f64::from(k) / f);
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    fn reference(activation: Gated, x: f64) -> f64 {
        match activation {
            Gated::Silu => x / (1.0 + (-x).exp()),
            Gated::Gelu => x * normal_cdf_f64(x),
            Gated::Relu2 => x.max(0.0).powi(2),
            Gated::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x / (1.0 + (-2.0 * u).exp())
            }
            Gated::Clamped { .. } => x / (1.0 + (-1.702 * x).exp()),
        }
    }

    #[test]
    fn activations_are_near_double_precision() {
        let x: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 * 5e-4).collect();
        let ones = vec![1.0; x.len()];
        for activation in LINEAR {
            let got = run(Isa::detect(), 1, activation, &x, &ones);
            let (mut worst, mut relative) = (0.0f64, 0.0f64);
            for (&x, &got) in x.iter().zip(&got) {
                let expected = reference(activation, f64::from(x));
                let error = (f64::from(got) - expected).abs();
                worst = worst.max(error / f64::from(x).abs().max(0.1));
                if expected.abs() > 1e-30 {
                    relative = relative.max(error / expected.abs());
                }
            }
            println!("{activation:?}: {worst:.1e} of x, {relative:.1e} of the value");
            assert!(worst <= 2e-7, "{activation:?}: {worst:e}");
            // In the far tail the exponent's own rounding shows: three of them, times an exponent of up to 70, for the cubic.
            let most = if activation == Gated::GeluTanh { 1.3e-5 } else { 5e-7 };
            assert!(relative <= most, "{activation:?}: {relative:e} of the value");
        }
    }

    #[test]
    fn every_isa_length_and_team_has_the_bits_of_the_scalar_activation() {
        let value = |i: usize| (i as f32 * 0.77).sin() * 30.0;
        for activation in ALL {
            for n in [0, 1, 7, 8, 9, 15, 16, 17, 40, 10_007] {
                let (gate, up): (Vec<f32>, Vec<f32>) = (0..n).map(|i| (value(i), value(i + 5))).unzip();
                let alone: Vec<f32> =
                    (0..n).flat_map(|i| run(Isa::Scalar, 1, activation, &gate[i..=i], &up[i..=i])).collect();
                for isa in Isa::available() {
                    for threads in [1, 3] {
                        let got = run(isa, threads, activation, &gate, &up);
                        assert!(
                            got.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{activation:?} {isa} {n}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn gate_and_up_are_clamped_and_a_nan_stays_one() {
        let clamped = Gated::Clamped { limit: 7.0 };
        let gate = [-30.0, -1.0, 0.5, 7.0, 30.0, 2.0, 2.0, f32::NAN, 1.0];
        let up = [1.0, 0.0, -1.0, 2.0, 2.0, 50.0, -50.0, 0.0, f32::NAN];
        for isa in Isa::available() {
            let got = run(isa, 1, clamped, &gate, &up);
            for (i, &got) in got.iter().enumerate().take(7) {
                let up = f64::from(up[i].clamp(-7.0, 7.0)) + 1.0;
                let expected = reference(clamped, f64::from(gate[i].min(7.0))) * up;
                assert!((f64::from(got) - expected).abs() <= 3e-6, "{isa}, {i}: {got}, {expected}");
            }
            assert!(got[7].is_nan() && got[8].is_nan());
        }
    }

    #[test]
    fn squares_of_positive_values_are_rounded_once() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.0037).collect();
        for isa in Isa::available() {
            let got = run(isa, 1, Gated::Relu2, &x, &vec![1.0; x.len()]);
            assert!(x.iter().zip(&got).all(|(x, got)| got.to_bits() == (x.max(0.0) * x.max(0.0)).to_bits()), "{isa}");
        }
    }

    #[test]
    fn extremes_stay_what_they_are() {
        for activation in LINEAR {
            for isa in Isa::available() {
                let x = [f32::MAX, 1e30, f32::INFINITY, -1e30, 0.0, f32::NAN];
                let got = run(isa, 1, activation, &x, &[1.0; 6]);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got[..5]), bits(&[f32::MAX, 1e30, f32::INFINITY, -0.0, 0.0]), "{activation:?} {isa}");
                assert!(got[5].is_nan());
            }
        }
    }
}
