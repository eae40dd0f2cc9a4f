//! How fast this machine reads memory: what a decode step, which reads every weight once, runs into.

use crate::prefetch::{Cache, ask};
use crate::team::{Member, Team};
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

/// More than the last-level cache of nearly every processor holds.
const BEYOND_CACHES: usize = 256 << 20;
const PASSES: usize = 5;
/// Places that a thread reads from in turn. One stream leaves a fifth of the bandwidth unused, as hardware prefetch looks ahead in each.
const STREAMS: usize = 4;
/// Words of a step in one stream: a cache line.
const LINE: usize = 8;
/// How far each stream asks ahead, in bytes, where lines are asked to the first cache.
const AHEAD: usize = 2048;

/// Bytes a second that the members of `team` read from memory together. Takes some tenths of a second, most of it to get the memory.
pub fn memory_bytes_per_s(team: &Team) -> f64 {
    read_bytes_per_s(team, BEYOND_CACHES, PASSES)
}

/// Bytes a second that the members of `team` read from `bytes` of memory together, shared out among them: the median of `passes`
/// over all of it, after one that is not counted. What fits into a cache is read from there.
pub fn read_bytes_per_s(team: &Team, bytes: usize, passes: usize) -> f64 {
    let step = STREAMS * LINE;
    let words = (bytes / size_of::<u64>() / team.threads()).next_multiple_of(step);
    let rates = Mutex::new(Vec::new());
    team.run(&|member: &Member<'_>| {
        // Each member touches its own part first, so that it lies on its node.
        let part = vec![!0; words];
        for pass in 0..=passes {
            member.barrier();
            let start = Instant::now();
            black_box(read(black_box(&part)));
            member.barrier();
            if member.id == 0 && pass > 0 {
                let rate = (words * size_of::<u64>() * member.threads) as f64 / start.elapsed().as_secs_f64();
                rates.lock().expect("no member panics while it adds a number").push(rate);
            }
        }
    });
    let mut rates = rates.into_inner().expect("a panic would have left `run`");
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Reads every word once; the value only keeps the loop alive.
fn read(words: &[u64]) -> u64 {
    let mut sums = [0_u64; LINE];
    let mut streams = words.chunks_exact(words.len() / STREAMS);
    let streams: [&[u64]; STREAMS] = std::array::from_fn(|_| streams.next().unwrap_or_default());
    let [a, b, c, d] = streams.map(|stream| stream.as_chunks::<LINE>().0);
    let to = Cache::preferred();
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        if to == Cache::First {
            // Worth 8 % there: 74 against 67 GB/s.
            [a, b, c, d].into_iter().for_each(|line| ask(line.as_ptr().cast::<u8>().wrapping_add(AHEAD), to));
        }
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum ^= a[i] ^ b[i] ^ c[i] ^ d[i];
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        let words: Vec<u64> = (0..4 * 8 * 3).map(|i| 1 << (i % 61)).collect();
        assert_eq!(read(&words), words.iter().fold(0, |all, word| all ^ word));
    }

    #[test]
    fn a_rate_is_that_of_all_members() {
        for threads in [1, 3] {
            let rate = read_bytes_per_s(&Team::new(threads), 1 << 16, 3);
            assert!(rate.is_finite() && rate > 1e6, "{rate} bytes a second with {threads} threads");
        }
    }
}
