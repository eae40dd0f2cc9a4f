//! OpenAI's routes over a real engine and tiny golden models, without a socket.

mod chat;
mod completions;
mod others;
mod refusals;
mod server;
