//! The mock library of `../mock/nrt.c`: built with `cc`, watched through its log, broken on demand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nxd_runtime::neuron::{Core, Nrt, Runtime};

/// A process has one runtime, so these tests run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A mock library of its own for one test.
pub(super) struct Mock {
    folder: tempfile::TempDir,
    /// Held while the mock exists; fields go in order, the folder first.
    _turn: MutexGuard<'static, ()>,
}

impl Mock {
    pub(super) fn new() -> Self {
        static PLAIN: OnceLock<Vec<u8>> = OnceLock::new();
        Self::of(PLAIN.get_or_init(|| build(&[])))
    }

    /// Built with more flags for the C compiler.
    pub(super) fn with(flags: &[&str]) -> Self {
        Self::of(&build(flags))
    }

    /// A copy: the loader takes it for another library, with variables of its own.
    fn of(library: &[u8]) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mock = Self { folder: tempfile::tempdir().unwrap(), _turn: turn };
        fs::write(mock.path(), library).unwrap();
        mock
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.file("libnrt.so.1")
    }

    pub(super) fn nrt(&self) -> Nrt {
        Nrt::open(self.path()).unwrap()
    }

    pub(super) fn core(&self) -> Core {
        Runtime::start(&self.nrt()).unwrap().core(0).unwrap()
    }

    /// From now on `function` answers `status`.
    pub(super) fn fail(&self, function: &str, status: i32) {
        fs::write(self.file("faults"), format!("{function} {status}\n")).unwrap();
    }

    pub(super) fn heal(&self) {
        fs::remove_file(self.file("faults")).unwrap();
    }

    /// The calls so far.
    pub(super) fn log(&self) -> Vec<String> {
        fs::read_to_string(self.file("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub(super) fn count(&self, call: &str) -> usize {
        self.log().iter().filter(|line| *line == call).count()
    }
}

/// The mock library's file.
fn build(flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = ("tests/it/mock/nrt.c", folder.path().join("libnrt.so.1"));
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"])
        .args(flags)
        .arg("-o")
        .arg(&library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .arg("-ldl")
        .output()
        .expect("a C compiler (`cc`) builds the mock library");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(&library).unwrap()
}
