//! Tests of the engine on golden models.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test's own functions unwrap and print, too"
)]

mod adapters;
mod exactness;
mod grammar;
mod recorder;
mod requests;
mod service;
