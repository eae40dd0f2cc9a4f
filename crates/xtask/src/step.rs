//! A step: a command with a name, run with its duration printed; a failure says the command line to repeat.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs `command` with our own stdin, stdout and stderr.
///
/// # Errors
/// When it cannot start or does not succeed.
pub(crate) fn run(name: &str, mut command: Command) -> Result<()> {
    timed(name, || {
        let status = command.status().with_context(|| cannot_start(&command))?;
        if !status.success() {
            bail!("{status}; the command was\n  {}", command_line(&command));
        }
        Ok(())
    })
}

/// As [`run`], but gives back what the command writes to stdout.
///
/// # Errors
/// When it cannot start or does not succeed.
pub(crate) fn capture(name: &str, mut command: Command) -> Result<Vec<u8>> {
    timed(name, || {
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        let Output { status, stdout, .. } = command.output().with_context(|| cannot_start(&command))?;
        if !status.success() {
            bail!("{status}; the command was\n  {}", command_line(&command));
        }
        Ok(stdout)
    })
}

/// Runs `work`, printing the step's name before and its duration after; errors carry the name.
///
/// # Errors
/// Those of `work`.
pub(crate) fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("== {name}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!("== {name}: {verdict} in {:.1} s\n", start.elapsed().as_secs_f64());
    result.with_context(|| format!("step `{name}` failed"))
}

/// Runs a command whose output matters when it fails alone; the error follows the command's name.
///
/// # Errors
/// Why it cannot start, or the last thing that it said.
pub(crate) fn attempt(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let last = |said: &[u8]| {
                let said = String::from_utf8_lossy(said);
                said.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
            };
            let said = last(&output.stderr).or_else(|| last(&output.stdout));
            Err(format!("failed ({}): {}", output.status, said.as_deref().unwrap_or("without a word")))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err("is not installed".to_owned()),
        Err(error) => Err(format!("cannot start: {error}")),
    }
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start the command\n  {}", command_line(command))
}

/// The command as one would type it in the repository's root.
fn command_line(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set = set.map(|(name, value)| format!("{}={}", name.to_string_lossy(), shell_word(&value.to_string_lossy())));
    let program = Path::new(command.get_program());
    // cargo tells us its full path, which nobody types.
    let program = if program.file_stem().is_some_and(|stem| stem == "cargo") { Path::new("cargo") } else { program };
    let root = command.get_current_dir().unwrap_or(Path::new(""));
    let program = program.strip_prefix(root).unwrap_or(program).to_string_lossy();
    let args = command.get_args().map(|arg| shell_word(&arg.to_string_lossy()));
    set.chain([shell_word(&program)]).chain(args).collect::<Vec<_>>().join(" ")
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["doc", "--no-deps", "it's"]).env("RUSTDOCFLAGS", "-D warnings").env_remove("CARGO_PKG_NAME");
        assert_eq!(command_line(&command), r"RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'it'\''s'");
        let mut command = Command::new("/r/target/debug/nxd");
        command.args(["pull", "demo"]).current_dir("/r");
        assert_eq!(command_line(&command), "target/debug/nxd pull demo");
    }

    #[test]
    fn a_failure_names_the_step_and_the_command() {
        let cargo = std::env::var_os("CARGO").unwrap();
        let mut command = Command::new(cargo);
        command.arg("no-such-subcommand").stderr(Stdio::null());
        let text = format!("{:#}", run("probe", command).unwrap_err());
        assert!(text.starts_with("step `probe` failed: "), "{text}");
        assert!(text.contains("cargo no-such-subcommand"), "{text}");
    }

    #[test]
    fn programs_that_are_missing_or_fail_are_named_with_what_they_said() {
        let missing = attempt(&mut Command::new("nxd-no-such-program")).unwrap_err();
        assert_eq!(missing, "is not installed");
        let cargo = std::env::var_os("CARGO").unwrap();
        let failed = attempt(Command::new(cargo).arg("no-such-subcommand")).unwrap_err();
        assert!(failed.starts_with("failed (") && failed.len() > "failed ()".len(), "{failed}");
    }
}
