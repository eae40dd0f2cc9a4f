//! How many members run a job beside processes that want the same cores.
//!
//! A member that shares its core is away for milliseconds at a time, and all others wait for it: with one endless loop beside two members
//! a step took twice as long as with one member alone. So a team that keeps waiting, or whose leader keeps losing its core, goes on with a
//! member less, and tries again with all after a while. Results do not depend on it.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// What is counted together: some time slices of the system.
const WINDOW: Duration = Duration::from_millis(50);
/// A wait within a job that is no uneven cut: most jobs of a decode step are shorter as a whole.
const STALL: Duration = Duration::from_micros(700);
/// Stalls, and times that the leader lost its core, in a window that are no coincidence: a busy neighbour makes about seven of each.
const MANY: u32 = 3;
/// How long to go on with a member less, at first and at most; it doubles while the neighbour stays.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(3);

/// What a leader knows of its neighbours.
#[derive(Debug)]
pub(super) struct Shedding {
    /// Members of the team.
    all: usize,
    /// Members of the next job.
    members: Cell<usize>,
    window: Cell<Instant>,
    stalls: Cell<u32>,
    /// How often the leader had lost its core when the window began.
    lost: Cell<u64>,
    /// When to try again with one more.
    again: Cell<Option<Instant>>,
    rest: Cell<Duration>,
}

impl Shedding {
    pub(super) fn new(all: usize) -> Self {
        Shedding {
            all,
            members: Cell::new(all),
            window: Cell::new(Instant::now()),
            stalls: Cell::new(0),
            lost: Cell::new(times_lost()),
            again: Cell::new(None),
            rest: Cell::new(SHORTEST),
        }
    }

    /// Members of a job that begins `now`.
    pub(super) fn members(&self, now: Instant) -> usize {
        if self.members.get() < self.all && self.again.get().is_some_and(|again| now >= again) {
            self.members.set(self.members.get() + 1);
            self.again.set((self.members.get() < self.all).then(|| now + self.rest.get()));
            self.begin(now);
        } else if now.duration_since(self.window.get()) >= WINDOW {
            self.judge(now, times_lost());
        }
        self.members.get()
    }

    /// The next jobs have so many members.
    #[cfg(test)]
    pub(super) fn set(&self, members: usize) {
        self.members.set(members);
        self.begin(Instant::now());
    }

    /// The leader waited for so long in a job for others.
    pub(super) fn waited(&self, long: Duration) {
        if long >= STALL {
            self.stalls.set(self.stalls.get() + 1);
        }
    }

    /// Ends a window, at whose end the leader has lost its core so many times.
    fn judge(&self, now: Instant, lost: u64) {
        let late = now.duration_since(self.window.get()) > 3 * WINDOW;
        let events = u64::from(self.stalls.get()) + lost.saturating_sub(self.lost.get());
        // A window that ended long ago says nothing: the team was idle, and its leader did something else.
        if !late && events >= u64::from(MANY) && self.members.get() > 1 {
            self.members.set(self.members.get() - 1);
            self.again.set(Some(now + self.rest.get()));
            self.rest.set((2 * self.rest.get()).min(LONGEST));
            tracing::debug!(members = self.members.get(), "cores are shared with others: a member less for a while");
        } else if self.members.get() == self.all {
            self.rest.set(SHORTEST.max(self.rest.get() / 2));
        }
        self.begin(now);
        self.lost.set(lost);
    }

    fn begin(&self, now: Instant) {
        self.window.set(now);
        self.stalls.set(0);
        self.lost.set(times_lost());
    }
}

/// How often the system has taken the core from this thread.
#[cfg(target_os = "linux")]
fn times_lost() -> u64 {
    super::affinity::involuntary_switches()
}

#[cfg(not(target_os = "linux"))]
fn times_lost() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// Members at each of so many jobs, one every 10 ms, in which the leader waits for `wait`.
    fn jobs(shedding: &Shedding, now: &mut Instant, count: usize, wait: Duration) -> Vec<usize> {
        (0..count)
            .map(|_| {
                *now += STEP;
                let members = shedding.members(*now);
                if members > 1 {
                    shedding.waited(wait);
                }
                members
            })
            .collect()
    }

    #[test]
    fn a_team_that_keeps_waiting_goes_on_with_a_member_less_and_tries_again() {
        let (shedding, mut now) = (Shedding::new(2), Instant::now());
        let busy = jobs(&shedding, &mut now, 200, 3 * STALL);
        let together = busy.iter().filter(|&&members| members == 2).count();
        assert!(busy.contains(&1) && (8..60).contains(&together), "{together} of 200 jobs with both");
        let quiet = jobs(&shedding, &mut now, 400, Duration::ZERO);
        assert_eq!(quiet[399], 2);
    }

    #[test]
    fn short_waits_and_single_stalls_are_no_reason() {
        let (shedding, mut now) = (Shedding::new(4), Instant::now());
        assert!(jobs(&shedding, &mut now, 100, STALL / 2).iter().all(|&members| members == 4));
        for _ in 0..20 {
            shedding.waited(5 * STALL);
            assert!(jobs(&shedding, &mut now, 10, Duration::ZERO).iter().all(|&members| members == 4));
        }
    }

    #[test]
    fn the_leader_stays() {
        let (shedding, mut now) = (Shedding::new(3), Instant::now());
        for _ in 0..300 {
            now += STEP;
            assert!((1..=3).contains(&shedding.members(now)));
            (0..5).for_each(|_| shedding.waited(10 * STALL));
        }
    }
}
