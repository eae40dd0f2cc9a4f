//! One request driven by hand through the executor: prompt chunks, then a token a step.

use nxd_executor::{Executor, ExecutorError};
use nxd_ops::{Batch, Capture, Drawn, GroupTables, SamplingBatch, SamplingRow};

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
            let wanted = (start.max(first_wanted)..end).map(|p| (p - start) as u32).collect();
            let batch = self.batch(&tokens[start..end], start, tokens.len(), wanted, Capture::Nothing);
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
            let batch = self.batch(&[token_id], position, prompt.len(), vec![0], Capture::Nothing);
            let sampling = SamplingBatch { rows: vec![SamplingRow::default()], keep_logits: false };
            next = self.executor.step(&batch, &sampling)?.drawn.last().and_then(token);
        }
        Ok(tokens)
    }

    /// Runs a prompt in one step with every inner tensor kept: (place, `[T, E]`), then the final norm.
    pub(super) fn inner(&mut self, tokens: &[u32]) -> Result<Vec<(String, Vec<f32>)>, ExecutorError> {
        let wanted = (0..tokens.len() as u32).collect();
        let batch = self.batch(tokens, 0, tokens.len(), wanted, Capture::Layers);
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

    /// A step of one request that owns the first blocks of every group.
    fn batch(&self, tokens: &[u32], start: usize, rope_len: usize, wanted: Vec<u32>, capture: Capture) -> Batch {
        let info = self.executor.info();
        let end = start + tokens.len();
        let (had, has) = (start.div_ceil(info.block_size) as u32, end.div_ceil(info.block_size) as u32);
        let tables = || GroupTables {
            starts: vec![0, has],
            blocks: (0..has).collect(),
            first_blocks: vec![0],
            zero_blocks: (had..has).collect(),
        };
        Batch {
            token_ids: tokens.to_vec(),
            positions: (start as u32..end as u32).collect(),
            query_starts: vec![0, tokens.len() as u32],
            rope_lens: vec![rope_len as u32],
            groups: info.kv_groups.iter().map(|_| tables()).collect(),
            wanted,
            capture,
        }
    }
}

fn token(drawn: &Drawn) -> Option<u32> {
    match drawn {
        Drawn::Token { id, .. } => Some(*id),
        Drawn::NotFinite => None,
    }
}
