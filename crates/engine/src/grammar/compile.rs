//! Compiling on a thread of its own: the library recurses as deep as a constraint is long.

use super::trie::Words;
use super::{Grammar, GrammarError};
use crossbeam::channel::{Receiver, Sender, bounded};
use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// Enough for the longest chain of rules, references or properties that the limits let through, in an unoptimised build.
const STACK_BYTES: usize = 128 << 20;
/// Compiling ends by itself, within the library's limits. An answer is due before it does.
const DEADLINE: Duration = Duration::from_secs(10);
/// Threads that compile at one time, those included that nobody waits for any more.
const MAX_RUNNING: usize = 8;
/// Errors quote what they are about.
const MAX_REASON_CHARS: usize = 300;

/// Compiles constraints, several at a time.
pub(super) struct Compiler {
    words: Words,
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    /// One message for each thread that may be started.
    free: (Sender<()>, Receiver<()>),
}

/// A thread's place among [`MAX_RUNNING`].
struct Place(Sender<()>);

impl Drop for Place {
    fn drop(&mut self) {
        // There is room for every message that was taken out.
        let _ = self.0.try_send(());
    }
}

impl Compiler {
    pub(super) fn new(words: Words) -> Compiler {
        let free = bounded(MAX_RUNNING);
        for _ in 0..MAX_RUNNING {
            drop(Place(free.0.clone()));
        }
        Compiler { words, factory: OnceLock::new(), free }
    }

    /// The control token with this text, if there is one.
    pub(super) fn special_id(&self, text: &str) -> Option<u32> {
        self.words.special_id(text)
    }

    /// The grammar of `source`, which stands for what the user calls `what`.
    pub(super) fn compile(
        self: Arc<Self>,
        source: TopLevelGrammar,
        what: &'static str,
    ) -> Result<Grammar, GrammarError> {
        let seconds = DEADLINE.as_secs();
        let busy = |_| GrammarError::Busy { running: MAX_RUNNING, seconds };
        self.free.1.recv_timeout(DEADLINE).map_err(busy)?;
        let place = Place(self.free.0.clone());
        let (done, result) = bounded(1);
        let work = move || {
            let _place = place;
            // Nobody listens any more when it took too long.
            let _ = done.send(self.compile_here(source, what));
        };
        let thread = thread::Builder::new().name("nxd-grammar".to_owned()).stack_size(STACK_BYTES).spawn(work);
        thread.map_err(|_| GrammarError::Thread { what })?;
        result.recv_timeout(DEADLINE).unwrap_or(Err(GrammarError::TooSlow { what, seconds }))
    }

    fn compile_here(&self, source: TopLevelGrammar, what: &'static str) -> Result<Grammar, GrammarError> {
        let refused = |said: &str| GrammarError::Refused { what, reason: reason(said) };
        let factory = self.factory.get_or_init(|| self.words.factory()).as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(source).map_err(|e| refused(&e.to_string()))?;
        let mut matcher = Matcher::new(Ok(parser));
        if let Some(warning) = matcher.grammar_warnings().first() {
            return Err(refused(warning));
        }
        // Notices that a grammar is over before it began.
        matcher.consume_tokens(&[]).map_err(|e| refused(&e.to_string()))?;
        let mut grammar = Grammar::new(matcher, self.words.vocab_size(), self.words.eos_ids());
        // The first mask costs most, and tells whether there is a text at all.
        match grammar.mask() {
            Ok(mask) if grammar.is_over() || grammar.only_ends(&mask) => {
                Err(refused("the only text that it allows is the empty one"))
            }
            Ok(_) => Ok(grammar),
            Err(GrammarError::Failed { reason }) => Err(GrammarError::Refused { what, reason }),
            Err(error) => Err(error),
        }
    }
}

/// What the library says is wrong, in one sentence and without the picture around it.
pub(super) fn reason(said: &str) -> String {
    // The parser of regular expressions draws the place first.
    let line = said.lines().find_map(|line| line.strip_prefix("error: ")).or_else(|| said.lines().next());
    let line = line.unwrap_or_default();
    if line == StopReason::NoExtensionBias.to_string() {
        return "no token leads on to a text that it allows".to_owned();
    }
    if line.starts_with("oneOf constraints") {
        return "`oneOf` is supported where no two of its schemas can hold at once; use `anyOf`".to_owned();
    }
    let line = match line.strip_prefix("panic: ") {
        Some(message) => format!("its compiler failed: {message}"),
        None => line.to_owned(),
    };
    line.chars().take(MAX_REASON_CHARS).collect()
}
