//! A mixture of experts: rows are sorted by expert, each expert multiplies its own rows, and a row's results are summed.
//!
//! An expert without rows is not read at all, so a decode step reads the weights of the experts that its rows chose. A product's bits depend
//! on no other row, and a row's sum runs along the experts: which other rows choose the same expert changes nothing.

use super::cut::cut;
use super::elementwise;
use super::gated::gated;
use super::lanes::{Kernel, Lanes, dispatch};
use super::linear::{self, GatedPair, PackedMatrix, linear_gated, linears};
use crate::floats::Floats;
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::{Gated, Weighing};

/// An expert's weights.
#[derive(Clone, Copy)]
pub struct BoundExpert<'a> {
    /// `[F, E]`
    pub gate: BoundProjection<'a>,
    /// `[F, E]`
    pub up: BoundProjection<'a>,
    /// `[E, F]`
    pub down: BoundProjection<'a>,
}

/// A matrix and its bias.
#[derive(Clone, Copy)]
pub struct BoundProjection<'a> {
    /// The matrix.
    pub matrix: &'a PackedMatrix,
    /// A value for each of its rows.
    pub bias: Option<&'a [f32]>,
}

/// What all experts of a layer have in common.
#[derive(Clone, Copy)]
pub struct Mixture {
    /// The activation of their gates.
    pub activation: Gated,
    /// What affinities multiply.
    pub weighing: Weighing,
}

/// Work space of [`experts`], reused from call to call.
#[derive(Default)]
pub struct ExpertScratch {
    /// The rows of the expert that runs.
    rows: Vec<usize>,
    gathered: Floats,
    inner: Floats,
    up: Floats,
    result: Floats,
}

/// Values that an [`ExpertScratch`] grows to where all of `rows` rows choose an expert, which takes `hidden` columns to `inner` ones and
/// back.
pub(crate) fn scratch_values(rows: usize, hidden: usize, inner: usize) -> usize {
    // Rows, gathered, results; gates and what they meet.
    let of_row = hidden.saturating_mul(2).saturating_add(inner.saturating_mul(2)).saturating_add(2);
    rows.saturating_mul(of_row)
}

/// For each row of `x` the sum of what its experts make of it, along the experts, into `out`.
///
/// # Shapes
/// `x` and `out` are `[rows, E]`, `affinities` is `[rows, X]`; `expert` gives each of the `X` experts.
///
/// # Panics
/// When lengths do not fit these shapes.
pub fn experts<'a>(
    team: &Team,
    isa: Isa,
    [x, affinities]: [&[f32]; 2],
    (mixture, all): (Mixture, impl ExactSizeIterator<Item = BoundExpert<'a>>),
    out: &mut [f32],
    (scratch, of_products): (&mut ExpertScratch, &mut linear::Scratch),
) {
    let count = all.len();
    assert!(count > 0 && affinities.len().is_multiple_of(count), "{} affinities for {count} experts", affinities.len());
    let rows = affinities.len() / count;
    assert!(x.len() == out.len() && x.len().is_multiple_of(rows), "{} values in {rows} rows", x.len());
    if rows == 0 {
        return;
    }
    let width = x.len() / rows;
    out.fill(0.0);
    let ExpertScratch { rows: chosen, gathered, inner, up, result } = scratch;
    for (i, expert) in all.enumerate() {
        chosen.clear();
        chosen.extend((0..rows).filter(|row| affinities[row * count + i] != 0.0));
        if chosen.is_empty() {
            continue;
        }
        let num_inner = chosen.len() * expert.gate.matrix.rows();
        let gathered = gathered.grown(chosen.len() * width);
        let (inner, result) = (inner.grown(num_inner), result.grown(chosen.len() * width));
        let affinity = |row: usize| affinities[chosen[row] * count + i];
        let (before, after): (&(dyn Fn(usize) -> f32 + Sync), &(dyn Fn(usize) -> f32 + Sync)) = match mixture.weighing {
            Weighing::Input => (&affinity, &|_| 1.0),
            Weighing::Output => (&|_| 1.0, &affinity),
        };
        gather(team, isa, x, (chosen, before), gathered);
        match (expert.gate.bias, expert.up.bias) {
            (None, None) => {
                let pair = GatedPair { gate: expert.gate.matrix, up: expert.up.matrix, activation: mixture.activation };
                linear_gated(team, isa, gathered, chosen.len(), pair, inner, of_products);
            }
            // A bias comes between product and activation.
            (gate_bias, up_bias) => {
                let up = up.grown(num_inner);
                let matrices = [expert.gate.matrix, expert.up.matrix];
                linears(team, isa, gathered, chosen.len(), &matrices, &mut [&mut *inner, &mut *up], of_products);
                add_bias(team, isa, inner, gate_bias);
                add_bias(team, isa, up, up_bias);
                gated(team, isa, mixture.activation, inner, up);
            }
        }
        linears(team, isa, inner, chosen.len(), &[expert.down.matrix], &mut [&mut *result], of_products);
        add_bias(team, isa, result, expert.down.bias);
        scatter(team, isa, result, (chosen, after), out);
    }
}

fn add_bias(team: &Team, isa: Isa, x: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        elementwise::bias(team, isa, x, bias);
    }
}

/// Row `i` of `out` becomes row `rows[i]` of `x`, times `factor(i)`.
fn gather(
    team: &Team,
    isa: Isa,
    x: &[f32],
    (rows, factor): (&[usize], &(dyn Fn(usize) -> f32 + Sync)),
    out: &mut [f32],
) {
    let (n, width) = (out.len(), out.len() / rows.len());
    let out = Disjoint::new(out);
    cut(team, rows.len(), 1, n, |part| {
        for i in part {
            // SAFETY: the rows of members do not overlap.
            let out = unsafe { out.slice(i * width..(i + 1) * width) };
            dispatch(isa, Times { x: &x[rows[i] * width..][..width], factor: factor(i), out });
        }
    });
}

/// Adds row `i` of `x`, times `factor(i)`, to row `rows[i]` of `out`; `rows` rise.
fn scatter(
    team: &Team,
    isa: Isa,
    x: &[f32],
    (rows, factor): (&[usize], &(dyn Fn(usize) -> f32 + Sync)),
    out: &mut [f32],
) {
    let (n, width) = (x.len(), x.len() / rows.len());
    let out = Disjoint::new(out);
    cut(team, rows.len(), 1, n, |part| {
        for i in part {
            // SAFETY: no row is there twice, and members have different ones.
            let out = unsafe { out.slice(rows[i] * width..(rows[i] + 1) * width) };
            dispatch(isa, AddTimes { x: &x[i * width..][..width], factor: factor(i), out });
        }
    });
}

struct Times<'a> {
    x: &'a [f32],
    factor: f32,
    out: &'a mut [f32],
}

impl Kernel for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _zero: L) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out = x * self.factor;
        }
    }
}

struct AddTimes<'a> {
    x: &'a [f32],
    factor: f32,
    out: &'a mut [f32],
}

impl Kernel for AddTimes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _zero: L) {
        // Rounded twice, as every instruction set can.
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out += x * self.factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::linear::Activations;
    use nxd_ops::{BlockFormat, Format, LocalWeight, Role, Sharding, StoredWeight, WeightSpec};

    const COUNT: usize = 5;
    const HIDDEN: usize = 64;
    const INNER: usize = 96;

    fn values(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| ((i % 1009) as f32 * step).sin()).collect()
    }

    fn matrix(rows: usize, cols: usize, isa: Isa, team: &Team) -> PackedMatrix {
        let (format, shape) = (Format::Blocks(BlockFormat::Q8_0), [rows, cols]);
        let spec = WeightSpec { name: "w".into(), role: Role::Matrix, shape, sharding: Sharding::Replicated };
        let bytes = (0..rows * format.row_bytes(cols).unwrap()).map(|i| (i * 31 % 61) as u8).collect::<Vec<u8>>();
        let stored =
            StoredWeight { origin: "made up".into(), format, shape, data: bytes.into(), order: None, scales: None };
        PackedMatrix::pack(&LocalWeight::new(&spec, stored, 0).unwrap(), Activations::Int8, isa, team)
    }

    fn run(isa: Isa, threads: usize, [x, affinities]: [&[f32]; 2], weighing: Weighing, biased: bool) -> Vec<f32> {
        let team = Team::new(threads);
        let shapes = [[INNER, HIDDEN], [INNER, HIDDEN], [HIDDEN, INNER]];
        let matrices: Vec<_> = (0..COUNT).map(|_| shapes.map(|[rows, cols]| matrix(rows, cols, isa, &team))).collect();
        let bias = values(INNER, 0.3);
        let of = |matrix| BoundProjection { matrix, bias: None };
        let of_inner = |matrix| BoundProjection { matrix, bias: biased.then_some(&bias[..]) };
        let all = matrices.iter().map(|[gate, up, down]| BoundExpert {
            gate: of_inner(gate),
            up: of_inner(up),
            down: of(down),
        });
        let (mut out, mut scratch) = (vec![f32::NAN; x.len()], (ExpertScratch::default(), linear::Scratch::new()));
        let mixture = Mixture { activation: Gated::Silu, weighing };
        experts(&team, isa, [x, affinities], (mixture, all), &mut out, (&mut scratch.0, &mut scratch.1));
        out
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_rows_are_beside_it() {
        let rows = 700;
        let x = values(rows * HIDDEN, 0.37);
        let affinities: Vec<f32> =
            (0..rows * COUNT).map(|i| if i * 7 % 5 < 2 { (i as f32 * 0.1).sin() } else { 0.0 }).collect();
        for (weighing, biased) in [(Weighing::Output, false), (Weighing::Output, true), (Weighing::Input, false)] {
            let together = run(Isa::Scalar, 1, [&x, &affinities], weighing, biased);
            assert!(together.iter().all(|value| value.is_finite()) && together.iter().any(|value| *value != 0.0));
            for row in [0, 1, 333, rows - 1] {
                let (x, affinities) = (&x[row * HIDDEN..][..HIDDEN], &affinities[row * COUNT..][..COUNT]);
                let alone = run(Isa::detect(), 1, [x, affinities], weighing, biased);
                let beside = &together[row * HIDDEN..][..HIDDEN];
                assert!(alone.iter().zip(beside).all(|(a, b)| a.to_bits() == b.to_bits()), "{weighing:?}, row {row}");
            }
            for threads in [2, 3] {
                let found = run(Isa::detect(), threads, [&x, &affinities], weighing, biased);
                assert!(found.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
            }
        }
    }
}
