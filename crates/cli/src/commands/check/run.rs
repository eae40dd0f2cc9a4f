//! One request driven by hand through the executor: prompt chunks, then a token a step.

use crate::commands::drive::{self, Chunk};
use nxd_executor::{Executor, ExecutorError};
use nxd_ops::{Batch, Capture, Drawn, SamplingBatch, SamplingRow};

/// Runs requests one at a time.
pub(super) struct Runner<'e> {
    pub(super) executor: &'e mut dyn Executor,
    /// Most tokens a step.
    pub(super) chunk: usize,
}

/// What the last step of a prompt gave.
pub(super) struct PromptOutput {
    /// Logits of the wanted positions, `[rows, V]`.
    pub(super) logits: Vec<f32>,
    /// The most likely next token; `None` where the logits are not finite.
    pub(super) next: Option<u32>,
}

impl Runner<'_> {
    /// Runs a prompt and gives the logits of its last `rows` positions.
    pub(super) fn prompt(&mut self, tokens: &[u32], rows: usize) -> Result<PromptOutput, ExecutorError> {
        let first_wanted = tokens.len() - rows;
        let mut output = PromptOutput { logits: Vec::new(), next: None };
        let mut start = 0;
        while start < tokens.len() {
            let end = (start + self.chunk).min(tokens.len());
            let wanted = end.saturating_sub(start.max(first_wanted));
            let batch = self.batch(&tokens[start..end], start, tokens.len(), wanted);
            let sampling = SamplingBatch { rows: vec![SamplingRow::default(); batch.wanted.len()], keep_logits: true };
            let step = self.executor.step(&batch, &sampling)?;
            output.logits.extend(step.logits);
            output.next = step.drawn.last().and_then(token);
            start = end;
        }
        Ok(output)
    }

    /// The greedy continuation of a prompt: `max` tokens, or up to `eos`, which is then the last.
    pub(super) fn greedy(&mut self, prompt: &[u32], max: usize, eos: Option<u32>) -> Result<Vec<u32>, ExecutorError> {
        let mut next = self.prompt(prompt, 1)?.next;
        let mut tokens = Vec::new();
        while let Some(token_id) = next {
            tokens.push(token_id);
            if tokens.len() >= max || Some(token_id) == eos {
                break;
            }
            let position = prompt.len() + tokens.len() - 1;
            let batch = self.batch(&[token_id], position, prompt.len(), 1);
            let sampling = SamplingBatch { rows: vec![SamplingRow::default()], keep_logits: false };
            next = self.executor.step(&batch, &sampling)?.drawn.last().and_then(token);
        }
        Ok(tokens)
    }

    /// Runs a prompt in one step with every inner tensor kept: (place, `[T, E]`), then the final norm.
    pub(super) fn inner(&mut self, tokens: &[u32]) -> Result<Vec<(String, Vec<f32>)>, ExecutorError> {
        let batch = Batch { capture: Capture::Layers, ..self.batch(tokens, 0, tokens.len(), tokens.len()) };
        let step = self.executor.forward(&batch)?;
        let place = |output: &nxd_ops::Output| match output {
            nxd_ops::Output::Layer(i) => format!("layer.{i}"),
            _ => "embed".to_owned(),
        };
        let mut inner: Vec<_> =
            self.executor.captured(step)?.iter().map(|(output, values)| (place(output), values.clone())).collect();
        inner.push(("final_norm".to_owned(), self.executor.hidden(step)?.iter().copied().collect()));
        Ok(inner)
    }

    /// A step of the one sequence there is.
    fn batch(&self, tokens: &[u32], start: usize, rope_len: usize, wanted: usize) -> Batch {
        drive::batch(self.executor.info(), 0, &[Chunk { sequence: 0, start, tokens, wanted, rope_len }])
    }
}

fn token(drawn: &Drawn) -> Option<u32> {
    match drawn {
        Drawn::Token { id, .. } => Some(*id),
        Drawn::NotFinite => None,
    }
}
