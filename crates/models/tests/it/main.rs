//! Tests of `nxd-models` through its public interface.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helper functions too")]

mod chat;
mod checkpoint;
mod config;
mod families;
mod quantise;
mod tokenizer;
