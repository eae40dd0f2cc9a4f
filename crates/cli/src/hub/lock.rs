//! One process at a time works on a file: an advisory lock, waited for as long as the other process gets somewhere.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::HubError;

/// Takes the lock `path`; it is released when the returned file is dropped.
///
/// While another process holds it, `progress` is looked at; when that has not changed for `patience`, this gives up.
pub(super) fn acquire(path: &Path, patience: Duration, progress: impl Fn() -> u64) -> Result<File, HubError> {
    let io = |source| HubError::Io { doing: "cannot lock", path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    let (mut seen, mut since) = (progress(), Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        let now = progress();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > patience {
            return Err(HubError::Locked { path: path.to_owned(), seconds: patience.as_secs() });
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_lock_is_waited_for_only_while_its_holder_makes_progress() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/x.lock");
        let held = acquire(&path, Duration::ZERO, || 0).unwrap();
        assert!(matches!(acquire(&path, Duration::ZERO, || 0), Err(HubError::Locked { .. })));
        let (held, looks) = (Cell::new(Some(held)), Cell::new(0));
        let moving = || {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                drop(held.take());
            }
            looks.get()
        };
        acquire(&path, Duration::from_secs(60), moving).unwrap();
        assert!(looks.get() >= 3);
    }
}
