//! Tests of whole steps: the bits of a request's logits, and what one rank or several make of a model.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod door;
mod exact;
mod model;
mod ranks;
#[cfg(feature = "pjrt")]
mod traced;
