//! Threads that share the processors with a team and must not interrupt it.
#![allow(unsafe_code, reason = "one system call that takes a struct's address")]

use std::io;

/// Puts the calling thread behind teams. Between two steps a team's leader is the only one at work, and a thread that it wakes, to send a token
/// say, would take its processor at once while the team's other members spin beside it. Behind, the thread waits for a free processor or for a
/// member that yields while it waits, which takes microseconds. Linux alone knows the way (`SCHED_BATCH`); elsewhere nothing changes.
pub fn run_behind() {
    if let Err(error) = batch() {
        tracing::debug!(%error, "a thread that was to run behind the thread team runs beside it");
    }
}

#[cfg(target_os = "linux")]
fn batch() -> io::Result<()> {
    // SAFETY: zeros are a `sched_param`, the one that this policy wants: a static priority of 0.
    let param: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the system reads one `sched_param` there; 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn batch() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_calling_thread_alone_changes_its_policy() {
        // SAFETY: no memory is involved; 0 is the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let after = std::thread::spawn(move || batch().map(|()| policy())).join().unwrap();
        assert_eq!(after.unwrap(), libc::SCHED_BATCH);
        assert_eq!(policy(), before);
    }
}
