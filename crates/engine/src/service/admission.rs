//! The bounded queue: how many requests, and how many tokens of prompts, may wait.

use parking_lot::Mutex;
use std::sync::Arc;

/// What may wait at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that have not started.
    pub max_queued_requests: usize,
    /// Tokens of their prompts. A single prompt is let in whatever its length when no other waits.
    pub max_queued_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_queued_requests: 256, max_queued_tokens: 1 << 20 }
    }
}

/// Why nothing is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many requests wait.
    #[error("{waiting} requests wait already, the queue holds {allowed}; try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// The limit.
        allowed: usize,
    },
    /// Too many tokens wait.
    #[error("prompts of {waiting} tokens wait already, the queue holds {allowed}; try again later")]
    TokensFull {
        /// Tokens of the prompts that wait.
        waiting: usize,
        /// The limit.
        allowed: usize,
    },
    /// The service ends.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// The engine has failed.
    #[error("the engine has failed: {0}")]
    Dead(Arc<str>),
}

/// The queue's books.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    /// Requests and tokens that wait.
    queued: Mutex<(usize, usize)>,
}

/// A place in the queue, given back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    tokens: usize,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Admission { limits, queued: Mutex::new((0, 0)) }
    }

    pub(super) fn queued(&self) -> (usize, usize) {
        *self.queued.lock()
    }

    /// Takes a place for a request whose tokens are not counted yet.
    pub(super) fn enter(this: &Arc<Admission>) -> Result<Ticket, Refusal> {
        let mut queued = this.queued.lock();
        if queued.0 >= this.limits.max_queued_requests {
            return Err(Refusal::QueueFull { waiting: queued.0, allowed: this.limits.max_queued_requests });
        }
        queued.0 += 1;
        Ok(Ticket { admission: Arc::clone(this), tokens: 0 })
    }
}

impl Ticket {
    /// Counts the prompt's tokens.
    pub(super) fn weigh(&mut self, tokens: usize) -> Result<(), Refusal> {
        let mut queued = self.admission.queued.lock();
        let allowed = self.admission.limits.max_queued_tokens;
        if queued.1 > 0 && queued.1.saturating_add(tokens) > allowed {
            return Err(Refusal::TokensFull { waiting: queued.1, allowed });
        }
        queued.1 += tokens;
        self.tokens += tokens;
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queued = self.admission.queued.lock();
        queued.0 -= 1;
        queued.1 -= self.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_by_requests_and_by_tokens_and_come_back() {
        let admission = Arc::new(Admission::new(Limits { max_queued_requests: 2, max_queued_tokens: 10 }));
        let mut first = Admission::enter(&admission).unwrap();
        first.weigh(50).unwrap();
        let mut second = Admission::enter(&admission).unwrap();
        assert_eq!(second.weigh(1), Err(Refusal::TokensFull { waiting: 50, allowed: 10 }));
        assert_eq!(
            Admission::enter(&admission).unwrap_err().to_string(),
            "2 requests wait already, the queue holds 2; try again later"
        );
        drop(first);
        second.weigh(10).unwrap();
        assert_eq!(admission.queued(), (1, 10));
        drop(second);
        assert_eq!(admission.queued(), (0, 0));
    }
}
