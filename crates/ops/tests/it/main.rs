//! What the vocabulary promises, checked from outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their support functions too")]

mod encode;
mod quant;
mod reader;
mod scales;
