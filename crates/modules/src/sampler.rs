//! From final hidden rows to tokens.

use crate::decoder::Decoder;
use nxd_ops::{Input, Ops, Output};
use nxd_parallel::VocabParallelHead;

/// LM head and drawing, run on the hidden rows of an earlier forward step.
#[derive(Clone, Debug)]
pub struct Sampler {
    head: VocabParallelHead,
}

impl Sampler {
    /// The sampler of a decoder.
    pub fn new(decoder: &Decoder) -> Self {
        Sampler { head: decoder.head().clone() }
    }

    /// Emits the logits of the step's hidden rows and draws a token for each.
    pub fn forward<O: Ops>(&self, ops: &mut O) {
        let hidden = ops.input(Input::Hidden);
        let logits = self.head.forward(ops, &hidden);
        ops.emit(Output::Logits, &logits);
        ops.draw(&logits);
    }
}
