//! What the suite asks of a device, and what it gives to it.

use super::Model;
use crate::batch::Batch;
use crate::format::Format;
use crate::ops::{Ops, Output};
use crate::sampling::{Drawn, SamplingBatch};

/// A device under test. It panics where the device fails.
pub trait Harness {
    /// Runs `program` as a forward step for each of `batches` in order, all on the same KV caches, which begin as zeros.
    ///
    /// The result has, for each batch, what the first rank emitted, in any order: rows of `Output::Hidden` for the wanted rows of the
    /// batch, rows of all other outputs for all of its tokens. The model's mesh says how many ranks take part.
    fn forward<P: Program>(&mut self, model: &Model, kv: &KvSetup, batches: &[Batch], program: &P) -> Vec<Emitted>;

    /// Runs `program` as a step that starts from `hidden` `[W, E]`, one row for each row of `sampling`.
    fn sample<P: Program>(
        &mut self,
        model: &Model,
        hidden: &[f32],
        sampling: &SamplingBatch,
        program: &P,
    ) -> SampleResult;

    /// How far a result may lie from the one in double precision: as a share of the largest value of the result, for products of
    /// what the largest would be if no terms cancelled each other.
    fn tolerance(&self, op: Op) -> f64;

    /// Tokens of a KV block in the cases with a cache: the smallest that the device takes, so that short requests cross borders.
    fn block_size(&self) -> usize {
        8
    }

    /// With how many random models and batches each case runs.
    fn rounds(&self) -> u64 {
        3
    }

    /// Cases that the device does not pass yet, each with the reason. They run too, and must fail: the list cannot outlive its reason.
    fn known_failures(&self) -> &[(&'static str, &'static str)] {
        &[]
    }
}

/// A few ops to be run: what a model is to an executor.
pub trait Program: Sync {
    /// Calls the ops of one step, the same ones at every call. It emits each output at most once.
    fn record<O: Ops>(&self, ops: &mut O);
}

/// What a step emitted.
pub type Emitted = Vec<(Output, Vec<f32>)>;

/// The KV cache of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvSetup {
    /// Blocks of each KV group of the manifest; empty when the model has no KV layers.
    pub num_blocks: Vec<usize>,
    /// Tokens a block.
    pub block_size: usize,
}

/// What a sampling step gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleResult {
    /// The emitted logits, `[W, V]`; empty when the step was not to keep them.
    pub logits: Vec<f32>,
    /// What each row drew; empty when the program draws nothing.
    pub drawn: Vec<Drawn>,
}

/// What a tolerance is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// `embed` of a table in this format.
    Embed(Format),
    /// `select_rows`, whose rows are copies.
    SelectRows,
    /// `add`, `bias` and `scale`.
    Elementwise,
    /// `gated`, and what `linear_gated` adds to two products.
    Gated,
    /// `norm` and `add_norm`.
    Norm,
    /// `norm` of products that are spread over ranks, with f32 weights.
    SpreadNorm,
    /// `map`.
    Map,
    /// `embed_positions` and `temper`.
    Position,
    /// `linear` and `linears` with a weight in this format, alone or over ranks.
    Linear(Format),
    /// `head` with a weight in this format.
    Head(Format),
    /// `route`.
    Route,
    /// What `experts` adds to the products of a single expert.
    Experts,
    /// `rope`.
    Rope,
    /// `attend` over what `kv_write` stored.
    Attend,
    /// `all_reduce` and `gather_columns` of plain numbers.
    Collective,
    /// Log-probabilities of `draw`; absolute, since they are logarithms.
    Logprob,
}
