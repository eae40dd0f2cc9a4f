//! How many members run a job beside processes that want the same cores.
//!
//! A member that shares its core is away for milliseconds at a time, and all others wait for it: with one endless loop beside two members
//! a step took twice as long as with one member alone. So a team that keeps waiting, or whose leader keeps losing its core, goes on with a
//! member less, and tries again with all after a while. Results do not depend on it.

#[cfg(target_os = "linux")]
use super::affinity::taken_and_run;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// What is counted together: some time slices of the system.
const WINDOW: Duration = Duration::from_millis(50);
/// A wait within a job that is no uneven cut: most jobs of a decode step are a tenth of it as a whole.
const STALL: Duration = Duration::from_millis(2);
/// Stalls in a window, or times that the leader lost its core, that are no coincidence: a busy neighbour makes about seven.
const MANY: u64 = 4;
/// Without a job for so long a team is idle: what its leader did meanwhile says nothing of a job's cores.
const IDLE: Duration = Duration::from_millis(10);
/// The share of a window for which a member runs whose core is its own. A leader that slept gave its core away by itself; a worker that ran
/// so long kept others waiting by its work: where the system first gives it memory, a page may take milliseconds.
const OWN_CORE: f64 = 0.8;
/// How long to go on with a member less, at first and at most; it doubles while the neighbour stays.
const SHORTEST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(3);

/// Says for how long a worker has run, where the system does.
pub(super) type Ran = Box<dyn Fn() -> Option<Duration> + Send>;

/// What a leader knows of its neighbours.
pub(super) struct Shedding {
    /// Members of the team.
    all: usize,
    /// Members of the next job.
    members: Cell<usize>,
    window: Cell<Instant>,
    stalls: Cell<u64>,
    /// How often the leader had lost its core when the window began, and how long it had run.
    leader: Cell<(u64, Duration)>,
    /// The clocks of the workers, if they are known, and how long each had run by then.
    workers: Vec<(Ran, Cell<Option<Duration>>)>,
    /// When the last job ended.
    ended: Cell<Instant>,
    /// When to try again with one more.
    again: Cell<Option<Instant>>,
    rest: Cell<Duration>,
}

impl Shedding {
    pub(super) fn new(all: usize, workers: Vec<Ran>) -> Self {
        Shedding {
            all,
            workers: workers
                .into_iter()
                .map(|ran| {
                    let before = Cell::new(ran());
                    (ran, before)
                })
                .collect(),
            members: Cell::new(all),
            window: Cell::new(Instant::now()),
            stalls: Cell::new(0),
            leader: Cell::new(taken_and_run()),
            ended: Cell::new(Instant::now()),
            again: Cell::new(None),
            rest: Cell::new(SHORTEST),
        }
    }

    /// Members of a job that begins `now`.
    pub(super) fn members(&self, now: Instant) -> usize {
        if now.duration_since(self.ended.get()) > IDLE {
            self.begin(now);
        }
        if self.members.get() < self.all && self.again.get().is_some_and(|again| now >= again) {
            self.members.set(self.members.get() + 1);
            self.again.set((self.members.get() < self.all).then(|| now + self.rest.get()));
            self.begin(now);
        } else if self.stalls.get() >= MANY || now.duration_since(self.window.get()) >= WINDOW {
            // Each further stall would cost a time slice.
            self.judge(now);
        }
        self.members.get()
    }

    /// The next jobs have so many members.
    #[cfg(test)]
    pub(super) fn set(&self, members: usize) {
        self.members.set(members);
        self.begin(Instant::now());
    }

    /// A job ends `now`, in which the leader waited for so long for others.
    pub(super) fn waited(&self, long: Duration, now: Instant) {
        self.ended.set(now);
        if long >= STALL {
            self.stalls.set(self.stalls.get() + 1);
        }
    }

    /// Ends a window.
    fn judge(&self, now: Instant) {
        let length = now.duration_since(self.window.get());
        let ((taken_before, run_before), (taken, run)) = (self.leader.get(), taken_and_run());
        let alone = run.saturating_sub(run_before).as_secs_f64() >= OWN_CORE * length.as_secs_f64();
        let shares = !alone && taken.saturating_sub(taken_before) >= MANY;
        let stalls = self.stalls.get() >= MANY && !self.workers_ran(length);
        if (shares || stalls) && self.members.get() > 1 {
            self.members.set(self.members.get() - 1);
            self.again.set(Some(now + self.rest.get()));
            self.rest.set((2 * self.rest.get()).min(LONGEST));
            let (members, stalls) = (self.members.get(), self.stalls.get());
            tracing::debug!(members, stalls, "cores are shared with others: a member less for a while");
        } else if self.members.get() == self.all {
            self.rest.set(SHORTEST.max(self.rest.get() / 2));
        }
        self.begin(now);
    }

    /// Whether all workers of the window's jobs are known to have had cores of their own.
    fn workers_ran(&self, length: Duration) -> bool {
        let workers = self.members.get() - 1;
        self.workers.len() >= workers
            && self.workers.iter().take(workers).all(|(ran, before)| {
                let ran = ran().zip(before.get()).map(|(now, before)| now.saturating_sub(before));
                ran.is_some_and(|ran| ran.as_secs_f64() >= OWN_CORE * length.as_secs_f64())
            })
    }

    fn begin(&self, now: Instant) {
        self.window.set(now);
        self.stalls.set(0);
        self.leader.set(taken_and_run());
        self.workers.iter().for_each(|(ran, before)| before.set(ran()));
    }
}

/// Not known elsewhere: stalls alone decide.
#[cfg(not(target_os = "linux"))]
fn taken_and_run() -> (u64, Duration) {
    (0, Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const STEP: Duration = Duration::from_millis(10);

    /// Members at each of so many jobs, one every 10 ms, in which the leader waits for `wait`.
    fn jobs(shedding: &Shedding, now: &mut Instant, count: usize, wait: Duration) -> Vec<usize> {
        (0..count)
            .map(|_| {
                let members = shedding.members(*now);
                *now += STEP;
                shedding.waited(if members > 1 { wait } else { Duration::ZERO }, *now);
                members
            })
            .collect()
    }

    #[test]
    fn a_team_that_keeps_waiting_goes_on_with_a_member_less_and_tries_again() {
        let (shedding, mut now) = (Shedding::new(2, Vec::new()), Instant::now());
        let busy = jobs(&shedding, &mut now, 400, 3 * STALL);
        let together = busy.iter().filter(|&&members| members == 2).count();
        assert!(busy.contains(&1) && (8..120).contains(&together), "{together} of 400 jobs with both");
        let quiet = jobs(&shedding, &mut now, 400, Duration::ZERO);
        assert_eq!(quiet[399], 2);
    }

    #[test]
    fn a_worker_that_runs_all_along_is_late_by_its_work() {
        for (share, shed) in [(1.0, false), (0.9, false), (0.5, true)] {
            let mut now = Instant::now();
            let (start, time) = (now, Arc::new(Mutex::new(now)));
            let clock = time.clone();
            let ran: Ran = Box::new(move || Some((*clock.lock().unwrap() - start).mul_f64(share)));
            let shedding = Shedding::new(2, vec![ran]);
            let mut members = Vec::new();
            for _ in 0..100 {
                *time.lock().unwrap() = now;
                members.extend(jobs(&shedding, &mut now, 1, 3 * STALL));
            }
            assert_eq!(members.contains(&1), shed, "a worker that ran {share} of the time");
        }
    }

    #[test]
    fn enough_stalls_end_a_window() {
        let (shedding, mut now) = (Shedding::new(2, Vec::new()), Instant::now());
        let many = usize::try_from(MANY).unwrap();
        let members = jobs(&shedding, &mut now, many + 1, 3 * STALL);
        assert!(STEP * (many as u32) < WINDOW && members[..many].iter().all(|&members| members == 2));
        assert_eq!(members[many], 1);
    }

    #[test]
    fn short_waits_and_single_stalls_are_no_reason() {
        let (shedding, mut now) = (Shedding::new(4, Vec::new()), Instant::now());
        assert!(jobs(&shedding, &mut now, 100, STALL / 2).iter().all(|&members| members == 4));
        for _ in 0..20 {
            shedding.waited(5 * STALL, now);
            assert!(jobs(&shedding, &mut now, 10, Duration::ZERO).iter().all(|&members| members == 4));
        }
    }

    #[test]
    fn the_leader_stays() {
        let (shedding, mut now) = (Shedding::new(3, Vec::new()), Instant::now());
        for _ in 0..300 {
            assert!((1..=3).contains(&shedding.members(now)));
            now += STEP;
            (0..5).for_each(|_| shedding.waited(10 * STALL, now));
        }
    }

    #[test]
    fn what_the_leader_does_between_jobs_is_no_reason() {
        let (shedding, mut now) = (Shedding::new(2, Vec::new()), Instant::now());
        for _ in 0..100 {
            // Stalls that are many only if those of both sides of a pause are taken together.
            assert!(jobs(&shedding, &mut now, 3, 2 * STALL).iter().all(|&members| members == 2));
            now += 2 * IDLE;
        }
    }
}
