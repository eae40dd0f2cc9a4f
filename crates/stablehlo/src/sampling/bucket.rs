//! What a sampling program is compiled for.

use crate::bucket::round_up;
use nxd_ops::{SamplingParams, SamplingRow};
use std::fmt;

/// Least history that a program takes: shorter ones are padded, so that few programs serve all.
const LEAST_HISTORY: usize = 64;
/// Fewest biases that a program takes.
const LEAST_BIAS: usize = 16;

/// How much a program must do to draw. Each can do what those before it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Draw {
    /// Takes the most likely token.
    Greedy,
    /// Draws at random, min-p included, which needs no order of the tokens.
    Plain,
    /// Sorts the tokens first, for top-k and top-p.
    Ranked,
    /// Sorts them by how typical they are too.
    Typical,
}

impl Draw {
    /// What a row asks for.
    fn of(row: &SamplingRow) -> Self {
        let params = params_of(row);
        if is_greedy(&params) {
            Draw::Greedy
        } else if params.typical_p < 1.0 {
            Draw::Typical
        } else if params.top_k > 0 || params.top_p < 1.0 {
            Draw::Ranked
        } else {
            Draw::Plain
        }
    }
}

/// The shape of a sampling program. Sizes are powers of two, so that few programs serve all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SampleBucket {
    /// Rows, `S`.
    pub rows: usize,
    /// How tokens are drawn.
    pub draw: Draw,
    /// Tokens of history a row, `H`; 0 when nobody's history matters.
    pub history: usize,
    /// Biases a row, `B`; 0 when nobody has any.
    pub bias: usize,
    /// Words of a mask of what may be drawn, `M`; `None` without masks.
    pub mask: Option<usize>,
    /// Whether some rows have a target, and so draw nothing.
    pub targets: bool,
    /// How many of the most likely tokens are reported, `K`; `None` for no log-probabilities.
    pub logprobs: Option<usize>,
    /// Whether the logits are a result too.
    pub keep_logits: bool,
}

impl SampleBucket {
    /// The bucket that serves `rows`.
    pub fn of(rows: &[SamplingRow], keep_logits: bool) -> Self {
        let history = rows.iter().map(|row| history_of(row).len()).max().unwrap_or(0);
        let bias = rows.iter().map(|row| bias_of(row).len()).max().unwrap_or(0);
        let logprobs = rows.iter().filter_map(|row| row.logprobs).max();
        SampleBucket {
            rows: round_up(rows.len(), 1),
            draw: rows.iter().map(Draw::of).max().unwrap_or(Draw::Greedy),
            history: if history == 0 { 0 } else { round_up(history, LEAST_HISTORY) },
            bias: if bias == 0 { 0 } else { round_up(bias, LEAST_BIAS) },
            mask: rows.iter().filter_map(|row| Some(allowed_of(row)?.len())).max(),
            targets: rows.iter().any(|row| row.target.is_some()),
            logprobs: logprobs.map(|count| if count == 0 { 0 } else { round_up(count as usize, 1) }),
            keep_logits,
        }
    }
}

impl fmt::Display for SampleBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sample_s{}", self.rows)?;
        f.write_str(match self.draw {
            Draw::Greedy => "",
            Draw::Plain => "_random",
            Draw::Ranked => "_ranked",
            Draw::Typical => "_typical",
        })?;
        if self.history > 0 {
            write!(f, "_h{}", self.history)?;
        }
        if self.bias > 0 {
            write!(f, "_b{}", self.bias)?;
        }
        if let Some(words) = self.mask {
            write!(f, "_m{words}")?;
        }
        if self.targets {
            f.write_str("_targets")?;
        }
        if let Some(count) = self.logprobs {
            write!(f, "_l{count}")?;
        }
        if self.keep_logits { f.write_str("_logits") } else { Ok(()) }
    }
}

/// Whether the largest logit is taken; so also for a temperature that is no number.
pub(super) fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature <= 0.0 || params.temperature.is_nan()
}

/// How a row draws: one that has a target as cheaply as can be.
pub(super) fn params_of(row: &SamplingRow) -> SamplingParams {
    if row.target.is_some() { SamplingParams::default() } else { row.params }
}

/// The tokens whose penalties change a row's logits.
pub(super) fn history_of(row: &SamplingRow) -> &[u32] {
    if params_of(row).uses_history() { &row.history } else { &[] }
}

/// What is added to a row's logits.
pub(super) fn bias_of(row: &SamplingRow) -> &[(u32, f32)] {
    if row.target.is_some() { &[] } else { &row.bias }
}

/// A row's mask.
pub(super) fn allowed_of(row: &SamplingRow) -> Option<&[u32]> {
    if row.target.is_some() { None } else { row.allowed.as_deref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(params: SamplingParams) -> SamplingRow {
        SamplingRow { params, ..SamplingRow::default() }
    }

    #[test]
    fn greedy_rows_need_little() {
        let bucket = SampleBucket::of(&vec![SamplingRow { history: vec![1; 99], ..SamplingRow::default() }; 5], false);
        assert_eq!(bucket.to_string(), "sample_s8");
        assert_eq!(SampleBucket::of(&[], false).rows, 1);
        // Filters of a greedy row do nothing.
        let filtered = SamplingParams { top_k: 3, typical_p: 0.5, ..SamplingParams::default() };
        assert_eq!(SampleBucket::of(&[row(filtered)], false).draw, Draw::Greedy);
    }

    #[test]
    fn a_row_with_a_target_asks_for_nothing_else() {
        let target = SamplingRow {
            target: Some(3),
            history: vec![0; 65],
            bias: vec![(0, 1.0)],
            allowed: Some([1].into()),
            logprobs: Some(1),
            ..row(SamplingParams { temperature: 1.0, top_k: 3, presence_penalty: 0.5, ..SamplingParams::default() })
        };
        assert_eq!(SampleBucket::of(&[target], false).to_string(), "sample_s1_targets_l1");
    }

    #[test]
    fn the_most_demanding_row_decides() {
        let random = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let rows = [
            row(SamplingParams { min_p: 0.1, ..random }),
            SamplingRow {
                history: vec![0; 65],
                logprobs: Some(5),
                ..row(SamplingParams { presence_penalty: 0.5, ..random })
            },
            SamplingRow { allowed: Some([1].into()), ..row(SamplingParams { top_p: 0.5, ..random }) },
        ];
        assert_eq!(SampleBucket::of(&rows[..1], false).to_string(), "sample_s1_random");
        assert_eq!(SampleBucket::of(&rows[..2], false).to_string(), "sample_s2_random_h128_l8");
        assert_eq!(SampleBucket::of(&rows, true).to_string(), "sample_s4_ranked_h128_m1_l8_logits");
        let typical = row(SamplingParams { typical_p: 0.9, ..random });
        assert_eq!(SampleBucket::of(&[typical], false).to_string(), "sample_s1_typical");
        let biased = SamplingRow { bias: vec![(0, 1.0); 17], ..row(random) };
        assert_eq!(SampleBucket::of(&[biased], false).to_string(), "sample_s1_random_b32");
        let nan = row(SamplingParams { temperature: f32::NAN, ..random });
        assert_eq!(SampleBucket::of(&[nan], false).to_string(), "sample_s1");
    }
}
