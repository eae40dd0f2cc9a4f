//! Grammars over the golden tokenizers: what may come next, what a walk ends in, and what is refused.

mod frames;
mod masks;
mod refused;
mod walks;

use nxd_engine::grammar::{Constraint, Grammar, Grammars};
use nxd_models::Tokenizer;
use serde_json::Value;
use std::sync::LazyLock;

/// A tokenizer with its grammars.
struct Case {
    name: String,
    tokenizer: Tokenizer,
    grammars: Grammars,
    vocab_size: usize,
    eos: Vec<u32>,
}

/// The golden tokenizers that can write any text; each has two end tokens and rows of logits that are no token.
static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let dirs = nxd_testkit::folders(&nxd_testkit::goldens().join("tokenizers"));
    let cases: Vec<Case> = dirs.iter().filter_map(|dir| case(dir)).collect();
    assert!(cases.len() >= 2, "a tokenizer of each kind");
    cases
});

fn case(dir: &std::path::Path) -> Option<Case> {
    let tokenizer = Tokenizer::from_dir(dir, 1 << 20).unwrap()?;
    let vocab_size = tokenizer.vocab_size() + 37;
    let ids = 0..tokenizer.vocab_size() as u32;
    let bytes = ids.clone().filter(|id| tokenizer.token_bytes(*id).len() == 1 && !tokenizer.is_special(*id)).count();
    let eos: Vec<u32> = ids.filter(|id| tokenizer.is_special(*id)).take(2).collect();
    if bytes < 200 || eos.is_empty() {
        return None;
    }
    let grammars = Grammars::new(&tokenizer, vocab_size, &eos).unwrap();
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    Some(Case { name, tokenizer, grammars, vocab_size, eos })
}

impl Case {
    fn grammar(&self, constraint: &Constraint) -> Grammar {
        self.grammars.compile(constraint).unwrap_or_else(|e| panic!("{}: {constraint:?}: {e}", self.name))
    }

    fn schema(&self, schema: Value) -> Grammar {
        self.grammar(&Constraint::JsonSchema(schema))
    }

    /// The tokens that may come next.
    fn allowed(&self, grammar: &mut Grammar) -> Vec<u32> {
        let mask = grammar.mask().unwrap();
        assert_eq!(mask.len(), self.vocab_size.div_ceil(32));
        (0..mask.len() as u32 * 32).filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect()
    }

    fn bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.token_bytes(token)
    }

    /// Goes on by `text`, by any tokens; says how many bytes of it are allowed.
    fn take(&self, grammar: &mut Grammar, text: &str) -> usize {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let fits =
                |id: &u32| !self.eos.contains(id) && !self.bytes(*id).is_empty() && rest.starts_with(self.bytes(*id));
            let Some(token) = self.allowed(grammar).into_iter().filter(fits).max_by_key(|id| self.bytes(*id).len())
            else {
                break;
            };
            grammar.take(token).unwrap();
            rest = &rest[self.bytes(token).len()..];
        }
        text.len() - rest.len()
    }

    /// Whether the text may end here.
    fn may_end(&self, grammar: &mut Grammar) -> bool {
        let allowed = self.allowed(grammar);
        let ends = self.eos.iter().filter(|id| allowed.contains(id)).count();
        assert!(ends == 0 || ends == self.eos.len(), "{}: all end tokens or none", self.name);
        ends > 0
    }

    /// Whether `text` is one of the grammar's.
    fn accepts(&self, grammar: &Grammar, text: &str) -> bool {
        let mut grammar = grammar.clone();
        self.take(&mut grammar, text) == text.len() && self.may_end(&mut grammar)
    }
}
