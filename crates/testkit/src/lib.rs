//! What tests of several crates need: where golden data lies, its readers, plain-array helpers and bit-equality asserts.
//!
//! A dev-dependency only; it knows no other crate of the workspace.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "test support fails by panicking and prints what ran"
)]

mod tensors;

pub use tensors::Tensors;

use std::path::{Path, PathBuf};

/// The folder of golden data: `NXD_GOLDENS` when it is set, else the cases kept beside this crate.
pub fn goldens() -> PathBuf {
    match std::env::var_os("NXD_GOLDENS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens"),
    }
}

/// The sub-folders of `dir`, by name.
///
/// # Panics
/// When `dir` cannot be listed.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Asserts that two slices hold the same bits, naming the first place where they differ.
///
/// # Panics
/// When lengths or bits differ.
#[track_caller]
pub fn assert_bits(left: &[f32], right: &[f32], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: lengths differ");
    for (i, (a, b)) in left.iter().zip(right).enumerate() {
        assert!(a.to_bits() == b.to_bits(), "{what}: element {i} differs: {a:?} against {b:?}");
    }
}

/// The PJRT plugin that tests run on: `NXD_PJRT_CPU_PLUGIN` when it is set, else the one that `cargo xtask pjrt` fetched.
///
/// # Panics
/// When there is no such file.
pub fn pjrt_cpu_plugin() -> PathBuf {
    let path = match std::env::var_os("NXD_PJRT_CPU_PLUGIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).unwrap_or_default();
            cache.join("nxd/pjrt/lammps-jax-pjrt-cpu-0.11.2/pjrt_c_api_cpu_plugin.so")
        }
    };
    assert!(path.is_file(), "{} is missing; run `cargo xtask pjrt`, which fetches it", path.display());
    path
}
