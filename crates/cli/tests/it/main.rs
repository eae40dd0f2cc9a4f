//! Black-box tests: the real program, a real process each.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod bad_input;
mod bench;
mod command_line;
#[cfg(feature = "hub")]
mod demo;
mod device;
mod doctor;
#[cfg(feature = "hub")]
mod fake_hub;
mod generate;
mod golden;
mod log;
mod models_page;
mod plan;
mod program;
#[cfg(feature = "hub")]
mod pull;
mod quantize;
mod reference_logits;
mod serve;
