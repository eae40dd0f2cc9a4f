//! Which processors a thread may run on: asked and set through the system, on Linux. Elsewhere nothing is known and nothing is bound.
#![allow(unsafe_code, reason = "system calls that take an address")]

use std::io;
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::topology::MAX_PROCESSORS;

/// A set of processors, as the system takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask([usize; MAX_PROCESSORS / usize::BITS as usize]);

impl Mask {
    /// The set of `ids`; those beyond what the system can number are left out.
    pub(crate) fn of(ids: &[usize]) -> Self {
        let mut mask = Mask([0; _]);
        for id in ids {
            if let Some(word) = mask.0.get_mut(id / usize::BITS as usize) {
                *word |= 1 << (id % usize::BITS as usize);
            }
        }
        mask
    }

    /// The processors in it.
    fn ids(&self) -> Vec<usize> {
        let is_in = |id: &usize| self.0[id / usize::BITS as usize] >> (id % usize::BITS as usize) & 1 == 1;
        (0..MAX_PROCESSORS).filter(is_in).collect()
    }
}

/// The processors that this thread may use; `None` where the system does not say.
pub(crate) fn usable() -> Option<Vec<usize>> {
    current().ok().map(|mask| mask.ids())
}

/// The processors that this thread may use.
#[cfg(target_os = "linux")]
pub(super) fn current() -> io::Result<Mask> {
    let mut mask = Mask([0; _]);
    // SAFETY: the system writes at most the bytes that it is told of, which are the mask's; 0 is this thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<Mask>(), (&raw mut mask).cast()) };
    if result == 0 { Ok(mask) } else { Err(io::Error::last_os_error()) }
}

/// Lets this thread run on the processors of `mask` alone.
#[cfg(target_os = "linux")]
pub(super) fn bind(mask: &Mask) -> io::Result<()> {
    // SAFETY: the system reads the bytes that it is told of, which are the mask's; 0 is this thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), (&raw const *mask).cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn current() -> io::Result<Mask> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn bind(_: &Mask) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How often the system has taken the processor from this thread for another one, and for how long the thread has run.
#[cfg(target_os = "linux")]
pub(super) fn taken_and_run() -> (u64, Duration) {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the system writes one `rusage` there; zeros are one, too, should it refuse.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    let number = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
    let time = |t: libc::timeval| Duration::from_secs(number(t.tv_sec)) + Duration::from_micros(number(t.tv_usec));
    (number(usage.ru_nivcsw), time(usage.ru_utime) + time(usage.ru_stime))
}

/// What says for how long a thread has run; nothing once it has ended.
#[cfg(target_os = "linux")]
pub(super) fn run_clock<T>(thread: &JoinHandle<T>) -> Option<impl Fn() -> Option<Duration> + Send + use<T>> {
    use std::os::unix::thread::JoinHandleExt;
    let mut clock = 0;
    // SAFETY: the thread was not joined, so its handle is valid; the system writes one clock's number.
    let found = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) } == 0;
    found.then_some(move || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the system writes one `timespec`, or refuses a clock whose thread has ended.
        let read = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
        read.then(|| Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)))
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn run_clock<T>(_: &JoinHandle<T>) -> Option<impl Fn() -> Option<Duration> + Send + use<T>> {
    None::<fn() -> Option<Duration>>
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_of_a_thread_counts_while_it_runs() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || while !seen.load(Ordering::Relaxed) {});
        let ran = run_clock(&thread).unwrap();
        let before = ran().unwrap();
        while ran().unwrap() < before + Duration::from_millis(2) {}
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert_eq!(ran(), None);
    }

    #[test]
    fn a_mask_holds_the_ids_it_was_made_of() {
        let ids = [0, 3, 63, 64, 1000, MAX_PROCESSORS - 1];
        assert_eq!(Mask::of(&ids).ids(), ids);
        assert!(Mask::of(&[MAX_PROCESSORS]).ids().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_bound_thread_may_use_what_it_was_bound_to() {
        let all = usable().unwrap();
        let last = *all.last().unwrap();
        let after = std::thread::spawn(move || bind(&Mask::of(&[last])).map(|()| usable()));
        assert_eq!(after.join().unwrap().unwrap(), Some(vec![last]));
        assert_eq!(usable(), Some(all), "other threads are not touched");
        assert!(bind(&Mask::of(&[])).is_err(), "a thread has to run somewhere");
    }
}
