//! The line that says every few seconds what the engine does.

use std::fmt;

/// Totals at one moment, and what is so at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Throughput {
    /// Tokens of prompts computed so far.
    pub(super) prompt_tokens: u64,
    /// Tokens generated so far.
    pub(super) generated_tokens: u64,
    /// Tokens looked for in the prefix cache so far.
    pub(super) prefix_queries: u64,
    /// Tokens found there so far.
    pub(super) prefix_hits: u64,
    pub(super) running: i64,
    pub(super) waiting: i64,
    /// Share of the KV blocks that requests hold.
    pub(super) kv_usage: f64,
}

/// What happened between two moments.
pub(crate) struct Interval {
    seconds: f64,
    earlier: Throughput,
    now: Throughput,
}

impl Throughput {
    /// What happened since `earlier`; `None` when nothing did and nothing waits to happen.
    pub(crate) fn since(self, earlier: Throughput, seconds: f64) -> Option<Interval> {
        let tokens = |at: Throughput| at.prompt_tokens + at.generated_tokens;
        let busy = tokens(self) > tokens(earlier) || self.running + self.waiting > 0;
        (busy && seconds > 0.0).then_some(Interval { seconds, earlier, now: self })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { seconds, earlier, now } = self;
        let rate = |now: u64, earlier: u64| now.saturating_sub(earlier) as f64 / seconds;
        let queries = now.prefix_queries.saturating_sub(earlier.prefix_queries);
        let hits = now.prefix_hits.saturating_sub(earlier.prefix_hits);
        let hit_rate = if queries == 0 { 0.0 } else { 100.0 * hits as f64 / queries as f64 };
        write!(
            f,
            "Avg prompt throughput: {:.1} tokens/s, Avg generation throughput: {:.1} tokens/s, Running: {} reqs, \
             Waiting: {} reqs, KV cache usage: {:.1}%, Prefix cache hit rate: {hit_rate:.1}%",
            rate(now.prompt_tokens, earlier.prompt_tokens),
            rate(now.generated_tokens, earlier.generated_tokens),
            now.running,
            now.waiting,
            100.0 * now.kv_usage,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_interval_is_one_line_and_an_idle_one_is_none() {
        let earlier = Throughput { prompt_tokens: 100, generated_tokens: 10, ..Throughput::default() };
        assert!(earlier.since(earlier, 10.0).is_none());
        let now = Throughput {
            prompt_tokens: 300,
            generated_tokens: 15,
            prefix_queries: 40,
            prefix_hits: 10,
            running: 2,
            waiting: 1,
            kv_usage: 0.125,
        };
        assert_eq!(
            now.since(earlier, 10.0).unwrap().to_string(),
            "Avg prompt throughput: 20.0 tokens/s, Avg generation throughput: 0.5 tokens/s, Running: 2 reqs, \
             Waiting: 1 reqs, KV cache usage: 12.5%, Prefix cache hit rate: 25.0%"
        );
    }
}
