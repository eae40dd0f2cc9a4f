//! Sampling inside the graph: from logits to tokens and log-probabilities, so that no logits leave the device.
//!
//! A [`SampleBucket`] is what a program is compiled for, [`inputs`] is what it is given, [`record`] what it computes, and [`outputs`]
//! what comes of its results. The rule is the eager device's: penalties, bias, mask, temperature, top-k, top-p, min-p, typical, then one
//! random number over the weights of the kept tokens by rising id. Sums are f32 here and f64 there, and the random number
//! has 24 bits instead of 53, so draws agree except where a number falls within rounding of a border between two tokens.
//!
//! Targets that cannot sort a vocabulary ([`Target::candidates`](crate::target::Target::candidates)) look only at their most likely
//! tokens: probabilities are taken among those, and the random number runs over them from the most likely down.
//!
//! Rows never meet: a NaN in one, or a row that only fills the bucket, changes nothing in another.
//!
//! Reading order: `bucket`, `inputs`, `graph` (the whole rule), `penalties`, `bias`, `mask`, `philox`, `filter`, `reach` (running sums),
//! `logprobs`, `outputs`.

mod bias;
mod bucket;
mod filter;
mod graph;
mod inputs;
mod logprobs;
mod mask;
mod outputs;
mod penalties;
mod philox;
mod reach;
#[cfg(test)]
mod tests;

pub use bucket::{Draw, SampleBucket};
pub use graph::record;
pub use inputs::inputs;
pub use outputs::outputs;
