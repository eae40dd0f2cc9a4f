//! Where one completion stands in its grammar.

use super::GrammarError;
use super::compile::reason;
use llguidance::Matcher;
use std::fmt;
use std::sync::Arc;

/// Where one completion stands. A clone goes its own way from there.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    vocab_size: usize,
    eos_ids: Arc<[u32]>,
    mask: Option<Arc<[u32]>>,
    taken: usize,
    /// An end token was taken.
    ended: bool,
}

impl Grammar {
    pub(super) fn new(matcher: Matcher, vocab_size: usize, eos_ids: Arc<[u32]>) -> Grammar {
        Grammar { matcher, vocab_size, eos_ids, mask: None, taken: 0, ended: false }
    }

    /// Which tokens may come next: token `t` may if bit `t % 32` of word `t / 32` is set. Asking twice costs nothing.
    ///
    /// # Shapes
    /// `[⌈V / 32⌉]`.
    ///
    /// # Errors
    /// When no token can go on and the text may not end here either, or the grammar is too ambiguous at this place.
    pub fn mask(&mut self) -> Result<Arc<[u32]>, GrammarError> {
        if let Some(mask) = &self.mask {
            return Ok(Arc::clone(mask));
        }
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| failed(&e))?;
        let mut words: Vec<u32> = allowed.into();
        words.resize(self.vocab_size.div_ceil(32), 0);
        // The library's set has room for one token more than there are.
        if let (Some(last), used @ 1..) = (words.last_mut(), self.vocab_size % 32) {
            *last &= (1 << used) - 1;
        }
        let mask: Arc<[u32]> = words.into();
        self.mask = Some(Arc::clone(&mask));
        Ok(mask)
    }

    /// Goes on by `token`. An end token is the last one.
    ///
    /// # Errors
    /// When the mask forbids the token, which leaves everything as it was, or the grammar fails.
    pub fn take(&mut self, token: u32) -> Result<(), GrammarError> {
        let mask = self.mask()?;
        let allowed = mask.get(token as usize / 32).is_some_and(|word| word & (1 << (token % 32)) != 0);
        if self.ended || !allowed {
            return Err(GrammarError::NotAllowed { token });
        }
        if self.eos_ids.contains(&token) {
            self.ended = true;
        } else {
            self.mask = None;
            self.matcher.consume_token(token).map_err(|e| failed(&e))?;
        }
        self.taken += 1;
        Ok(())
    }

    /// Whether the text is complete and nothing but an end token can follow.
    pub fn is_over(&self) -> bool {
        self.ended || (self.matcher.is_stopped() && !self.matcher.is_error())
    }

    /// Whether a mask holds end tokens alone.
    pub(super) fn only_ends(&self, mask: &[u32]) -> bool {
        let ends = (0u32..).step_by(32).map(|first| {
            let mine = self.eos_ids.iter().filter(|id| (first..first + 32).contains(*id));
            mine.fold(0, |word, id| word | 1 << (id - first))
        });
        mask.iter().zip(ends).all(|(word, ends)| word & !ends == 0)
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("taken", &self.taken).field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

fn failed(error: &impl fmt::Display) -> GrammarError {
    GrammarError::Failed { reason: reason(&error.to_string()) }
}
