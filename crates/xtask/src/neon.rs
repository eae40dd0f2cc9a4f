//! `cargo xtask neon`: the kernels' tests on an emulated ARM processor, for those who have none.
//!
//! Not a step of `cargo xtask test`: it needs a second standard library, a linker and an emulator, which a plain toolchain lacks.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step;
use crate::workspace::Workspace;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where the emulated programs find the C library.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// Processors to emulate: one of Armv8.0, and one with everything, dot products among it.
const PROCESSORS: [&str; 2] = ["cortex-a72", "max"];

/// What is tested: every kernel against its scalar definition, and the promise of equal bits with a whole model.
const TESTS: [(&str, &[&str]); 2] = [("nxd-cpu", &[]), ("nxd-executor", &["--test", "it", "exact"])];

/// Something that has to be installed.
struct Need {
    what: &'static str,
    remedy: &'static str,
    is_met: fn(&Workspace) -> bool,
}

const NEEDS: [Need; 4] = [
    Need {
        what: "Rust standard library for the target",
        remedy: "rustup target add aarch64-unknown-linux-gnu",
        is_met: has_standard_library,
    },
    Need {
        what: "linker `aarch64-linux-gnu-gcc`",
        remedy: "Debian's package gcc-aarch64-linux-gnu",
        is_met: |_| starts(LINKER),
    },
    Need {
        what: "C library in `/usr/aarch64-linux-gnu`",
        remedy: "Debian's package libc6-dev-arm64-cross",
        is_met: |_| Path::new(SYSROOT).join("lib/libc.so.6").exists(),
    },
    Need { what: "emulator `qemu-aarch64`", remedy: "Debian's package qemu-user", is_met: |_| starts(EMULATOR) },
];

/// Runs the tests on each processor.
///
/// # Errors
/// When something is not installed (the error says how to get it), or when a test fails.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let missing = NEEDS.iter().filter(|need| !(need.is_met)(workspace));
    let missing: Vec<String> = missing.map(|need| format!("  no {}: {}", need.what, need.remedy)).collect();
    if !missing.is_empty() {
        bail!("cannot test for {TARGET} here\n{}", missing.join("\n"));
    }
    for processor in PROCESSORS {
        for (package, chosen) in TESTS {
            let mut tests = workspace.cargo(&["test", "--locked", "--target", TARGET, "--package", package]);
            tests.args(chosen);
            tests.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
            let runner = format!("{EMULATOR} -L {SYSROOT} -cpu {processor}");
            tests.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
            step::run(&format!("{package} on {processor}"), tests)?;
        }
    }
    Ok(())
}

fn has_standard_library(workspace: &Workspace) -> bool {
    let mut rustc = workspace.program(Path::new("rustc"));
    rustc.args(["--print", "target-libdir", "--target", TARGET]).stdin(Stdio::null());
    let Ok(output) = rustc.output() else { return false };
    // The folder is named, and often there, without a library in it too.
    let Ok(entries) = std::fs::read_dir(String::from_utf8_lossy(&output.stdout).trim()) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

fn starts(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributors_are_told_what_to_install() {
        let workspace = Workspace::locate().unwrap();
        let text = std::fs::read_to_string(workspace.root().join("CONTRIBUTING.md")).unwrap();
        for need in NEEDS {
            let remedy = need.remedy.trim_start_matches("Debian's package ");
            assert!(text.contains(remedy), "CONTRIBUTING.md does not name `{remedy}`");
        }
    }
}
