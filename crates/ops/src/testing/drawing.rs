//! How a token is to be drawn: in double precision, by sorting everything, with how close the decision was.

use crate::philox::{Purpose, uniform};
use crate::sampling::{SamplingParams, SamplingRow};

/// What a row is to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) id: u32,
    /// How far, in probability or in logits, the decision was from another one. Devices in single precision may decide otherwise
    /// where it is tiny.
    pub(super) margin: f64,
}

/// A token that may still be drawn.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f64,
    /// Its probability over that of the most likely token.
    weight: f64,
}

/// The token of a row; `None` where nothing can be drawn.
pub(super) fn draw(logits: &[f32], row: &SamplingRow) -> Option<Choice> {
    if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return None;
    }
    if let Some(target) = row.target {
        let is_sound = logits.iter().any(|logit| logit.is_finite()) && (target as usize) < logits.len();
        return is_sound.then_some(Choice { id: target, margin: f64::INFINITY });
    }
    let params = &row.params;
    // What is added is rounded, so only without it is the order of the logits surely kept.
    let is_rounded = params.uses_history() || !row.bias.is_empty();
    let mut logits = penalised(logits, row);
    for &(id, bias) in &row.bias {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += f64::from(bias);
        }
    }
    let allowed = |id: usize| {
        let word = |mask: &[u32]| mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        row.allowed.as_ref().is_none_or(|mask| word(mask))
    };
    let possible = |&(id, logit): &(usize, f64)| logit > f64::NEG_INFINITY && allowed(id);
    let possible: Vec<(usize, f64)> = logits.into_iter().enumerate().filter(possible).collect();
    let max = possible.iter().map(|(_, logit)| *logit).reduce(f64::max)?;
    let temperature = if params.temperature > 0.0 { f64::from(params.temperature) } else { 1.0 };
    let candidate =
        |&(id, logit): &(usize, f64)| Candidate { id: id as u32, logit, weight: ((logit - max) / temperature).exp() };
    let mut kept: Vec<Candidate> = possible.iter().map(candidate).collect();
    // Stable: of equals the lower id comes first.
    kept.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    if params.temperature <= 0.0 {
        let margin = if is_rounded { gap(&kept, 1) } else { f64::INFINITY };
        return Some(Choice { id: kept[0].id, margin });
    }
    let mut margin = f64::INFINITY;
    filter(&mut kept, params, is_rounded, &mut margin);
    kept.sort_by_key(|candidate| candidate.id);
    let total = total(&kept);
    let number = uniform(params.seed, row.choice, row.position, Purpose::Draw);
    let mut passed = 0.0;
    for (i, candidate) in kept.iter().enumerate() {
        let before = passed;
        passed += candidate.weight / total;
        if passed > number || i + 1 == kept.len() {
            // Nothing lies before the first token and after the last.
            let below = if i == 0 { f64::INFINITY } else { number - before };
            let above = if i + 1 == kept.len() { f64::INFINITY } else { passed - number };
            return Some(Choice { id: candidate.id, margin: margin.min(below).min(above) });
        }
    }
    None
}

/// The logits after the penalties: presence and frequency of generated tokens, then repetition of all.
fn penalised(logits: &[f32], row: &SamplingRow) -> Vec<f64> {
    let SamplingParams { presence_penalty, frequency_penalty, repetition_penalty, .. } = row.params;
    let generated = row.history.get(row.generated_from..).unwrap_or_default();
    let of = |(id, &logit): (usize, &f32)| {
        let occurs = |tokens: &[u32]| tokens.iter().filter(|&&token| token as usize == id).count();
        let mut logit = f64::from(logit);
        if occurs(generated) > 0 {
            logit -= occurs(generated) as f64 * f64::from(frequency_penalty) + f64::from(presence_penalty);
        }
        match occurs(&row.history) {
            0 => logit,
            _ if logit < 0.0 => logit * f64::from(repetition_penalty),
            _ => logit / f64::from(repetition_penalty),
        }
    };
    logits.iter().enumerate().map(of).collect()
}

/// Top-k, top-p, min-p and typical on tokens that are sorted, the most likely first.
fn filter(kept: &mut Vec<Candidate>, params: &SamplingParams, is_rounded: bool, margin: &mut f64) {
    let k = params.top_k as usize;
    if k > 0 && k < kept.len() {
        // Single precision keeps the order of logits, but not that of rounded ones.
        *margin = margin.min(if is_rounded { gap(kept, k) } else { f64::INFINITY });
        let kth = kept[k - 1].logit;
        kept.retain(|candidate| candidate.logit >= kth);
    }
    let whole = total(kept);
    if params.top_p < 1.0 {
        let count = reach(kept, f64::from(params.top_p), whole, margin);
        kept.truncate(count);
    }
    let min_p = f64::from(params.min_p);
    if min_p > 0.0 {
        *margin = kept.iter().map(|candidate| (candidate.weight - min_p).abs()).fold(*margin, f64::min);
        kept.retain(|candidate| candidate.weight >= min_p);
    }
    if params.typical_p < 1.0 {
        let total = total(kept);
        let surprise = |candidate: &Candidate| -(candidate.weight / total).ln();
        let entropy: f64 = kept.iter().map(|candidate| candidate.weight / total * surprise(candidate)).sum();
        let distance = |candidate: &Candidate| (surprise(candidate) - entropy).abs();
        kept.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        let count = reach(kept, f64::from(params.typical_p), total, margin);
        if let Some(next) = kept.get(count) {
            *margin = margin.min(distance(next) - distance(&kept[count - 1]));
        }
        kept.truncate(count);
    }
}

/// How many tokens it takes for their share of `total` to reach `p`.
fn reach(tokens: &[Candidate], p: f64, total: f64, margin: &mut f64) -> usize {
    let mut share = 0.0;
    for (i, token) in tokens.iter().enumerate() {
        if i > 0 {
            *margin = margin.min((share - p).abs());
        }
        share += token.weight / total;
        if share >= p {
            *margin = margin.min(if i + 1 < tokens.len() { share - p } else { f64::INFINITY });
            return i + 1;
        }
    }
    tokens.len()
}

fn total(tokens: &[Candidate]) -> f64 {
    tokens.iter().map(|token| token.weight).sum()
}

/// How far the logits of sorted tokens lie apart at a border.
fn gap(tokens: &[Candidate], border: usize) -> f64 {
    tokens.get(border).map_or(f64::INFINITY, |next| tokens[border - 1].logit - next.logit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(params: SamplingParams) -> SamplingRow {
        SamplingRow { params, ..SamplingRow::default() }
    }

    /// The tokens that any position draws, by rising id.
    fn drawn(logits: &[f32], params: SamplingParams) -> Vec<u32> {
        let of = |position| draw(logits, &SamplingRow { position, ..row(params) }).unwrap().id;
        let mut ids: Vec<u32> = (0..500).map(of).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn filters_keep_what_their_definitions_say() {
        // Probabilities 0.4, 0.1, 0.3, 0.2.
        let logits = [0.4_f32.ln(), 0.1_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let plain = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        assert_eq!(drawn(&logits, SamplingParams::default()), [0]);
        assert_eq!(drawn(&logits, plain), [0, 1, 2, 3]);
        assert_eq!(drawn(&logits, SamplingParams { top_k: 2, ..plain }), [0, 2]);
        assert_eq!(drawn(&logits, SamplingParams { top_p: 0.75, ..plain }), [0, 2, 3]);
        assert_eq!(drawn(&logits, SamplingParams { min_p: 0.6, ..plain }), [0, 2]);
        // Entropy 1.28: the surprises 1.20 and 1.61 are the closest.
        assert_eq!(drawn(&logits, SamplingParams { typical_p: 0.45, ..plain }), [2, 3]);
    }

    #[test]
    fn a_close_decision_says_so() {
        let plain = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let logits = [0.5_f32.ln(), 0.5_f32.ln()];
        let close = draw(&logits, &row(SamplingParams { top_p: 0.5, ..plain })).unwrap();
        assert!(close.margin < 1e-6, "{close:?}");
        let clear = draw(&logits, &row(SamplingParams { top_p: 0.3, ..plain })).unwrap();
        assert_eq!(clear.id, 0);
        assert!(clear.margin > 0.1, "{clear:?}");
    }

    #[test]
    fn nothing_is_drawn_from_what_is_not_finite() {
        for logits in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [f32::NEG_INFINITY; 2]] {
            assert_eq!(draw(&logits, &row(SamplingParams::default())), None, "{logits:?}");
        }
    }
}
