//! The one central abstraction: what a model asks of a device during one step.

use crate::experts::{ExpertsSpec, RouterSpec};
use crate::kernel::Kernel;
use crate::spec::{AttendSpec, Gated, KvLayer, Map, NormSpec, Rope, Temperature};
use crate::weight::Weight;
use nxd_collectives::Axis;

/// Which rows of a step a tensor keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The rows that the batch wants something of ([`crate::Batch::wanted`]), in order.
    Wanted,
}

/// Tensors that enter a step from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The wanted rows of an earlier forward step, `[W, E]`: what head and sampler start from.
    Hidden,
}

/// Tensors that leave a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The embedded tokens, `[T, E]`, where the batch captures them.
    Embedding,
    /// The output of layer `i`, `[T, E]`, where the batch captures it.
    Layer(usize),
    /// The rows after the final norm that are wanted, `[W, E]`.
    Hidden,
    /// The logits of the wanted rows, `[W, V]`.
    Logits,
}

/// One open step of one rank.
///
/// A device opens a step for a batch; modules call these methods; closing the step gives what was emitted, or the first error. An
/// eager device computes at once, a traced one records a program, so no method returns `Result`, no method reveals a rank, and no
/// caller may branch on values. Token ids, positions, block tables and adapters belong to the open step and are never arguments.
///
/// Tensors are row-major `[rows, columns]`; `T` is the number of tokens of the step, `E` the hidden size, `V` the vocabulary,
/// `H`, `K` and `D` query heads, KV heads and head_dim on this rank. Operands taken by value may be updated in place.
pub trait Ops {
    /// A device tensor; cloning shares it.
    type Tensor: Clone;

    /// The rows of `table` for the step's token ids, `[T, E]`. Ids whose row another rank holds give zeros.
    fn embed(&mut self, table: Weight) -> Self::Tensor;

    /// The rows of `table`, which every rank has, for the positions of the step's tokens, `[T, E]`.
    fn embed_positions(&mut self, table: Weight) -> Self::Tensor;

    /// A tensor that the step was opened with.
    fn input(&mut self, input: Input) -> Self::Tensor;

    /// Hands a tensor to the step's outputs, where the batch asks for it.
    fn emit(&mut self, output: Output, x: &Self::Tensor);

    /// The chosen rows of `x`.
    fn select_rows(&mut self, x: &Self::Tensor, rows: Rows) -> Self::Tensor;

    /// `x + y`, elementwise.
    fn add(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Self::Tensor;

    /// `x + bias` for every row; `bias` is a vector of as many values as `x` has columns.
    fn bias(&mut self, x: Self::Tensor, bias: Weight) -> Self::Tensor;

    /// `x * factor`.
    fn scale(&mut self, x: Self::Tensor, factor: f32) -> Self::Tensor;

    /// `f(x)`, elementwise.
    fn map(&mut self, x: Self::Tensor, f: Map) -> Self::Tensor;

    /// Each row times the factor of its position.
    fn temper(&mut self, x: Self::Tensor, temperature: &Temperature) -> Self::Tensor;

    /// `act(gate) * up`, elementwise.
    fn gated(&mut self, gate: Self::Tensor, up: &Self::Tensor, activation: Gated) -> Self::Tensor;

    /// Normalises groups of [`NormSpec::width`] columns; the result has the shape of `x`.
    fn norm(&mut self, x: &Self::Tensor, spec: &NormSpec) -> Self::Tensor;

    /// `(residual + x, norm(residual + x))`.
    fn add_norm(&mut self, residual: Self::Tensor, x: &Self::Tensor, spec: &NormSpec) -> (Self::Tensor, Self::Tensor) {
        let sum = self.add(residual, x);
        let normed = self.norm(&sum, spec);
        (sum, normed)
    }

    /// `x · weightᵀ`: `[rows, K]` times a weight of `[N, K]` gives `[rows, N]`.
    fn linear(&mut self, x: &Self::Tensor, weight: Weight) -> Self::Tensor;

    /// Several products of the same input, so that a device prepares it once.
    fn linears<const N: usize>(&mut self, x: &Self::Tensor, weights: [Weight; N]) -> [Self::Tensor; N] {
        weights.map(|weight| self.linear(x, weight))
    }

    /// `act(x · gateᵀ) * (x · upᵀ)`: both products and the activation between them, so that a device can meet their results while they
    /// are near.
    fn linear_gated(&mut self, x: &Self::Tensor, gate: Weight, up: Weight, activation: Gated) -> Self::Tensor {
        let [gate, up] = self.linears(x, [gate, up]);
        self.gated(gate, &up, activation)
    }

    /// As [`Ops::linear`], with an f32 result on every device: the logits of the rows of `x`.
    fn head(&mut self, x: &Self::Tensor, weight: Weight) -> Self::Tensor {
        self.linear(x, weight)
    }

    /// The affinity of each row for each expert, from router logits `[rows, X]`: as many, 0 for experts that are not chosen, f32 on every
    /// device.
    fn route(&mut self, logits: &Self::Tensor, spec: &RouterSpec) -> Self::Tensor;

    /// For each row of `x` `[rows, E]` the sum of what its experts make of it, weighed by the row's `affinities` `[rows, X]`, added in the
    /// order of the experts; an affinity of 0 means that the expert is not chosen. Where the experts' inner columns are spread over ranks,
    /// this is the rank's part of the sum.
    fn experts(&mut self, x: &Self::Tensor, affinities: &Self::Tensor, spec: &ExpertsSpec) -> Self::Tensor;

    /// Rotates each head of `x` `[T, heads * D]` by its row's position.
    fn rope(&mut self, x: Self::Tensor, rope: Rope) -> Self::Tensor;

    /// Stores the step's K and V rows, both `[T, K * D]`, in the layer's blocks.
    fn kv_write(&mut self, layer: KvLayer, k: &Self::Tensor, v: &Self::Tensor);

    /// Attention of `q` `[T, H * D]` over what the layer's blocks hold, the step's own rows included.
    fn attend(&mut self, q: &Self::Tensor, layer: KvLayer, spec: &AttendSpec) -> Self::Tensor;

    /// The sum over the ranks of `axis`, in rank order.
    fn all_reduce(&mut self, x: Self::Tensor, axis: Axis) -> Self::Tensor;

    /// The columns of all ranks of `axis` side by side, cut to the first `columns`: what lies behind is padding.
    fn gather_columns(&mut self, x: Self::Tensor, axis: Axis, columns: usize) -> Self::Tensor;

    /// Draws a token for each row of `logits` `[W, V]` as the step's sampling rows say, and hands the result to the step's outputs.
    fn draw(&mut self, logits: &Self::Tensor);

    /// Runs a kernel that is not among these ops: the device's implementation of its name, or else its composition.
    fn custom<K: Kernel>(&mut self, kernel: &K, inputs: &[&Self::Tensor], weights: &[Weight]) -> Vec<Self::Tensor>
    where
        Self: Sized,
    {
        kernel.compose(self, inputs, weights)
    }
}
