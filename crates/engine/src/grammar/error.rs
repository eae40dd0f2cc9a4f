//! Why a constraint is refused, or a grammar failed.

/// An error of a grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A constraint beyond a limit.
    #[error("the {what} has {found} {unit}; at most {limit} are allowed")]
    TooLarge {
        /// The constraint, or its part.
        what: String,
        /// How much it has, or at least how much where counting ended early.
        found: u64,
        /// What is counted.
        unit: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// A part of a JSON schema that is not supported.
    #[error("the JSON schema's `{at}` is {found}; {allowed}")]
    Schema {
        /// A pointer to the part.
        at: String,
        /// What it is.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A constraint that does not compile.
    #[error("the {what} cannot be used: {reason}")]
    Refused {
        /// The constraint.
        what: &'static str,
        /// What the compiler says of it.
        reason: String,
    },
    /// A constraint that was not compiled in time.
    #[error("the {what} is not compiled after {seconds} s; use a simpler one")]
    TooSlow {
        /// The constraint.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// Too many constraints are being compiled.
    #[error("the compiler of grammars is busy with {running} of them since {seconds} s; try again later")]
    Busy {
        /// How many.
        running: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// A tokenizer whose tokens cannot be arranged.
    #[error("no grammar can constrain this tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong with it.
        reason: String,
    },
    /// A thread could not be started.
    #[error("no thread could be started to compile the {what}")]
    Thread {
        /// The constraint.
        what: &'static str,
    },
    /// A token that the mask forbids.
    #[error("token {token} is not allowed by the grammar at this place")]
    NotAllowed {
        /// The token.
        token: u32,
    },
    /// The grammar cannot say what may come next.
    #[error("the grammar cannot go on: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

impl GrammarError {
    /// Whether the constraint itself is at fault, so that asking again would not help.
    pub fn is_refusal(&self) -> bool {
        match self {
            GrammarError::TooLarge { .. }
            | GrammarError::Schema { .. }
            | GrammarError::Refused { .. }
            | GrammarError::TooSlow { .. } => true,
            GrammarError::Busy { .. }
            | GrammarError::Tokenizer { .. }
            | GrammarError::Thread { .. }
            | GrammarError::NotAllowed { .. }
            | GrammarError::Failed { .. } => false,
        }
    }
}
