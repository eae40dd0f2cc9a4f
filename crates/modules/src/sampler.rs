//! From final hidden rows to tokens.

use crate::decoder::Decoder;
use crate::spec::HeadSpec;
use nxd_ops::{Input, Map, Ops, Output};
use nxd_parallel::VocabParallelHead;

/// LM head and drawing, run on the hidden rows of an earlier forward step.
#[derive(Clone, Debug)]
pub struct Sampler {
    head: VocabParallelHead,
    spec: HeadSpec,
}

impl Sampler {
    /// The sampler of a decoder.
    pub fn new(decoder: &Decoder) -> Self {
        let (head, spec) = decoder.head();
        Sampler { head: head.clone(), spec }
    }

    /// Emits the logits of the step's hidden rows and draws a token for each.
    pub fn forward<O: Ops>(&self, ops: &mut O) {
        let hidden = ops.input(Input::Hidden);
        let mut logits = self.head.forward(ops, &hidden);
        if let Some(factor) = self.spec.scale {
            logits = ops.scale(logits, factor);
        }
        if let Some(cap) = self.spec.softcap {
            logits = ops.map(logits, Map::SoftCap(cap));
        }
        ops.emit(Output::Logits, &logits);
        ops.draw(&logits);
    }
}
