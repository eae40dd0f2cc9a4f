//! Matrix products of f32 rows `[M, K]` with packed weights `[N, K]`.
//!
//! Weights lie in panels of 16 outputs, and the lanes of a vector are outputs: K runs in sequence, with one chain of float operations an
//! output. So tile shapes, chunks of K, the number of rows and the number of threads cannot change a bit of the result.
//!
//! What a product is, for each output (`float/scalar.rs`, `int8/scalar.rs` and `int16/scalar.rs` are the definition):
//!
//! - floats of 32 bits, and with [`Activations::F32`] those of 16 and quantised weights: `acc = fma(w[k], x[k], acc)` along K, starting from
//!   +0.0, where a quantised weight is its scale times its integer (plus its minimum), each step rounded;
//! - floats of one byte: for each run of K that shares a scale such a chain of the numbers, and then `sum = fma(chain, scale, sum)`, starting
//!   from +0.0. Numbers of E4M3 enter as their 256th, and their scales are 256 times as large;
//! - quantised weights with [`Activations::Int8`]: each 32 values of a row become integers with one scale `da` (`quantise/`); then for
//!   each group of weights that share a scale, along K: `acc = fma(scale * da, sum(q * a), acc)` and, where the format has a minimum,
//!   `acc = fma(min, da * sum(a), acc)`. The sums are exact integers, so their inner order is free. Plain int8 has one scale for all of K:
//!   for each 32 values `acc = fma(da, sum(q * a), acc)`, and at the end `acc * scale`;
//! - floats of 16 bits with [`Activations::Int8`]: as plain int8, but weights and activations are integers of 14 bits. The scale of an
//!   output is a power of two (`int16/pack.rs`), so most weights are what they were.
//!
//! Reading order: `cell` (how quantised weights are packed), `across`, `panels`, `memory`, `matrix`, `quantise`, `int8`, `int16`, `dequantise`,
//! `float`, `product`, `call`, `gated`.

mod across;
mod ahead;
mod call;
mod cell;
mod dequantise;
mod float;
mod gated;
mod int16;
mod int8;
mod matrix;
mod memory;
mod panels;
mod product;
mod quantise;
mod scratch;
#[cfg(test)]
mod tests;
mod tile;

pub use call::{linear_heads, linears};
pub use gated::{GatedPair, linear_gated};
pub use matrix::{PackedMatrix, kernel_name};
pub use memory::PackedMemory;
pub use panels::packed_bytes;
pub use scratch::Scratch;
pub(crate) use scratch::scratch_bytes;

/// Outputs of a panel.
pub const PANEL: usize = 16;

/// How weights meet the activations. Floats of 32 bits and of one byte always meet activations in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// The activations are quantised too, in blocks of 32 values of a row: the fast way. They have 8 bits where the weights have at most so
    /// many, and 14 where these are floats of 16 bits, which become integers of 14 bits when they are packed.
    #[default]
    Int8,
    /// The activations stay as they are, and quantised weights are dequantised.
    F32,
}
