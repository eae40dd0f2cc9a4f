//! The MPI launcher in PATH, and what it calls itself.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::environment;

const PATIENCE: Duration = Duration::from_secs(3);
const PROGRAMS: [&str; 3] = ["mpirun", "mpiexec", "mpiexec.hydra"];

#[derive(Serialize)]
pub(super) struct Mpi {
    pub(super) program: PathBuf,
    pub(super) version: Option<String>,
}

pub(super) fn look() -> Option<Mpi> {
    let folders = environment::program_folders();
    let mut candidates = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let program = candidates.find(|path| fs::metadata(path).is_ok_and(|data| data.is_file()))?;
    let version = version(&program);
    Some(Mpi { program, version })
}

/// The line of `--version` that names a version; `None` when the program says nothing in time.
fn version(program: &PathBuf) -> Option<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if started.elapsed() > PATIENCE {
            // Fails only when it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut text = Vec::new();
    child.stdout.take()?.take(4096).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let names_version = |line: &&str| line.chars().any(|c| c.is_ascii_digit());
    text.lines().map(str::trim).find(names_version).map(str::to_owned)
}
