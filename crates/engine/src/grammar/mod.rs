//! Structured output: which tokens may come next so that a text keeps to a JSON schema, a regular expression or a grammar.
//!
//! [`Grammars`] belongs to one tokenizer and compiles [`Constraint`]s; a [`Grammar`] is where one completion stands. Everything fails
//! closed: a constraint that is too large, or of which a part would be ignored, is refused, never loosened.
//!
//! *Does not know*: requests, steps, logits. The masks have the form that sampling takes.
//!
//! Reading order: [`Constraint`] and [`Grammars`] here, `limits` (what is looked at at all), `schema` and `pattern` (its parts), `source`
//! (the library's form of a constraint), `compile` (a thread of its own), `trie` (the tokens' texts), `progress` (one completion).

mod compile;
mod error;
mod limits;
mod pattern;
mod progress;
mod schema;
mod source;
mod trie;

pub use error::GrammarError;
pub use progress::Grammar;

use compile::Compiler;
use nxd_models::Tokenizer;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use trie::Words;

/// What a completion's text must be, from its first character to its last.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that this schema describes. Between the parts of the text stands one space or none, never a line break.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole. Its syntax is that of the `regex` crate, without look-around.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's form of Lark.
    Lark(String),
    /// Any text, in which each opening mark begins a frame that holds to its schema.
    Frames(Frames),
}

/// Text with frames in it. A frame is an opening mark, a JSON value, and a closing mark; around the value a line may break.
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    /// What begins a frame, wherever it stands. Never empty.
    pub opening: String,
    /// What ends it.
    pub closing: String,
    /// The schema of the value, as of [`Constraint::JsonSchema`].
    pub schema: Value,
    /// Whether there may be more than one frame.
    pub several: bool,
}

/// Compiles constraints for one tokenizer. Clones share everything.
#[derive(Clone)]
pub struct Grammars {
    compiler: Arc<Compiler>,
}

impl Grammars {
    /// Grammars over the tokens of `tokenizer`, for logits with `vocab_size` rows. `eos_ids` are the tokens that may end a text; they are
    /// allowed where the text is complete and nowhere else.
    ///
    /// Only the tokens' bytes are copied here; what takes long waits for the first [`Grammars::compile`].
    ///
    /// # Errors
    /// When there are no rows, or more than a trie can name.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_ids: &[u32]) -> Result<Grammars, GrammarError> {
        let words = Words::new(tokenizer, vocab_size, eos_ids)?;
        Ok(Grammars { compiler: Arc::new(Compiler::new(words)) })
    }

    /// The grammar of `constraint`, at the start of a text. May take a second: not for the engine's thread.
    ///
    /// # Errors
    /// When the constraint is refused, which [`GrammarError::is_refusal`] tells, or the compiler cannot be asked.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        limits::check(constraint)?;
        let source = source::source(constraint, |mark| self.compiler.special_id(mark))?;
        Arc::clone(&self.compiler).compile(source, source::name(constraint))
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}
