//! Chat templates: a conversation to the text that a model was trained on.
//!
//! Templates come with checkpoints and are programs; here they run in `minijinja` with bounds on source, instructions, recursion and
//! output. They see what transformers shows them: `messages`, `tools`, `add_generation_prompt`, the special tokens by role, and
//! whatever else the caller passes on.
//!
//! Reading order: [`ChatTemplate`] here, `environment` (functions and bounds), `json` (`tojson`), `clock` (`strftime_now`),
//! `generation` (the one tag that Jinja does not know).

use std::io;
use std::sync::OnceLock;
use std::time::SystemTime;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

mod clock;
mod environment;
mod generation;
mod json;

/// Longest source that is compiled. Templates of real models stay below 100 kB.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Longest text that is rendered; more than any context holds.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// A chat template and the special tokens it may name. Compiled when first rendered.
#[derive(Debug)]
pub struct ChatTemplate {
    plain: Source,
    with_tools: Option<Source>,
    origin: String,
    special_tokens: Vec<(String, String)>,
}

/// What a template is rendered from. Objects keep the order of their fields.
#[derive(Clone, Debug, Default)]
pub struct Conversation<'a> {
    /// Messages, each an object with `role` and `content`.
    pub messages: &'a [Json],
    /// Tool definitions; `None` and an empty list are different things to a template.
    pub tools: Option<&'a [Json]>,
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`; they win over those above.
    pub extra: Map<String, Json>,
    /// The time that `strftime_now` sees, in UTC; `None`: now.
    pub now: Option<SystemTime>,
}

/// A template that cannot be used, or that refuses a conversation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The source is too long to be a template.
    #[error("{origin}: the chat template has {found} bytes; at most {allowed} are allowed")]
    TooLong {
        /// File and field.
        origin: String,
        /// Its length.
        found: usize,
        /// The limit.
        allowed: usize,
    },
    /// The source is not a template.
    #[error("{origin}: the chat template cannot be parsed (line {line}): {reason}")]
    Syntax {
        /// File and field.
        origin: String,
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The template itself refuses the conversation: these are its words.
    #[error("{0}")]
    Raised(String),
    /// The template failed while it ran.
    #[error("{origin}: the chat template failed (line {line}): {reason}")]
    Failed {
        /// File and field.
        origin: String,
        /// Line of the template, from 1.
        line: usize,
        /// What happened there.
        reason: String,
    },
    /// The template does not end.
    #[error("{origin}: the chat template was stopped after {fuel} steps; it loops or builds too much")]
    OutOfFuel {
        /// File and field.
        origin: String,
        /// The limit.
        fuel: u64,
    },
    /// The template writes without end.
    #[error("{origin}: the chat template writes more than {allowed} bytes")]
    TooMuchOutput {
        /// File and field.
        origin: String,
        /// The limit.
        allowed: usize,
    },
}

/// A template's text and, from the first use on, what it compiles to.
#[derive(Debug)]
struct Source {
    text: String,
    compiled: OnceLock<Result<Environment<'static>, Refusal>>,
}

/// Why a source does not compile; kept, since it is asked again at each request.
#[derive(Clone, Debug)]
enum Refusal {
    TooLong(usize),
    Syntax { line: usize, reason: String },
}

impl ChatTemplate {
    /// A template from its text. `origin` says where it came from, for messages: a file and a field. `special_tokens` are pairs of
    /// role and text, such as `bos_token` and `<s>`. Nothing is checked before the first use.
    pub fn new(text: String, origin: String, special_tokens: Vec<(String, String)>) -> ChatTemplate {
        ChatTemplate { plain: Source::new(text), with_tools: None, origin, special_tokens }
    }

    /// Another text for conversations with tools.
    #[must_use]
    pub fn with_tools(mut self, text: String) -> ChatTemplate {
        self.with_tools = Some(Source::new(text));
        self
    }

    /// The template's source.
    pub fn text(&self) -> &str {
        &self.plain.text
    }

    /// Where the template came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text of `conversation`. Encode it without adding special tokens: the template writes them out.
    ///
    /// # Errors
    /// When the template is malformed, refuses the conversation, fails on it, or exceeds a bound.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, ChatError> {
        let source = match &self.with_tools {
            Some(source) if conversation.tools.is_some_and(|tools| !tools.is_empty()) => source,
            _ => &self.plain,
        };
        let environment = source.compiled().map_err(|refusal| self.refused(refusal))?;
        let fail = |e| self.failed(&e);
        let template = environment.get_template(environment::NAME).map_err(fail)?;
        let mut output = Bounded { bytes: Vec::new() };
        template.render_captured_to(self.variables(conversation), &mut output).map_err(fail)?;
        // minijinja writes strings only.
        String::from_utf8(output.bytes).map_err(|e| ChatError::Failed {
            origin: self.origin.clone(),
            line: 0,
            reason: e.utf8_error().to_string(),
        })
    }

    fn variables(&self, conversation: &Conversation<'_>) -> Value {
        let mut all: Vec<(String, Value)> = Vec::new();
        for (role, text) in &self.special_tokens {
            all.push((role.clone(), Value::from(text.as_str())));
        }
        all.push(("messages".to_owned(), Value::from(Serde(conversation.messages))));
        all.push(("tools".to_owned(), Value::from(Serde(conversation.tools))));
        all.push(("documents".to_owned(), Value::from(())));
        all.push(("add_generation_prompt".to_owned(), Value::from(conversation.add_generation_prompt)));
        all.push(("strftime_now".to_owned(), clock::strftime_now(conversation.now)));
        all.extend(conversation.extra.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))));
        Value::from_pairs(all)
    }

    fn refused(&self, refusal: Refusal) -> ChatError {
        let origin = self.origin.clone();
        match refusal {
            Refusal::TooLong(found) => ChatError::TooLong { origin, found, allowed: MAX_SOURCE_BYTES },
            Refusal::Syntax { line, reason } => ChatError::Syntax { origin, line, reason },
        }
    }

    fn failed(&self, error: &minijinja::Error) -> ChatError {
        let origin = self.origin.clone();
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = next {
            if let Some(raised) = cause.downcast_ref::<environment::Raised>() {
                return ChatError::Raised(raised.0.clone());
            }
            if cause.downcast_ref::<io::Error>().is_some() {
                return ChatError::TooMuchOutput { origin, allowed: MAX_OUTPUT_BYTES };
            }
            if cause.downcast_ref::<minijinja::Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
                return ChatError::OutOfFuel { origin, fuel: environment::FUEL };
            }
            next = cause.source();
        }
        let reason = reason(error);
        ChatError::Failed { origin, line: error.line().unwrap_or(0), reason }
    }
}

impl Source {
    fn new(text: String) -> Source {
        Source { text, compiled: OnceLock::new() }
    }

    fn compiled(&self) -> Result<&Environment<'static>, Refusal> {
        let compiled = self.compiled.get_or_init(|| {
            if self.text.len() > MAX_SOURCE_BYTES {
                return Err(Refusal::TooLong(self.text.len()));
            }
            environment::compile(generation::strip(&self.text))
                .map_err(|e| Refusal::Syntax { line: e.line().unwrap_or(0), reason: reason(&e) })
        });
        compiled.as_ref().map_err(Clone::clone)
    }
}

/// The kind of an error and what it is about, without the template's invented file name.
fn reason(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Refuses to grow past [`MAX_OUTPUT_BYTES`].
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
