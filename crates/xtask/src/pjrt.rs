//! `cargo xtask pjrt`: the PJRT plugin that tests run on, out of a Python wheel, kept in the user's cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{self, Work};
use crate::step;

const REQUIREMENT: &str = "lammps-jax-pjrt-cpu==0.11.2";
/// Of the wheel for x86-64 Linux, the only one there is.
const WHEEL_SHA256: &str = "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1";
/// The plugin's place in the wheel.
const MEMBER: &str = "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so";
const PLUGIN_BYTES: u64 = 201_600_336;
/// The folder below the cache that tests look in too (`nxd_testkit::pjrt_cpu_plugin`).
const FOLDER: &str = "nxd/pjrt/lammps-jax-pjrt-cpu-0.11.2";
const FILE: &str = "pjrt_c_api_cpu_plugin.so";

/// Ways to call pip; the first that succeeds counts.
const PIPS: [&[&str]; 3] = [&["pip"], &["pip3"], &["python3", "-m", "pip"]];
/// Ways to unpack a wheel, which is a zip file, before the target's folder is named.
const UNZIPS: [(&[&str], &[&str]); 2] = [(&["python3", "-m", "zipfile", "-e"], &[]), (&["unzip", "-q"], &["-d"])];

/// The plugin's path; fetched and checked the first time.
///
/// # Errors
/// When there is none for this machine, or it cannot be fetched, checked or kept.
pub(crate) fn plugin() -> Result<PathBuf> {
    step::timed("pjrt plugin", || plugin_in(&cache::folder()?))
}

fn plugin_in(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(FOLDER);
    let plugin = folder.join(FILE);
    // The wheel's hash was checked before the folder got its name; the length tells a disk that filled up later.
    if is_whole(&plugin) {
        return Ok(plugin);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        bail!(
            "{REQUIREMENT} exists for x86-64 Linux only, this is {arch} {os}; the tests that need it cannot run here"
        );
    }
    let parent = folder.parent().context("the plugin's folder lies in one")?;
    let work = Work::below(parent, "lammps-jax-pjrt-cpu")?;
    let wheel = download(work.folder())?;
    let found = sha256(&wheel)?;
    if found != WHEEL_SHA256 {
        bail!("`{}` has SHA-256 {found}, expected {WHEEL_SHA256}", wheel.display());
    }
    let unpacked = work.folder().join("unpacked");
    unpack(&wheel, &unpacked)?;
    let whole = work.folder().join("whole");
    fs::create_dir(&whole).with_context(|| format!("cannot create `{}`", whole.display()))?;
    let (from, to) = (unpacked.join(MEMBER), whole.join(FILE));
    fs::rename(&from, &to).with_context(|| format!("the wheel holds no `{MEMBER}`"))?;
    if !is_whole(&to) {
        bail!("`{}` was not unpacked to {PLUGIN_BYTES} bytes; is the disk full?", to.display());
    }
    File::open(&to).and_then(|file| file.sync_all()).with_context(|| format!("cannot write `{}`", to.display()))?;
    if folder.exists() && !is_whole(&plugin) {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot replace `{}`", folder.display()))?;
    }
    match fs::rename(&whole, &folder) {
        // Somebody else was faster.
        Err(_) if is_whole(&plugin) => {}
        moved => moved.with_context(|| format!("cannot move the plugin to `{}`", folder.display()))?,
    }
    Ok(plugin)
}

fn is_whole(plugin: &Path) -> bool {
    fs::metadata(plugin).is_ok_and(|data| data.is_file() && data.len() == PLUGIN_BYTES)
}

/// Downloads the wheel into `folder`.
fn download(folder: &Path) -> Result<PathBuf> {
    let mut errors = Vec::new();
    for pip in PIPS {
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]).args(["download", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]);
        command.args(["--only-binary", ":all:", "--timeout", "30", "--dest"]).arg(folder).arg(REQUIREMENT);
        match step::attempt(&mut command) {
            Ok(()) => {
                let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
                let mut paths = entries.flatten().map(|entry| entry.path());
                let wheel = paths.find(|path| path.extension().is_some_and(|end| end == "whl"));
                return wheel.with_context(|| format!("`{} download {REQUIREMENT}` left no wheel", pip.join(" ")));
            }
            Err(why) => errors.push(format!("`{}` {why}", pip.join(" "))),
        }
    }
    bail!("cannot download {REQUIREMENT}: {}", errors.join("; "))
}

/// Unpacks a wheel whose hash was checked into the new folder `to`.
fn unpack(wheel: &Path, to: &Path) -> Result<()> {
    let mut errors = Vec::new();
    for (program, before_folder) in UNZIPS {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(wheel).args(before_folder).arg(to);
        match step::attempt(&mut command) {
            Ok(()) => return Ok(()),
            Err(why) => errors.push(format!("`{}` {why}", program.join(" "))),
        }
    }
    bail!("cannot unpack `{}`: {}", wheel.display(), errors.join("; "))
}

fn sha256(path: &Path) -> Result<String> {
    Ok(cache::sha256(&fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_is_there_is_not_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let plugin = cache.path().join(FOLDER).join(FILE);
        fs::create_dir_all(plugin.parent().unwrap()).unwrap();
        // A sparse file of the right length is as good as the plugin here.
        File::create(&plugin).unwrap().set_len(PLUGIN_BYTES).unwrap();
        assert_eq!(plugin_in(cache.path()).unwrap(), plugin);
        assert!(is_whole(&plugin));
        File::create(&plugin).unwrap().set_len(PLUGIN_BYTES - 1).unwrap();
        assert!(!is_whole(&plugin), "a cut file is not taken");
    }

    #[test]
    fn hashes_are_those_that_others_compute() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("abc");
        fs::write(&file, "abc").unwrap();
        assert_eq!(sha256(&file).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
