//! Collective operations between threads, against plain computations; and what ranks learn when one of them fails.

mod failures;
mod operations;

use std::time::Duration;

use nxd_collectives::{ProcessGroup, ThreadGroup};

const SIZES: [usize; 5] = [1, 2, 3, 4, 7];
/// Shorter than a group, not divisible by it, on both sides of the length from which sums are shared out.
const LENGTHS: [usize; 8] = [0, 1, 2, 5, 16, 1001, 4096, 30_011];

/// Runs `rank_main` on `size` threads, one a rank, and returns what each returned, in rank order.
fn run<R: Send>(size: usize, deadline: Duration, rank_main: impl Fn(&ProcessGroup) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let ranks: Vec<_> = ThreadGroup::new(size, deadline)
            .into_iter()
            .map(|group| {
                scope.spawn(|| {
                    let group = group;
                    rank_main(&group)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank's own assertion holds")).collect()
    })
}

/// For tests in which nothing should be waited for long.
fn run_well<R: Send>(size: usize, rank_main: impl Fn(&ProcessGroup) -> R + Sync) -> Vec<R> {
    run(size, Duration::from_secs(60), rank_main)
}

/// Values of very different magnitudes, so that another order of additions gives other bits.
fn values(rank: usize, len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(rank as u64 + 1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..len).map(|_| (next() as f32 - 1e9) * 10f32.powi((next() % 9) as i32 - 4)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
