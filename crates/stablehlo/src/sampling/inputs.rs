//! What a sampling program is given, made of a step's rows.

use super::bucket::{SampleBucket, allowed_of, bias_of, history_of, is_greedy, params_of};
use crate::host::HostArray;
use crate::inputs::Inputs;
use crate::program::ProgramBuilder;
use crate::record::{Element, Recorder, Value};
use nxd_ops::SamplingRow;

/// Numbers of each row, f32 `[Number::COUNT, S]`.
const NUMBERS: &str = "sample_numbers";
/// Words of each row, u32 `[Word::COUNT, S]`.
const WORDS: &str = "sample_words";
/// Token ids of each row's history, u32 `[S, H]`; [`NO_TOKEN`] where there is none.
const HISTORY: &str = "sample_history";
/// Token ids of each row's biases, u32 `[S, B]`; [`NO_TOKEN`] where there is none.
const BIAS_IDS: &str = "sample_bias_ids";
/// Each row's biases, f32 `[S, B]`.
const BIASES: &str = "sample_biases";
/// Each row's mask, u32 `[S, M + 1]`; the last word stands for all that are missing.
const ALLOWED: &str = "sample_allowed";

/// Each row's target, u32 `[S]`; [`NO_TOKEN`] for rows that draw.
const TARGETS: &str = "sample_targets";

/// Stands where there is no token; like added tokens it is beyond any vocabulary.
const NO_TOKEN: u32 = u32::MAX;

/// A row's numbers, in the order of their argument: one array for all is one upload a step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    /// 0 takes the most likely token.
    Temperature,
    TopP,
    /// At most 1.
    MinP,
    TypicalP,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
}

impl Number {
    const COUNT: usize = 7;

    /// The number of each row, f32 `[S]`.
    pub(super) fn record(self, b: &mut ProgramBuilder, rows: usize) -> Value {
        let all = b.input(NUMBERS, &[Number::COUNT, rows], Element::F32);
        column(&mut b.rec, &all, self as usize)
    }
}

/// A row's words, in the order of their argument.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    SeedLow,
    SeedHigh,
    Position,
    Choice,
    /// At least 1; a large number keeps all.
    TopK,
    /// Where generated tokens start in the history.
    GeneratedFrom,
}

impl Word {
    const COUNT: usize = 6;

    /// The word of each row, u32 `[S]`.
    pub(super) fn record(self, b: &mut ProgramBuilder, rows: usize) -> Value {
        let all = b.input(WORDS, &[Word::COUNT, rows], Element::U32);
        column(&mut b.rec, &all, self as usize)
    }
}

/// The histories, u32 `[S, H]`; ids that are not in the vocabulary stand for nothing.
pub(super) fn record_history(b: &mut ProgramBuilder, bucket: &SampleBucket) -> Value {
    b.input(HISTORY, &[bucket.rows, bucket.history], Element::U32)
}

/// The biases' token ids, u32 `[S, B]`, of which those that are not in the vocabulary stand for nothing, and the biases, f32 `[S, B]`.
pub(super) fn record_bias(b: &mut ProgramBuilder, bucket: &SampleBucket) -> (Value, Value) {
    let dims = [bucket.rows, bucket.bias];
    (b.input(BIAS_IDS, &dims, Element::U32), b.input(BIASES, &dims, Element::F32))
}

/// The targets, u32 `[S]`; rows whose target is not in the vocabulary have none.
pub(super) fn record_targets(b: &mut ProgramBuilder, rows: usize) -> Value {
    b.input(TARGETS, &[rows], Element::U32)
}

/// The masks, u32 `[S, M + 1]`; the last word stands for all that are missing.
pub(super) fn record_allowed(b: &mut ProgramBuilder, rows: usize, words: usize) -> Value {
    b.input(ALLOWED, &[rows, words + 1], Element::U32)
}

fn column(rec: &mut Recorder, all: &Value, index: usize) -> Value {
    let one = rec.slice(all, 0, index..index + 1);
    rec.reshape(&one, &all.dims()[1..])
}

/// The arguments of a bucket's program for `rows`, which it was made for, by name. Rows that fill the bucket are greedy.
pub fn inputs(bucket: &SampleBucket, rows: &[SamplingRow]) -> Inputs {
    let filling = SamplingRow::default();
    let padded: Vec<&SamplingRow> = (0..bucket.rows).map(|i| rows.get(i).unwrap_or(&filling)).collect();
    let numbers = table(Number::COUNT, padded.iter().map(|row| numbers(row)));
    let words = table(Word::COUNT, padded.iter().map(|row| words(row)));
    let mut inputs = Inputs::from([
        (NUMBERS.to_owned(), HostArray::f32s(&[Number::COUNT, bucket.rows], &numbers)),
        (WORDS.to_owned(), HostArray::u32s(&[Word::COUNT, bucket.rows], &words)),
    ]);
    if bucket.history > 0 {
        let id = |row: &SamplingRow, i| history_of(row).get(i).copied().unwrap_or(NO_TOKEN);
        let ids: Vec<u32> = padded.iter().flat_map(|row| (0..bucket.history).map(move |i| id(row, i))).collect();
        inputs.insert(HISTORY.to_owned(), HostArray::u32s(&[bucket.rows, bucket.history], &ids));
    }
    if bucket.bias > 0 {
        let dims = [bucket.rows, bucket.bias];
        let bias = |row: &SamplingRow, i| bias_of(row).get(i).copied().unwrap_or((NO_TOKEN, 0.0));
        let all = padded.iter().flat_map(|row| (0..bucket.bias).map(move |i| bias(row, i)));
        let (ids, biases): (Vec<u32>, Vec<f32>) = all.unzip();
        inputs.insert(BIAS_IDS.to_owned(), HostArray::u32s(&dims, &ids));
        inputs.insert(BIASES.to_owned(), HostArray::f32s(&dims, &biases));
    }
    if bucket.targets {
        let targets: Vec<u32> = padded.iter().map(|row| row.target.unwrap_or(NO_TOKEN)).collect();
        inputs.insert(TARGETS.to_owned(), HostArray::u32s(&[bucket.rows], &targets));
    }
    if let Some(count) = bucket.mask {
        let word = |row: &SamplingRow, i| match allowed_of(row) {
            Some(allowed) => allowed.get(i).copied().unwrap_or(0),
            None => u32::MAX,
        };
        let allowed: Vec<u32> = padded.iter().flat_map(|row| (0..=count).map(move |i| word(row, i))).collect();
        inputs.insert(ALLOWED.to_owned(), HostArray::u32s(&[bucket.rows, count + 1], &allowed));
    }
    inputs
}

/// In the order of [`Number`].
fn numbers(row: &SamplingRow) -> [f32; Number::COUNT] {
    let params = params_of(row);
    let temperature = if is_greedy(&params) { 0.0 } else { params.temperature };
    [
        temperature,
        params.top_p,
        params.min_p.min(1.0),
        params.typical_p,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
    ]
}

/// In the order of [`Word`].
fn words(row: &SamplingRow) -> [u32; Word::COUNT] {
    /// What is as good as infinite, in a signed word too.
    const MANY: u32 = i32::MAX as u32;
    let params = params_of(row);
    let seed = params.seed;
    let top_k = if params.top_k == 0 { MANY } else { params.top_k.min(MANY) };
    let generated_from = u32::try_from(row.generated_from).unwrap_or(MANY).min(MANY);
    [seed as u32, (seed >> 32) as u32, row.position, row.choice, top_k, generated_from]
}

/// Rows side by side as columns.
fn table<T: Copy, const N: usize>(count: usize, rows: impl Iterator<Item = [T; N]>) -> Vec<T> {
    let rows: Vec<[T; N]> = rows.collect();
    (0..count).flat_map(|i| rows.iter().map(move |row| row[i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_ops::SamplingParams;

    #[test]
    fn a_number_and_a_word_stand_where_they_are_looked_for() {
        let params = SamplingParams {
            temperature: 0.5,
            top_k: 7,
            top_p: 0.25,
            min_p: 3.0,
            typical_p: 0.75,
            repetition_penalty: 1.5,
            presence_penalty: 2.0,
            frequency_penalty: 4.0,
            seed: 5 << 32 | 6,
        };
        let row = SamplingRow { params, position: 8, choice: 9, generated_from: 10, ..SamplingRow::default() };
        let (numbers, words) = (numbers(&row), words(&row));
        let expected = [
            (Number::Temperature, 0.5),
            (Number::TopP, 0.25),
            (Number::MinP, 1.0),
            (Number::TypicalP, 0.75),
            (Number::RepetitionPenalty, 1.5),
            (Number::PresencePenalty, 2.0),
            (Number::FrequencyPenalty, 4.0),
        ];
        for (number, value) in expected {
            assert_eq!(numbers[number as usize].to_bits(), f32::to_bits(value), "{number:?}");
        }
        let expected = [
            (Word::SeedLow, 6),
            (Word::SeedHigh, 5),
            (Word::Position, 8),
            (Word::Choice, 9),
            (Word::TopK, 7),
            (Word::GeneratedFrom, 10),
        ];
        for (word, value) in expected {
            assert_eq!(words[word as usize], value, "{word:?}");
        }
    }

    #[test]
    fn filling_is_greedy_unpenalised_and_unmasked() {
        let params = SamplingParams { presence_penalty: 1.0, temperature: 1.0, ..SamplingParams::default() };
        let one = SamplingRow { params, history: vec![3, 99], allowed: Some([5].into()), ..SamplingRow::default() };
        let rows = vec![one; 3];
        let bucket = SampleBucket::of(&rows, false);
        let inputs = inputs(&bucket, &rows);
        let floats: &[f32] = bytemuck::cast_slice(&inputs[NUMBERS].data);
        assert_eq!(floats[..4].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 0.0].map(f32::to_bits));
        let history: &[u32] = bytemuck::cast_slice(&inputs[HISTORY].data);
        assert_eq!(history[..3], [3, 99, NO_TOKEN]);
        assert_eq!(history[3 * 64..], [NO_TOKEN; 64]);
        let allowed: &[u32] = bytemuck::cast_slice(&inputs[ALLOWED].data);
        assert_eq!(allowed, [5, 0, 5, 0, 5, 0, u32::MAX, u32::MAX]);
    }
}
