//! What this machine can do at most: memory and cache reads, f32 and int8 arithmetic, with one thread and with all.
//!
//! `cargo bench -p nxd-benches --bench limits` prints a table, `-- --json` an object: medians of five. With `--test` each loop runs
//! once, briefly. Kernels are judged by the fraction of these numbers that they reach (`docs/performance.md`).

mod peak;

use nxd_cpu::limits::read_bytes_per_s;
use nxd_cpu::team::Team;
use peak::Peak;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Beyond the last-level cache; and beyond the second, within the last of most processors.
const MEMORY: usize = 256 << 20;
const CACHE_EACH: usize = 4 << 20;

struct Effort {
    runs: usize,
    passes: usize,
    time: Duration,
}

/// One limit: `values` are for one thread and for all of them.
struct Row {
    key: String,
    name: String,
    unit: &'static str,
    values: [f64; 2],
}

fn main() -> std::io::Result<()> {
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    let effort = match asked("--test") {
        true => Effort { runs: 1, passes: 1, time: Duration::from_millis(1) },
        false => Effort { runs: 5, passes: 3, time: Duration::from_millis(100) },
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let rows = measure([Team::new(1), Team::new(threads)], &effort);
    let text = if asked("--json") { json(&rows, threads) } else { table(&rows, threads) };
    std::io::stdout().write_all(text.as_bytes())
}

fn measure(teams: [Team; 2], effort: &Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |key: &str, name: String, unit, rate: &dyn Fn(&Team) -> f64| {
        let values = [0, 1].map(|i| median((0..effort.runs).map(|_| rate(&teams[i]) / 1e9).collect()));
        rows.push(Row { key: key.to_owned(), name, unit, values });
    };
    let memory = if effort.runs == 1 { CACHE_EACH } else { MEMORY };
    add("memory_read", "memory read".to_owned(), "GB/s", &|team| read_bytes_per_s(team, memory, effort.passes));
    add("cache_read", "cache read, 4 MiB a thread".to_owned(), "GB/s", &|team| {
        read_bytes_per_s(team, CACHE_EACH * team.threads(), 20 * effort.passes)
    });
    for peak in Peak::available() {
        add(peak.key, format!("{}, {}", peak.numbers, peak.instructions), "Gop/s", &|team| {
            rate(team, peak, effort.time)
        });
    }
    rows
}

/// Operations a second of all members together.
fn rate(team: &Team, peak: &Peak, time: Duration) -> f64 {
    let done = Mutex::new(0.0);
    team.run(&|member| {
        member.barrier();
        let (start, mut rounds) = (Instant::now(), 0_u64);
        while start.elapsed() < time {
            black_box(peak.run());
            rounds += 1;
        }
        let own = rounds as f64 * peak.operations() / start.elapsed().as_secs_f64();
        *done.lock().expect("no member panics while it adds") += own;
    });
    done.into_inner().expect("a panic would have left `run`")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(rows: &[Row], threads: usize) -> String {
    let mut text = format!("{:<44} {:>10} {:>12}\n", "limit", "1 thread", format!("{threads} threads"));
    for Row { name, unit, values: [one, all], .. } in rows {
        let _ = writeln!(text, "{name:<44} {one:>10.1} {all:>12.1} {unit}"); // a String takes every write
    }
    text
}

fn json(rows: &[Row], threads: usize) -> String {
    let limits: Vec<String> = rows
        .iter()
        .map(|Row { key, name, unit, values: [one, all] }| {
            format!("\"{key}\":{{\"name\":\"{name}\",\"unit\":\"{unit}\",\"1\":{one:.2},\"all\":{all:.2}}}")
        })
        .collect();
    format!("{{\"threads\":{threads},\"limits\":{{{}}}}}\n", limits.join(","))
}
