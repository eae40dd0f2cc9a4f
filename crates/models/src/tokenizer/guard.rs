//! Runs foreign code that may panic on a malformed file, and turns the panic into its message.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic inside becomes `Err` with its message, and nothing is printed.
///
/// The panic hook is wrapped once and for good, never swapped back, so threads cannot race for it: the wrapper is silent on a
/// thread that is inside this function and calls the hook it found everywhere else.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static WRAP: Once = Once::new();
    WRAP.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    // What `work` borrows is thrown away by every caller when it panics.
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    done.map_err(|payload| message(payload.as_ref()))
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::catch;

    #[test]
    fn a_panic_becomes_its_message_and_a_value_passes() {
        assert_eq!(catch(|| 7), Ok(7));
        let text = "b";
        assert_eq!(catch(|| panic!("bad {text}")), Err::<(), _>("bad b".to_owned()));
        assert_eq!(catch(|| panic!("plain")), Err::<(), _>("plain".to_owned()));
    }
}
