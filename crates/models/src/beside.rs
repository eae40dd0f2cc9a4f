//! Two pieces of work at the same time.

use std::panic::resume_unwind;
use std::thread;

/// What `there` gives on a thread of its own, called `name`, and `here` meanwhile on this one. Where no thread can be had, one comes after
/// the other.
pub(crate) fn beside<A: Send, B>(name: &str, there: impl Fn() -> A + Sync, here: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, &there);
        let here = here();
        let there = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => there(),
        };
        (there, here)
    })
}
