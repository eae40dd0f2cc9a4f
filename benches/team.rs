//! The thread team: a meeting of its members, a job to workers that spin, and to workers that have parked.

use criterion::{Criterion, criterion_group, criterion_main};
use nxd_cpu::team::Team;
use std::time::{Duration, Instant};

/// Meetings of one job, so that the job itself does not count.
const MEETINGS: u64 = 1000;
/// Longer than a worker stays awake without work.
const ASLEEP: Duration = Duration::from_millis(10);

fn teams(c: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let mut group = c.benchmark_group(format!("team of {}", team.threads()));
    group.bench_function("meeting", |b| {
        b.iter_custom(|count| {
            let start = Instant::now();
            for _ in 0..count.div_ceil(MEETINGS) {
                team.run(&|member| (0..MEETINGS).for_each(|_| member.barrier()));
            }
            start.elapsed().mul_f64(count as f64 / count.next_multiple_of(MEETINGS) as f64)
        });
    });
    group.bench_function("job to spinning workers", |b| b.iter(|| team.run(&|_| {})));
    group.bench_function("job to parked workers", |b| {
        b.iter_custom(|count| {
            let once = |_| {
                std::thread::sleep(ASLEEP);
                let start = Instant::now();
                team.run(&|_| {});
                start.elapsed()
            };
            (0..count).map(once).sum()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = teams
}
criterion_main!(benches);
