//! Tests from outside: Python programs that know of nxd what its clients know, against the server that was built.
//!
//! What they need comes from package registries, pinned and cached; a step that cannot have it fails.

mod served;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::programs::{self, Program};
use crate::python;
use crate::step;
use crate::workspace::Workspace;
use served::Served;

/// OpenAI's client, the schema, bad requests, faults, load.
const OUTSIDE: &str = "crates/server/tests/outside";
/// The chat page in a browser.
const PAGE: &str = "crates/server/tests/page";
/// How long the load lasts among all tests.
const SHORT_LOAD: Duration = Duration::from_secs(120);
/// How long it lasts alone.
const SOAK: Duration = Duration::from_secs(600);
/// A small context and cache, so that tests reach the ends of both.
const SMALL: [&str; 4] = ["--max-model-len", "2048", "--kv-cache-memory", "128MiB"];
const PYTEST: [&str; 6] = ["-m", "pytest", "-q", "--durations=10", "-p", "no:cacheprovider"];
const CHROMIUM: &str = "/usr/bin/chromium";

/// All of it, as `cargo xtask test` has it.
///
/// # Errors
/// When a step fails.
pub(crate) fn all(workspace: &Workspace, programs: &[Program]) -> Result<()> {
    let nxd = &programs::nxd(programs)?.path;
    tests(workspace, nxd, "outside", OUTSIDE, &[])?;
    let chromium = chromium()?;
    tests(workspace, nxd, "page", PAGE, &[("NXD_CHROMIUM", chromium.as_os_str())])?;
    load(workspace, nxd, "load", SHORT_LOAD)
}

/// `cargo xtask soak`: the load at full length.
///
/// # Errors
/// When it fails.
pub(crate) fn soak(workspace: &Workspace) -> Result<()> {
    let programs = programs::build(workspace)?;
    load(workspace, &programs::nxd(&programs)?.path, "soak", SOAK)
}

/// The tests in `folder`, against a server of their own.
fn tests(workspace: &Workspace, nxd: &Path, name: &str, folder: &str, set: &[(&str, &OsStr)]) -> Result<()> {
    let python = environment(workspace, folder)?;
    let log = logs(nxd)?.join(format!("{name}.log"));
    let served = step::timed(&format!("server for {name}"), || Served::start(workspace, nxd, &SMALL, log))?;
    let mut command = program(workspace, &python, nxd);
    command.args(PYTEST).arg(folder).env("NXD_URL", served.url()).envs(set.iter().copied());
    step::run(name, command).with_context(|| format!("the server's last words:\n{}", served.last_words()))
}

/// The load, which starts and ends a server by itself: how that ends is part of what is asserted.
fn load(workspace: &Workspace, nxd: &Path, name: &str, duration: Duration) -> Result<()> {
    let python = environment(workspace, OUTSIDE)?;
    let mut command = program(workspace, &python, nxd);
    command.arg(format!("{OUTSIDE}/load.py")).args(["--seconds", &duration.as_secs().to_string()]);
    step::run(name, command)
}

fn environment(workspace: &Workspace, folder: &str) -> Result<PathBuf> {
    python::environment(&workspace.root().join(folder).join("requirements.txt"))
}

/// A Python program that finds the built `nxd` and leaves nothing in the repository.
fn program(workspace: &Workspace, python: &Path, nxd: &Path) -> Command {
    let mut command = workspace.program(python);
    command.env("NXD_BIN", nxd).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Beside the programs, which cargo's clean removes.
fn logs(nxd: &Path) -> Result<PathBuf> {
    let folder = nxd.parent().context("a program lies in a folder")?.join("outside");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    Ok(folder)
}

/// The browser: the one that `NXD_CHROMIUM` names, or the distribution's, installed where we may.
fn chromium() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("NXD_CHROMIUM").filter(|path| !path.is_empty()) {
        let chosen = PathBuf::from(chosen);
        if !chosen.is_file() {
            bail!("`NXD_CHROMIUM` names `{}`, where no program is", chosen.display());
        }
        return Ok(chosen);
    }
    let chromium = PathBuf::from(CHROMIUM);
    if !chromium.is_file() {
        step::timed("chromium", install_chromium)?;
    }
    Ok(chromium)
}

fn install_chromium() -> Result<()> {
    let wanted =
        format!("the chat page is tested in Chromium; install it as `{CHROMIUM}` (Debian: `apt-get install chromium`)");
    let wanted = format!("{wanted} or name another one in `NXD_CHROMIUM`");
    let user = Command::new("id").arg("-u").stdin(Stdio::null()).output();
    if !user.is_ok_and(|output| output.stdout.trim_ascii() == b"0") {
        bail!("there is no Chromium, and we may not install programs: {wanted}");
    }
    let apt =
        |args: &[&str]| step::attempt(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"));
    let install = || apt(&["install", "--yes", "--no-install-recommends", "chromium"]);
    // Lists of packages may be missing or out of date.
    let installed = install().or_else(|_| apt(&["update"]).and_then(|()| install()));
    match installed {
        Ok(()) if Path::new(CHROMIUM).is_file() => Ok(()),
        Ok(()) => bail!("`apt-get install chromium` made no `{CHROMIUM}`: {wanted}"),
        Err(why) => bail!("`apt-get` {why}: {wanted}"),
    }
}
