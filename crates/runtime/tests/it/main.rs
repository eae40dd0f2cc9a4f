//! Tests of the device runtimes against real and mock libraries; one binary, so that a plugin is loaded once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, their own functions too")]

mod neuron;
mod pjrt;
