//! Helper commands of the workspace: `cargo xtask test`, `tidy`, `golden`, `goldens`, `neon`, `outside`, `soak`, `demo`, `pjrt`.
//!
//! This program knows no crate of the house. It runs cargo, and reads sources and `cargo metadata`.

mod cache;
mod golden;
mod goldens;
mod neon;
mod outside;
mod pjrt;
mod programs;
mod python;
mod step;
mod test;
mod tidy;
mod workspace;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

commands
  test       what CI runs, cheapest first: fmt, tidy, clippy, doc, build, demo model, pjrt plugin, tests, examples, benches once,
             the server from outside, its chat page in a browser, two minutes of load
  tidy       the house rules alone: crates' arrows, names, headers, `unsafe`, licences
  golden NAME [--config FILE] [--out DIR]
             make a golden checkpoint with transformers: of a family of docs/models.md, or with --config of any config.json, made
             tiny; in target/goldens/NAME, or DIR/NAME
  goldens [--device DEVICE] [-- DIR]
             `nxd check` of every golden checkpoint of the repository, or in DIR or `NXD_GOLDENS`: on the CPU at tensor-parallel sizes
             1, 2 and 4 and on XLA's CPU plugin; with --device there alone (`cpu`, `pjrt:PATH`, `cuda`, `neuron`; `pjrt` is the
             fetched plugin), and the text of the demo model
  neon       the tests of the CPU's kernels for AArch64 under qemu; needs a target, a linker and an emulator, and says which is missing
  outside    the server alone: clients, bad requests, faults, the chat page, two minutes of load
  soak       ten minutes of mixed load on the server: nothing lost, nothing leaked, answers repeated bit for bit
  demo       fetch the demo model into the cache, once
  pjrt       fetch a PJRT plugin for CPUs into the cache, once, and print its path
  help       this text";

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Help,
    Test,
    Tidy,
    Golden(golden::Case),
    Goldens { device: Option<String>, folder: Option<PathBuf> },
    Neon,
    Outside,
    Soak,
    Demo,
    Pjrt,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let Some(task) = parse(&args) else {
        eprintln!("cannot understand `{}`\n\n{USAGE}", args.join(" "));
        return ExitCode::from(2);
    };
    match run(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Help => eprintln!("{USAGE}"),
        Task::Test => {
            let start = Instant::now();
            test::all(&workspace)?;
            eprintln!("== all steps passed in {:.1} s", start.elapsed().as_secs_f64());
        }
        Task::Tidy => tidy::run(&workspace, tidy::Platforms::All)?,
        Task::Golden(case) => golden::make(&workspace, case)?,
        Task::Goldens { device, folder } => goldens::run(&workspace, device.as_deref(), folder.as_deref())?,
        Task::Neon => neon::run(&workspace)?,
        Task::Outside => outside::all(&workspace, &programs::build(&workspace)?)?,
        Task::Soak => outside::soak(&workspace)?,
        Task::Demo => test::demo(&workspace)?,
        Task::Pjrt => writeln!(std::io::stdout(), "{}", pjrt::plugin()?.display())?,
    }
    Ok(())
}

fn parse(args: &[String]) -> Option<Task> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["help" | "--help" | "-h"] => Some(Task::Help),
        ["test"] => Some(Task::Test),
        ["tidy"] => Some(Task::Tidy),
        ["neon"] => Some(Task::Neon),
        ["outside"] => Some(Task::Outside),
        ["soak"] => Some(Task::Soak),
        ["demo"] => Some(Task::Demo),
        ["pjrt"] => Some(Task::Pjrt),
        ["golden", rest @ ..] => {
            let [name, config, out] = arguments(rest, ["--config", "--out"])?;
            let (config, out) = (config.map(PathBuf::from), out.map(PathBuf::from));
            Some(Task::Golden(golden::Case { name: name?, config, out }))
        }
        ["goldens", rest @ ..] => {
            let [folder, device] = arguments(rest, ["--device"])?;
            Some(Task::Goldens { device, folder: folder.map(PathBuf::from) })
        }
        _ => None,
    }
}

/// At most one argument without a name, which may follow `--`, and one value for each flag, in any order: the former first.
fn arguments<const FLAGS: usize, const ALL: usize>(
    mut words: &[&str],
    flags: [&str; FLAGS],
) -> Option<[Option<String>; ALL]> {
    let mut found = [const { None }; ALL];
    while let [word, rest @ ..] = words {
        let named = flags.iter().position(|flag| word.split('=').next() == Some(*flag));
        let (value, rest) = match (named, word.split_once('='), rest) {
            (Some(_), Some((_, value)), _) => (value, rest),
            (Some(_), None, [value, rest @ ..]) => (*value, rest),
            (None, _, [value, rest @ ..]) if *word == "--" => (*value, rest),
            (None, _, _) => (*word, rest),
            (Some(_), None, []) => return None,
        };
        let place = found.get_mut(named.map_or(0, |flag| flag + 1))?;
        if value.is_empty() || value.starts_with('-') || place.replace(value.to_owned()).is_some() {
            return None;
        }
        words = rest;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Task> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_command_of_the_usage_text_is_understood() {
        assert_eq!(parsed("test"), Some(Task::Test));
        assert_eq!(parsed("tidy"), Some(Task::Tidy));
        assert_eq!(parsed("neon"), Some(Task::Neon));
        assert_eq!(parsed("outside"), Some(Task::Outside));
        assert_eq!(parsed("soak"), Some(Task::Soak));
        assert_eq!(parsed("demo"), Some(Task::Demo));
        assert_eq!(parsed("--help"), Some(Task::Help));
        assert_eq!(parsed("pjrt"), Some(Task::Pjrt));
        let goldens = |device: Option<&str>, folder: Option<&str>| {
            Some(Task::Goldens { device: device.map(str::to_owned), folder: folder.map(PathBuf::from) })
        };
        assert_eq!(parsed("goldens"), goldens(None, None));
        for line in ["goldens -- a/b", "goldens a/b"] {
            assert_eq!(parsed(line), goldens(None, Some("a/b")), "{line}");
        }
        for line in ["goldens --device pjrt:/p.so", "goldens --device=pjrt:/p.so"] {
            assert_eq!(parsed(line), goldens(Some("pjrt:/p.so"), None), "{line}");
        }
        for line in ["goldens --device cpu -- a/b", "goldens a/b --device=cpu", "goldens -- a/b --device cpu"] {
            assert_eq!(parsed(line), goldens(Some("cpu"), Some("a/b")), "{line}");
        }
    }

    #[test]
    fn a_golden_case_is_named_and_may_have_a_configuration() {
        let golden = |name: &str, config: Option<&str>, out: Option<&str>| {
            let (config, out) = (config.map(PathBuf::from), out.map(PathBuf::from));
            Some(Task::Golden(golden::Case { name: name.to_owned(), config, out }))
        };
        assert_eq!(parsed("golden llama"), golden("llama", None, None));
        for line in ["golden my --config c.json --out d", "golden --out=d my --config=c.json"] {
            assert_eq!(parsed(line), golden("my", Some("c.json"), Some("d")), "{line}");
        }
        for line in ["golden", "golden --out d", "golden a b", "golden a --config", "golden a --device cpu"] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }

    #[test]
    fn anything_else_is_a_usage_error() {
        for line in ["", "tests", "test --fast", "tidy now", "pjrt now", "goldens --", "goldens --all", "goldens a b"] {
            assert_eq!(parsed(line), None, "{line}");
        }
        for line in ["goldens --device", "goldens --device=", "goldens --device -- a", "goldens --device a --device=b"]
        {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
