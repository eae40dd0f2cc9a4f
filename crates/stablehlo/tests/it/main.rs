//! The traced device on a real plugin: the op suite, its caches and programs, and the text that each target gets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod device;
mod kernels;
mod plugin;
mod suite;
mod text;
mod widening;
