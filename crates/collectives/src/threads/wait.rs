//! How a rank waits for others: spin, then yield, then sleep, never past the deadline; and how a group ends.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A peer on a core of its own answers within this many spins; past them the core is better given away.
const SPINS: u32 = 100;
/// Ranks of one step meet again within this time; past it a rank sleeps, because a wake-up costs some 15 µs.
const YIELD_FOR: Duration = Duration::from_millis(1);

/// Who ended a group, and why.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) by: usize,
    pub(super) reason: String,
}

/// Why a wait came to nothing.
pub(super) enum Interrupted {
    TimedOut,
    Ended(Ending),
}

/// Where the ranks of a group wait, and where the group's end is announced.
#[derive(Default)]
pub(super) struct WaitingRoom {
    /// How many ranks sleep or are about to. A rank adds itself *before* it looks a last time, and whoever changes
    /// something reads this *after* the change, so one of the two sees the other.
    sleepers: AtomicUsize,
    door: Mutex<()>,
    wake: Condvar,
    ended: AtomicBool,
    ending: Mutex<Option<Ending>>,
}

impl WaitingRoom {
    /// Waits until `ready`, for at most `timeout`. What is ready counts even when the group has ended since.
    pub(super) fn wait(&self, timeout: Duration, ready: impl Fn() -> bool) -> Result<(), Interrupted> {
        for _ in 0..SPINS {
            if ready() {
                return Ok(());
            }
            spin_loop();
        }
        // The clock starts here, so that a quick meeting does not read it.
        let start = Instant::now();
        loop {
            let (ending, waited) = (self.ending(), start.elapsed());
            // Looked at after the ending: a rank that posted and then ended has still arrived.
            if ready() {
                return Ok(());
            }
            if let Some(ending) = ending {
                return Err(Interrupted::Ended(ending));
            }
            if waited >= timeout {
                return Err(Interrupted::TimedOut);
            }
            if waited < YIELD_FOR {
                yield_now();
            } else {
                self.sleep(timeout - waited, || ready() || self.has_ended());
            }
        }
    }

    /// Sleeps until somebody calls [`Self::announce`], for at most `time`.
    fn sleep(&self, time: Duration, ready: impl Fn() -> bool) {
        let mut door = self.door.lock();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !ready() {
            self.wake.wait_for(&mut door, time);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Says that something changed that a rank may be waiting for.
    pub(super) fn announce(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // A sleeper holds the door from its last look until it sleeps; passing through it means it will hear us.
            drop(self.door.lock());
            self.wake.notify_all();
        }
    }

    /// Ends the group. The first one to do so is the one that errors name.
    pub(super) fn end(&self, by: usize, reason: impl Into<String>) {
        {
            let mut ending = self.ending.lock();
            if ending.is_none() {
                *ending = Some(Ending { by, reason: reason.into() });
            }
        }
        self.ended.store(true, Ordering::Release);
        self.announce();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The ending, once there is one.
    pub(super) fn ending(&self) -> Option<Ending> {
        if self.has_ended() { self.ending.lock().clone() } else { None }
    }
}
