//! How a command fails: what is printed, and the exit code that scripts see.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Why a command ended; the number is the program's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(dead_code, reason = "the codes are one list, whichever commands are built")]
pub(crate) enum Kind {
    /// The check or a request failed.
    Failed = 1,
    /// The command line, or something it names, cannot be what was meant.
    Usage = 2,
    /// A model, or one of its files, is missing, broken or not supported.
    Model = 3,
    /// Not enough memory.
    Memory = 4,
    /// A rank, or the transport between ranks.
    Distributed = 5,
    /// An address that cannot be listened on.
    Bind = 6,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Model => "model",
            Self::Memory => "memory",
            Self::Distributed => "distributed",
            Self::Bind => "bind",
        }
    }
}

/// A failed command: one line that says what, its causes, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    help: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), help: None }
    }

    /// The error's text as message, its sources as causes.
    pub(crate) fn of(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(kind, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    pub(crate) fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.kind.label(), self.message)?;
        for cause in &self.causes {
            write!(f, "\n  cause: {}", cause.replace('\n', "\n         "))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {}", help.replace('\n', "\n        ")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading `a.gguf`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_prints_message_causes_and_help() {
        let failure = Failure::of(Kind::Model, &Outer(std::io::Error::other("disk on fire"))).with_help("pour water");
        assert_eq!(failure.to_string(), "error[model]: reading `a.gguf`\n  cause: disk on fire\n  help: pour water");
        assert_eq!(format!("{:?}", failure.exit_code()), format!("{:?}", ExitCode::from(3)));
    }
}
