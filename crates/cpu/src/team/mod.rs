//! A team of threads that spins within a step and parks between steps. `README.md` beside this file says how and why.
//!
//! ```
//! use nxd_cpu::team::Team;
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! let (team, sum) = (Team::new(2), AtomicUsize::new(0));
//! team.run(&|member| {
//!     sum.fetch_add(member.share(100).sum(), Ordering::Relaxed);
//!     member.barrier();
//!     assert_eq!(sum.load(Ordering::Relaxed), 4950);
//! });
//! ```
#![allow(unsafe_code, reason = "a job borrowed from the caller's stack is run by threads that outlive it")]

pub(crate) mod affinity;
mod barrier;
mod chunks;
mod disjoint;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism, park};

use crossbeam::utils::CachePadded;

use self::affinity::Mask;
use self::barrier::{Barrier, Missed, Patience};
pub use self::chunks::Chunks;
pub(crate) use self::disjoint::Disjoint;

/// Threads that run one job at a time, together with the thread that gives it: the leader, member 0.
///
/// A team belongs to one thread at a time; a job cannot reach the team that runs it, so jobs do not nest:
///
/// ```compile_fail
/// # use nxd_cpu::team::Team;
/// let team = Team::new(2);
/// team.run(&|_| team.run(&|_| {}));
/// ```
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Where the leader runs while it [leads](Self::lead).
    place: Option<Mask>,
    /// A `Cell` also keeps the team from being shared between threads.
    running: Cell<bool>,
}

/// What one member of a team sees while it runs a job.
pub struct Member<'a> {
    /// Below [`Self::threads`]; the leader's is 0.
    pub id: usize,
    /// How many members run the job.
    pub threads: usize,
    barrier: &'a Barrier,
    /// The phase of the barrier that this member goes through next.
    phase: Cell<u64>,
}

type Job<'a> = &'a (dyn Fn(&Member<'_>) + Sync + 'a);

struct Shared {
    barrier: Barrier,
    patience: Patience,
    /// Counts the jobs; publishes `job` and `stop`.
    epoch: CachePadded<AtomicU32>,
    /// Points at a [`Job`] on the leader's stack while a job runs.
    job: AtomicPtr<()>,
    stop: AtomicBool,
    /// Whether a worker parks or is about to; index `id - 1`.
    parked: Vec<CachePadded<AtomicBool>>,
    /// The first panic of the running job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Unwinds a member whose job another member's panic has broken.
struct Broken;

impl Team {
    /// A team of `threads` members, the calling thread included; at least one. Where the system refuses a thread, the team
    /// stays smaller: results do not depend on its size.
    pub fn new(threads: usize) -> Self {
        Self::start(&vec![None; threads.max(1)], available_parallelism().map_or(1, usize::from))
    }

    /// A team of a member for each of `places`, the processors that it may use (see [`crate::topology::placement`]). Workers stay there;
    /// the leader, a thread of the caller's, is there while it [leads](Self::lead).
    pub fn placed(places: &[Vec<usize>]) -> Self {
        let mut processors: Vec<usize> = places.concat();
        processors.sort_unstable();
        processors.dedup();
        let masks: Vec<_> = places.iter().map(|ids| Some(Mask::of(ids))).collect();
        if masks.is_empty() { Self::new(1) } else { Self::start(&masks, processors.len()) }
    }

    /// A team of a member for each of `places`, on `cores` cores.
    fn start(places: &[Option<Mask>], cores: usize) -> Self {
        let threads = places.len();
        let patience = Patience::new(threads, cores);
        let shared = Arc::new(Shared {
            barrier: Barrier::new(threads, patience),
            patience,
            epoch: CachePadded::new(AtomicU32::new(0)),
            job: AtomicPtr::new(null_mut()),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            panic: Mutex::new(None),
        });
        let mut team = Self { shared, workers: Vec::new(), place: places[0], running: Cell::new(false) };
        for (id, place) in places.iter().copied().enumerate().skip(1) {
            let shared = team.shared.clone();
            let worker = move || {
                if let Some(place) = place {
                    bind(&place, id);
                }
                work(&shared, id);
            };
            match Builder::new().name(format!("nxd-cpu-{id}")).spawn(worker) {
                Ok(worker) => team.workers.push(worker),
                Err(error) => {
                    tracing::warn!(%error, wanted = threads, started = id, "the thread team is smaller than asked for");
                    drop(team);
                    return Self::start(&places[..id], cores);
                }
            }
        }
        team
    }

    /// How many members a job has.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Binds the calling thread to the leader's place, if the team has places, until what is returned is dropped: for the length of a step,
    /// so that threads which the caller starts between steps are as free as they were.
    pub fn lead(&self) -> Lead {
        let before = self.place.as_ref().and_then(|place| {
            // What is not known could not be restored.
            let before = affinity::current().ok()?;
            bind(place, 0);
            Some(before)
        });
        Lead { before, here: PhantomData }
    }

    /// Runs `job` on every member at once and returns when all are through. What the members wrote is visible to the caller.
    ///
    /// # Panics
    /// With the panic of a member, once all members have stopped; the team stays usable. Members that wait at a barrier are
    /// unwound then, those that compute go on to their next barrier. Members that do not pass the same number of barriers
    /// are such a panic too.
    pub fn run(&self, job: &(dyn Fn(&Member<'_>) + Sync)) {
        let shared = &*self.shared;
        assert!(!self.running.replace(true), "a job cannot run another job on its own team");
        shared.barrier.begin();
        if !self.workers.is_empty() {
            shared.job.store(from_ref::<Job<'_>>(&job).cast_mut().cast(), Ordering::Relaxed);
            // Sequentially consistent together with `parked`: a worker sees the new epoch, or we see that it parks.
            shared.epoch.fetch_add(1, Ordering::SeqCst);
            for (worker, parked) in self.workers.iter().zip(&shared.parked) {
                if parked.load(Ordering::SeqCst) {
                    worker.thread().unpark();
                }
            }
        }
        // Nothing between the epoch and this wait may unwind: the workers use `job` until the wait is over.
        shared.take_part(0, job);
        shared.barrier.wait_for_all();
        self.running.set(false);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// The calling thread leads a team, in the team's place; see [`Team::lead`].
pub struct Lead {
    before: Option<Mask>,
    /// A thread frees itself alone.
    here: PhantomData<*const ()>,
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            bind(before, 0);
        }
    }
}

/// Binds this thread. A processor may have gone offline, or the process may have lost it: then the system places the member.
fn bind(place: &Mask, member: usize) {
    if let Err(error) = affinity::bind(place) {
        tracing::warn!(%error, member, "a member of the thread team is not bound to its processors");
    }
}

impl Member<'_> {
    /// Waits for all members: what each wrote before it is visible to all after it. Every member passes the same barriers.
    ///
    /// # Panics
    /// See [`Team::run`].
    #[inline]
    pub fn barrier(&self) {
        match self.barrier.meet(self.phase.get()) {
            Ok(next) => self.phase.set(next),
            Err(missed) => stop(missed),
        }
    }

    /// This member's part of `0..n`: contiguous, in the order of ids, of lengths that differ by at most one.
    #[inline]
    pub fn share(&self, n: usize) -> Range<usize> {
        let (each, longer) = (n / self.threads, n % self.threads);
        let start = self.id * each + self.id.min(longer);
        start..start + each + usize::from(self.id < longer)
    }

    /// This member's part of `0..n` where borders may only be at multiples of `multiple` (and at `n`).
    ///
    /// # Panics
    /// If `multiple` is 0.
    #[inline]
    pub fn share_by(&self, n: usize, multiple: usize) -> Range<usize> {
        let units = self.share(n.div_ceil(multiple));
        (units.start * multiple).min(n)..units.end.saturating_mul(multiple).min(n)
    }
}

impl Shared {
    /// Runs this member's part of `job` and says so. Does not unwind: a panic breaks the barrier and is left for the leader.
    fn take_part(&self, id: usize, job: Job<'_>) {
        let barrier = &self.barrier;
        let member = Member { id, threads: barrier.members(), barrier, phase: Cell::new(barrier.phase()) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(&member)))
            && !panic.is::<Broken>()
        {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            // A later panic is leaked: dropping what it carries could unwind again, out of the one place that must not.
            match &*first {
                None => *first = Some(panic),
                Some(_) => std::mem::forget(panic),
            }
            barrier.break_up();
        }
        barrier.finish();
    }
}

/// The life of the worker `id`.
fn work(shared: &Shared, id: usize) {
    let (parked, mut seen) = (&shared.parked[id - 1], 0);
    loop {
        let mut wait = shared.patience.wait();
        while shared.epoch.load(Ordering::SeqCst) == seen {
            if !wait.is_long() {
                wait.a_little();
                continue;
            }
            parked.store(true, Ordering::SeqCst);
            if shared.epoch.load(Ordering::SeqCst) == seen {
                park();
            }
            parked.store(false, Ordering::SeqCst);
        }
        seen = seen.wrapping_add(1);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: `run` stored the address of its own `job` before the epoch that was just seen, and does not return or unwind
        // until this member has called `finish`, the last thing `take_part` does.
        let job: Job<'_> = unsafe { *shared.job.load(Ordering::Relaxed).cast::<Job<'_>>() };
        shared.take_part(id, job);
    }
}

#[cold]
fn stop(missed: Missed) -> ! {
    assert!(missed == Missed::Broken, "a member of the team left the job before a barrier at which another one waits");
    resume_unwind(Box::new(Broken))
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // An error would be a panic outside every job, which `work` does not have.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("bound", &self.before.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("threads", &self.threads).finish_non_exhaustive()
    }
}
