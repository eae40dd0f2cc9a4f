//! OpenAI's routes over a real engine and tiny golden models, mostly without a socket.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "test support fails by panicking, and metrics that are compared count"
)]

mod adapters;
mod chat;
mod completions;
mod faults;
mod faulty;
mod others;
mod refusals;
mod server;
mod sockets;
