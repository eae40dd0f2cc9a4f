//! Where the members of a team meet, within a job and at its end, and how long each spins before it gives its core away.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use crossbeam::utils::CachePadded;

/// Set in the phase when a member has panicked: nobody need wait any longer.
const BROKEN: u64 = 1 << 63;

/// A counting barrier whose phase counts up, and a count of the members that are through with the job.
pub(super) struct Barrier {
    /// Members of the job.
    members: AtomicUsize,
    patience: Patience,
    /// Members that have come to the present phase.
    arrived: CachePadded<AtomicUsize>,
    /// Meetings so far. Publishes what the members wrote before they came.
    phase: CachePadded<AtomicU64>,
    /// Members that are through with the job. Publishes what they wrote to the leader.
    finished: CachePadded<AtomicUsize>,
}

/// Why a meeting did not take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// A member panicked.
    Broken,
    /// A member is through with the job and will never come.
    Deserted,
}

impl Barrier {
    pub(super) fn new(members: usize, patience: Patience) -> Self {
        Self {
            members: AtomicUsize::new(members),
            patience,
            arrived: CachePadded::default(),
            phase: CachePadded::default(),
            finished: CachePadded::default(),
        }
    }

    pub(super) fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// The phase in which a job begins. No meeting can take place before every member has asked, so all get the same.
    pub(super) fn phase(&self) -> u64 {
        self.phase.load(Ordering::Relaxed) & !BROKEN
    }

    /// Makes ready for a job of `members`. The leader calls it while no job runs; the job's publication publishes this too.
    pub(super) fn begin(&self, members: usize) {
        self.members.store(members, Ordering::Relaxed);
        self.finished.store(0, Ordering::Relaxed);
        if self.phase.load(Ordering::Relaxed) & BROKEN != 0 {
            // Some members had come to a meeting that others never reached.
            self.arrived.store(0, Ordering::Relaxed);
            self.phase.fetch_and(!BROKEN, Ordering::Relaxed);
        }
    }

    /// Meets the others in `phase`; the next one to meet in, and for how long this member waited, if it was long.
    #[inline]
    pub(super) fn meet(&self, phase: u64) -> Result<(u64, Duration), Missed> {
        // Acquire and release: the last one to come has seen what all others wrote, and passes it on with the phase.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.members() {
            // Before the phase: nobody comes to the next meeting until this one is over.
            self.arrived.store(0, Ordering::Relaxed);
            // Not a store, which could wipe out `BROKEN`.
            self.phase.fetch_add(1, Ordering::Release);
            return Ok((phase + 1, Duration::ZERO));
        }
        let mut wait = self.patience.wait();
        loop {
            let now = self.phase.load(Ordering::Acquire);
            if now == phase + 1 {
                return Ok((now, wait.long()));
            }
            if now != phase {
                return Err(Missed::Broken);
            }
            if wait.has_yielded() && self.is_deserted(phase) {
                return Err(Missed::Deserted);
            }
            wait.a_little();
        }
    }

    /// Whether a member is through with the job without having met in `phase`. One that has met left a newer phase behind
    /// before it counted itself as finished, so the order of these two loads matters.
    fn is_deserted(&self, phase: u64) -> bool {
        self.finished.load(Ordering::Acquire) > 0 && self.phase.load(Ordering::Acquire) == phase
    }

    /// Lets go of everybody who waits or will wait in this job.
    pub(super) fn break_up(&self) {
        self.phase.fetch_or(BROKEN, Ordering::Release);
    }

    /// This member is through with the job.
    pub(super) fn finish(&self) {
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// Waits until every member is through with the job, and meanwhile asks for what is read later; for how long, if it was long.
    pub(super) fn wait_for_all(&self, ahead: &mut Ahead) -> Duration {
        let mut wait = self.patience.wait();
        while self.finished.load(Ordering::Acquire) < self.members() {
            if !ahead.ask_a_little() {
                wait.a_little();
            }
        }
        wait.long()
    }
}

/// How long a member spins, and how long an idle worker stays awake.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Looks before a waiting member yields its core: it hands over in 77–87 ns while both spin, and costs 4 µs a meeting
    /// where two members have to share a core (300 spins: 9 µs, 1000: 26 µs).
    spins: u32,
    /// Looks before an idle worker parks: about a millisecond, longer than the time between two decode steps.
    looks: u32,
}

impl Patience {
    pub(super) fn new(members: usize, cores: usize) -> Self {
        // With more members than cores the awaited one may need this very core, also between jobs.
        if members > cores { Self { spins: 1, looks: 50 } } else { Self { spins: 100, looks: 3000 } }
    }

    #[inline]
    pub(super) fn wait(self) -> Wait {
        Wait { looked: 0, patience: self, yielding: None }
    }
}

/// One wait.
pub(super) struct Wait {
    looked: u32,
    patience: Patience,
    /// Since when it yields between looks.
    yielding: Option<Instant>,
}

impl Wait {
    /// Lets a moment pass.
    #[inline]
    pub(super) fn a_little(&mut self) {
        self.looked = self.looked.saturating_add(1);
        if !self.has_yielded() {
            return spin_loop();
        }
        if self.yielding.is_none() {
            self.yielding = Some(Instant::now());
        }
        yield_now();
    }

    /// How long it has lasted since it stopped spinning; zero before, as short waits are not worth a clock.
    #[inline]
    fn long(&self) -> Duration {
        self.yielding.map_or(Duration::ZERO, |since| since.elapsed())
    }

    #[inline]
    fn has_yielded(&self) -> bool {
        self.looked >= self.patience.spins
    }

    /// Whether an idle worker has waited long enough to park.
    pub(super) fn is_long(&self) -> bool {
        self.looked >= self.patience.looks
    }
}
