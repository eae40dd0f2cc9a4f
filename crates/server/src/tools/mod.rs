//! Tool calls: what a request says about tools, and the calls in what a model writes.
//!
//! Text in, text out: [`ToolRequest::parse`] reads the request's fields, [`plan`] says how the reply is to be constrained and
//! read, a [`ToolParser`] cuts the reply into content and calls while it is written.
//!
//! *Does not know*: HTTP, how replies are framed, the engine, how a schema becomes a grammar.

mod call;
mod hermes;
mod id;
mod json;
mod llama3;
mod mistral;
mod parser;
mod plan;
mod request;
#[cfg(test)]
mod tests;

pub use id::call_id;
pub use parser::{Delta, ToolParser};
pub use plan::{Held, ToolPlan, plan};
pub use request::{Tool, ToolChoice, ToolError, ToolRequest};

/// Most characters of a function's name.
const MAX_NAME_CHARS: usize = 64;

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hermes 2 Pro, Qwen 2.5, Qwen 3 and others.
    Hermes,
    /// Llama 3.1 and 3.2.
    Llama3,
    /// Mistral, old and new.
    Mistral,
}

impl Format {
    /// The names that [`Format::named`] knows: those of vLLM's parsers, and our own.
    pub const NAMES: &[&str] = &["hermes", "llama3_json", "llama3", "mistral"];

    /// The format called `name`.
    pub fn named(name: &str) -> Option<Format> {
        match name {
            "hermes" => Some(Format::Hermes),
            "llama3_json" | "llama3" => Some(Format::Llama3),
            "mistral" => Some(Format::Mistral),
            _ => None,
        }
    }

    /// The format that a model's chat template teaches it; `None` when it is none of these, or there are no tools in it.
    pub fn detect(chat_template: &str) -> Option<Format> {
        if hermes::is_taught_by(chat_template) {
            Some(Format::Hermes)
        } else if mistral::is_taught_by(chat_template) {
            Some(Format::Mistral)
        } else {
            llama3::is_taught_by(chat_template).then_some(Format::Llama3)
        }
    }

    fn syntax(self) -> parser::Syntax {
        match self {
            Format::Hermes => hermes::SYNTAX,
            Format::Llama3 => llama3::SYNTAX,
            Format::Mistral => mistral::SYNTAX,
        }
    }
}
