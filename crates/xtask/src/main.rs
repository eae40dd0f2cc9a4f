//! Helper commands of the workspace: `cargo xtask test`, `tidy`, `goldens`, `demo`.
//!
//! This program knows no crate of the house. It runs cargo, and reads sources and `cargo metadata`.

mod step;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

commands
  test               what CI runs, cheapest first: fmt, tidy, clippy, doc, build, demo model, tests, examples, benches once
  tidy               the house rules alone: crates' arrows, names, headers, `unsafe`, licences
  goldens [-- DIR]   the golden tests, with the cases of the repository or those in DIR
  demo               fetch the demo model into the cache, once
  help               this text";

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Help,
    Test,
    Tidy,
    Goldens(Option<PathBuf>),
    Demo,
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
        Task::Goldens(folder) => test::goldens(&workspace, folder.as_deref())?,
        Task::Demo => test::demo(&workspace)?,
    }
    Ok(())
}

fn parse(args: &[String]) -> Option<Task> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["help" | "--help" | "-h"] => Some(Task::Help),
        ["test"] => Some(Task::Test),
        ["tidy"] => Some(Task::Tidy),
        ["demo"] => Some(Task::Demo),
        ["goldens"] => Some(Task::Goldens(None)),
        ["goldens", "--", folder] => Some(Task::Goldens(Some(PathBuf::from(folder)))),
        ["goldens", folder] if !folder.starts_with('-') => Some(Task::Goldens(Some(PathBuf::from(folder)))),
        _ => None,
    }
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
        assert_eq!(parsed("demo"), Some(Task::Demo));
        assert_eq!(parsed("--help"), Some(Task::Help));
        assert_eq!(parsed("goldens"), Some(Task::Goldens(None)));
        for line in ["goldens -- a/b", "goldens a/b"] {
            assert_eq!(parsed(line), Some(Task::Goldens(Some("a/b".into()))), "{line}");
        }
    }

    #[test]
    fn anything_else_is_a_usage_error() {
        for line in ["", "tests", "test --fast", "tidy now", "goldens --", "goldens --all", "goldens a b"] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
