//! What ops are to compute: in double precision, row by row, as their definitions read.

use crate::spec::{AttendSpec, Centre, Gated, Map, NormSpec, RopeSpec};

/// A tensor, or a weight, as rows of numbers.
pub(super) type Rows = Vec<Vec<f64>>;

/// The table's rows of `tokens`.
pub(super) fn embed(table: &Rows, tokens: &[u32]) -> Rows {
    tokens.iter().map(|&token| table[token as usize].clone()).collect()
}

/// `of` for each pair of values.
pub(super) fn zip(x: &Rows, y: &Rows, of: impl Fn(f64, f64) -> f64) -> Rows {
    let row = |(x, y): (&Vec<f64>, &Vec<f64>)| x.iter().zip(y).map(|(&x, &y)| of(x, y)).collect();
    x.iter().zip(y).map(row).collect()
}

/// `x + bias` for every row.
pub(super) fn bias(x: &Rows, bias: &[f64]) -> Rows {
    x.iter().map(|row| row.iter().zip(bias).map(|(x, b)| x + b).collect()).collect()
}

pub(super) fn gated(gate: &Rows, up: &Rows, activation: Gated) -> Rows {
    let met = |x: f64| match activation {
        Gated::Clamped { limit } => x.clamp(-f64::from(limit), f64::from(limit)) + 1.0,
        _ => x,
    };
    zip(gate, up, |gate, up| act(gate, activation) * met(up))
}

/// The error function, by a series without cancellation.
///
/// Source: Abramowitz & Stegun, 7.1.6.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

/// Groups of [`NormSpec::width`] columns, each over the root of its mean square distance from its centre; `weight` and `bias` have a value for each
/// column of a group, or of the row.
pub(super) fn norm(x: &Rows, spec: &NormSpec, weight: &[f64], bias: &[f64]) -> Rows {
    let group = |group: &[f64]| -> Vec<f64> {
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / group.len() as f64;
        let centre = if spec.centre == Centre::Mean { mean(&mut group.iter().copied()) } else { 0.0 };
        let root = (mean(&mut group.iter().map(|x| (x - centre).powi(2))) + f64::from(spec.eps)).sqrt();
        group.iter().map(|x| (x - centre) / root).collect()
    };
    let weighted = |row: Vec<f64>| -> Vec<f64> {
        let columns = row.into_iter().enumerate();
        let weighted =
            columns.map(|(i, x)| x * (weight[i % weight.len()] + f64::from(spec.offset)) + bias[i % bias.len()]);
        weighted.collect()
    };
    x.iter().map(|row| weighted(row.chunks(spec.width).flat_map(group).collect())).collect()
}

/// `f` of every value.
pub(super) fn map(x: &Rows, f: Map) -> Rows {
    zip(x, x, |x, _| match f {
        Map::Activation(activation) => act(x, activation),
        Map::Clamp(limit) => x.clamp(-f64::from(limit), f64::from(limit)),
        Map::SoftCap(cap) => f64::from(cap) * (x / f64::from(cap)).tanh(),
    })
}

fn act(x: f64, activation: Gated) -> f64 {
    match activation {
        Gated::Silu => x / (1.0 + (-x).exp()),
        Gated::Clamped { limit } => {
            let x = x.min(f64::from(limit));
            x / (1.0 + (-1.702 * x).exp())
        }
        Gated::Gelu => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
        Gated::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Gated::Relu2 => x.max(0.0).powi(2),
    }
}

/// `x · weightᵀ`.
pub(super) fn linear(x: &Rows, weight: &Rows) -> Rows {
    x.iter().map(|x| weight.iter().map(|w| dot(x, w)).collect()).collect()
}

/// The first `rotary_dim` values of each head, turned as pairs of halves; a row has a position and its request's length.
///
/// The angle is the product of position and frequency in single precision, as models are trained; everything after it is exact.
pub(super) fn rope(x: &Rows, spec: &RopeSpec, at: &[(u32, u32)]) -> Rows {
    let half = spec.rotary_dim / 2;
    let row = |(row, &(position, rope_len)): (&Vec<f64>, &(u32, u32))| {
        let (frequencies, factor) = spec.frequencies(rope_len);
        let mut row = row.clone();
        for head in row.chunks_mut(spec.head_dim) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                let (x, y) = (head[i], head[i + half]);
                head[i] = (x * cos - y * sin) * f64::from(factor);
                head[i + half] = (y * cos + x * sin) * f64::from(factor);
            }
        }
        row
    };
    x.iter().zip(at).map(row).collect()
}

/// One row's attention: `keys` and `values` are the rows it sees, its own last; `sinks` has a logit for each head, or none.
pub(super) fn attend(
    query: &[f64],
    keys: &Rows,
    values: &Rows,
    head_dim: usize,
    spec: &AttendSpec,
    sinks: &[f64],
) -> Vec<f64> {
    let heads = query.len() / head_dim;
    let kv_heads = keys[0].len() / head_dim;
    let mut out = Vec::new();
    for (h, query) in query.chunks(head_dim).enumerate() {
        let columns = h / (heads / kv_heads) * head_dim..(h / (heads / kv_heads) + 1) * head_dim;
        let bent = |score: f64| spec.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        let score = |key: &Vec<f64>| bent(dot(query, &key[columns.clone()]) * f64::from(spec.scale));
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let max = scores.iter().chain(sinks.get(h)).copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total = weights.iter().sum::<f64>() + sinks.get(h).map_or(0.0, |sink| (sink - max).exp());
        let of_column = |column: usize| weights.iter().zip(values).map(|(w, v)| w / total * v[column]).sum::<f64>();
        out.extend(columns.map(of_column));
    }
    out
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "both sides of a product");
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_at_known_places() {
        // Source: Abramowitz & Stegun, table 7.1.
        for (x, expected) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-10, "erf(-{x}) = {}", erf(-x));
        }
    }

    #[test]
    fn attention_of_equal_scores_is_the_mean_of_its_own_kv_head() {
        let keys = vec![vec![0.0; 2]; 2];
        let values = vec![vec![1.0, 10.0], vec![3.0, 30.0]];
        let out = attend(&[5.0, 6.0, 7.0, 8.0], &keys, &values, 1, &AttendSpec::new(4, 0.5), &[]);
        for (found, expected) in out.iter().zip([2.0, 2.0, 20.0, 20.0]) {
            assert!((found - expected).abs() < 1e-12, "{out:?}");
        }
    }

    #[test]
    fn a_sink_takes_its_share_of_the_weight_and_a_cap_bounds_scores() {
        let (keys, values) = (vec![vec![0.0], vec![1e9]], vec![vec![8.0], vec![0.0]]);
        let sunk = attend(&[0.0], &keys, &values, 1, &AttendSpec::new(1, 1.0), &[2.0_f64.ln()]);
        assert!((sunk[0] - 2.0).abs() < 1e-12, "{sunk:?}");
        let spec = AttendSpec { softcap: Some(3.0_f32), ..AttendSpec::new(1, 1.0) };
        let capped = attend(&[1.0], &keys, &values, 1, &spec, &[]);
        assert!((capped[0] - 8.0 / (1.0 + 3.0_f64.exp())).abs() < 1e-12, "{capped:?}");
    }
}
