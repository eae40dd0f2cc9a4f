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
mod ahead;
mod background;
mod barrier;
mod chunks;
mod disjoint;
mod shedding;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod tiles;

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism, park};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use self::affinity::Mask;
use self::ahead::Ahead;
pub use self::background::run_behind;
use self::barrier::{Barrier, Missed, Patience};
pub use self::chunks::Chunks;
pub(crate) use self::disjoint::Disjoint;
use self::shedding::{Ran, Shedding};

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
    /// Whether jobs may have fewer members than the team, and how many.
    shedding: Option<Shedding>,
    /// What the leader reads later.
    ahead: Cell<Ahead>,
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
    /// Its longest wait at a barrier.
    waited: Cell<Duration>,
    /// What it reads later.
    reads_next: Cell<Ahead>,
}

type Job<'a> = &'a (dyn Fn(&Member<'_>) + Sync + 'a);

struct Shared {
    barrier: Barrier,
    patience: Patience,
    /// Counts the jobs, and says in its lowest bits how many members each has; publishes `job` and `stop`.
    epoch: CachePadded<AtomicU64>,
    /// Points at a [`Job`] on the leader's stack while a job runs.
    job: AtomicPtr<()>,
    stop: AtomicBool,
    /// Whether a worker parks or is about to; index `id - 1`.
    parked: Vec<CachePadded<AtomicBool>>,
    /// The first panic of the running job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Bits of an epoch that count members.
const MEMBER_BITS: u32 = 16;
/// Most members of a team.
const MOST_MEMBERS: usize = (1 << MEMBER_BITS) - 1;

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
        let places = &places[..places.len().min(MOST_MEMBERS)];
        let threads = places.len();
        let patience = Patience::new(threads, cores);
        let shared = Arc::new(Shared {
            barrier: Barrier::new(threads, patience),
            patience,
            epoch: CachePadded::new(AtomicU64::new(0)),
            job: AtomicPtr::new(null_mut()),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            panic: Mutex::new(None),
        });
        let mut team = Self {
            shared,
            workers: Vec::new(),
            place: places[0],
            shedding: None,
            ahead: Cell::default(),
            running: Cell::new(false),
        };
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

    /// The same team, whose jobs have fewer members while other processes want its cores.
    pub fn shedding(mut self) -> Self {
        let clocks =
            || self.workers.iter().map_while(|worker| Some(Box::new(affinity::run_clock(worker)?) as Ran)).collect();
        self.shedding = (self.threads() > 1).then(|| Shedding::new(self.threads(), clocks()));
        self
    }

    /// How many members a job has at most.
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

    /// Runs `job` on every member at once and returns when all are through. What the members wrote is visible to the caller. In a team
    /// that [sheds](Self::shedding) members the job may have fewer.
    ///
    /// # Panics
    /// With the panic of a member, once all members have stopped; the team stays usable. Members that wait at a barrier are
    /// unwound then, those that compute go on to their next barrier. Members that do not pass the same number of barriers
    /// are such a panic too.
    pub fn run(&self, job: &(dyn Fn(&Member<'_>) + Sync)) {
        let shared = &*self.shared;
        assert!(!self.running.replace(true), "a job cannot run another job on its own team");
        let members = self.shedding.as_ref().map_or(self.threads(), |shedding| shedding.members(Instant::now()));
        shared.barrier.begin(members);
        if members > 1 {
            shared.job.store(from_ref::<Job<'_>>(&job).cast_mut().cast(), Ordering::Relaxed);
            shared.publish(members);
            for (worker, parked) in self.workers.iter().zip(&shared.parked).take(members - 1) {
                if parked.load(Ordering::SeqCst) {
                    worker.thread().unpark();
                }
            }
        }
        // Nothing between the epoch and this wait may unwind: the workers use `job` until the wait is over.
        let (waited, mut ahead) = shared.take_part(0, job, self.ahead.get());
        let waited = waited.max(shared.barrier.wait_for_all(&mut ahead));
        self.ahead.set(ahead);
        if let Some(shedding) = &self.shedding {
            shedding.waited(waited, Instant::now());
        }
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
            Ok((next, waited)) => {
                self.phase.set(next);
                self.waited.set(self.waited.get().max(waited));
            }
            Err(missed) => stop(missed),
        }
    }

    /// Says what this member reads in one of the next jobs: it asks memory for that while it waits for them, a line after the other. A
    /// hint: nothing is wrong with bytes that are gone by then.
    pub fn reads_next(&self, bytes: *const [u8]) {
        self.reads_next.set(Ahead::of(bytes));
    }

    /// This member's part of `0..n`: contiguous, in the order of ids, of lengths that differ by at most one.
    #[inline]
    pub fn share(&self, n: usize) -> Range<usize> {
        share_of(self.id, self.threads, n)
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

/// What [`Member::share`] is for member `id` of `threads`.
#[inline]
pub(crate) fn share_of(id: usize, threads: usize, n: usize) -> Range<usize> {
    let (each, longer) = (n / threads, n % threads);
    let start = id * each + id.min(longer);
    start..start + each + usize::from(id < longer)
}

impl Shared {
    /// Begins an epoch, whose job has so many members. Sequentially consistent together with `parked`: a worker sees the new epoch, or the
    /// leader sees that it parks.
    fn publish(&self, members: usize) {
        let count = self.epoch.load(Ordering::Relaxed) >> MEMBER_BITS;
        self.epoch.store(count.wrapping_add(1) << MEMBER_BITS | members as u64, Ordering::SeqCst);
    }

    /// Runs this member's part of `job` and says so; its longest wait at a barrier, and what it reads next: `ahead`, unless the job said
    /// more. Does not unwind: a panic breaks the barrier and is left
    /// for the leader.
    fn take_part(&self, id: usize, job: Job<'_>, ahead: Ahead) -> (Duration, Ahead) {
        let barrier = &self.barrier;
        let (phase, waited) = (Cell::new(barrier.phase()), Cell::new(Duration::ZERO));
        let reads_next = Cell::new(ahead);
        let member = Member { id, threads: barrier.members(), barrier, phase, waited, reads_next };
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
        (member.waited.get(), member.reads_next.get())
    }
}

/// The life of the worker `id`.
fn work(shared: &Shared, id: usize) {
    let parked = &shared.parked[id - 1];
    let mut seen = 0;
    let mut wait = shared.patience.wait();
    let mut ahead = Ahead::default();
    loop {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if epoch == seen {
            if ahead.ask_a_little() {
                continue;
            }
            if !wait.is_long() {
                wait.a_little();
                continue;
            }
            parked.store(true, Ordering::SeqCst);
            if shared.epoch.load(Ordering::SeqCst) == seen {
                park();
            }
            parked.store(false, Ordering::SeqCst);
            continue;
        }
        seen = epoch;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if id >= (epoch & MOST_MEMBERS as u64) as usize {
            // A job without this member. It is not woken for such, and goes to sleep beside them.
            continue;
        }
        wait = shared.patience.wait();
        // SAFETY: `run` stored the address of its own `job` before the epoch that was just seen, which has this member; it does not
        // return or unwind, nor begin another epoch, until this member has called `finish`, the last thing `take_part` does.
        let job: Job<'_> = unsafe { *shared.job.load(Ordering::Relaxed).cast::<Job<'_>>() };
        (_, ahead) = shared.take_part(id, job, ahead);
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
        self.shared.publish(self.threads());
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
