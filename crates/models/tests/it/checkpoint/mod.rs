//! Checkpoints: good files, bad files, names and row orders.

mod folders;
mod fuzz;
mod gguf;
pub(crate) mod gguf_writer;
mod golden;
mod safetensors;
mod split;
mod weights;

use nxd_models::{Checkpoint, CheckpointError, LoadMode};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MODES: [LoadMode; 2] = [LoadMode::Mmap, LoadMode::Read];

/// A folder of its own, with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// Opens a file of this name and content.
fn open_bytes(name: &str, bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let dir = folder(&[(name, bytes)]);
    Checkpoint::open(&dir.path().join(name), LoadMode::Mmap)
}

/// Fails unless opening `path` fails in both modes, within two seconds, with a message that has all of `parts`.
#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) {
    for mode in MODES {
        let start = std::time::Instant::now();
        let error = Checkpoint::open(path, mode).map(|_| "opened").unwrap_err().to_string();
        assert!(start.elapsed().as_secs() < 2, "took {:?}: {error}", start.elapsed());
        for part in parts {
            assert!(error.contains(part), "{mode:?}: `{error}` lacks `{part}`");
        }
    }
}

/// Whether this process runs no other test. If it does, runs `test` in a process of its own and gives false.
fn alone(test: &str) -> bool {
    const ALONE: &str = "NXD_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// Memory of this process in bytes: what it holds (`VmRSS`), or the most it has held (`VmHWM`).
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A path inside `dir`.
fn at(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}
