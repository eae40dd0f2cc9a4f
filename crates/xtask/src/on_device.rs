//! `cargo xtask goldens --device DEVICE`: the golden checkpoints, and the demo model's text, on a device of one's choice.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{pjrt, programs, step, test};

/// The repository's own cases.
const FOLDER: &str = "crates/testkit/goldens";
/// Tensor-parallel sizes that every case runs at.
const RANKS: [usize; 2] = [1, 2];
/// What the demo model is asked for on both devices.
const DEMO: [&str; 10] = [
    "generate",
    "demo",
    "--chat",
    "--prompt",
    "Name three things that float on water.",
    "--max-tokens",
    "24",
    "--temperature",
    "0",
    "--dtype=f32",
];

/// `nxd check` on `device` for every golden checkpoint; on devices other than the CPU also the demo model's text. `pjrt` alone is the
/// CPU plugin that `cargo xtask pjrt` fetches.
///
/// # Errors
/// When there is no case that can run, or one fails.
pub(crate) fn run(workspace: &Workspace, device: &str, folder: Option<&Path>) -> Result<()> {
    let cases = cases(&folder.map_or_else(|| Ok(workspace.root().join(FOLDER)), test::absolute)?)?;
    let device = match device {
        "pjrt" => format!("pjrt:{}", pjrt::plugin()?.display()),
        other => other.to_owned(),
    };
    let programs = programs::build(workspace)?;
    let nxd = Nxd { workspace, path: &programs::nxd(&programs)?.path };
    step::timed(&format!("golden checkpoints on {device}"), || {
        let rows = nxd.check_all(&cases, &device)?;
        verdict(&rows)
    })?;
    if device == "cpu" {
        return Ok(());
    }
    step::timed(&format!("text of the demo model on {device}"), || {
        let ours = nxd.text(&["--device", &device])?;
        let expected = nxd.text(&["--device", "cpu", "--activations", "f32"])?;
        if ours != expected {
            bail!("the texts differ\n  {device}: {ours:?}\n  cpu: {expected:?}");
        }
        eprintln!("{}", ours.trim_end());
        Ok(())
    })
}

/// The folders in `folder` that hold a checkpoint and what it is to compute.
fn cases(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let is_case = |dir: &PathBuf| {
        let has = |name| dir.join(name).is_file();
        has("expected.json") && has("expected.safetensors") && (has("config.json") || has("model.gguf"))
    };
    let mut cases: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_case).collect();
    cases.sort();
    Ok(cases)
}

/// What came of one case at one parallel size.
#[derive(Debug, PartialEq)]
enum Outcome {
    Passed,
    Failed(String),
    /// The model cannot run on any device yet.
    Skipped(String),
}

/// A line of the table.
#[derive(Debug, PartialEq)]
struct Row {
    case: String,
    /// `None` for a case that was not tried.
    ranks: Option<usize>,
    /// `None` where a logit is NaN, or nothing was computed.
    max_abs_error: Option<f64>,
    greedy_equal: Option<bool>,
    outcome: Outcome,
}

impl Row {
    fn skipped(case: &str, why: String) -> Self {
        let case = case.to_owned();
        Row { case, ranks: None, max_abs_error: None, greedy_equal: None, outcome: Outcome::Skipped(why) }
    }

    /// Reads the report of `nxd check --json`; `said` is what the program wrote to stderr.
    fn checked(case: &str, ranks: usize, report: &Value, said: &str) -> Self {
        let failed = || {
            let place = report["first_difference"].as_str().map(str::to_owned);
            place.unwrap_or_else(|| said.trim().replace('\n', " "))
        };
        let passed = report["ok"] == true;
        Row {
            case: case.to_owned(),
            ranks: Some(ranks),
            max_abs_error: report["max_abs_error"].as_f64(),
            greedy_equal: report["greedy_equal"].as_bool(),
            outcome: if passed { Outcome::Passed } else { Outcome::Failed(failed()) },
        }
    }

    fn line(&self) -> String {
        let ranks = self.ranks.map_or_else(|| "-".to_owned(), |ranks| ranks.to_string());
        let error = self.max_abs_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.2e}"));
        let equal = self.greedy_equal.map_or("-", |equal| if equal { "equal" } else { "different" });
        let outcome = match &self.outcome {
            Outcome::Passed => "ok".to_owned(),
            Outcome::Failed(why) => format!("FAILED: {why}"),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        format!("{:<34} {ranks:>2} {error:>13}  {equal:<12}  {outcome}", self.case)
    }
}

/// The table's first line.
fn header() -> String {
    format!("{:<34} {:>2} {:>13}  {:<12}  outcome", "case", "tp", "max_abs_error", "greedy_equal")
}

/// Fails when a check failed, or none ran.
fn verdict(rows: &[Row]) -> Result<()> {
    let count = |is: fn(&Outcome) -> bool| rows.iter().filter(|row| is(&row.outcome)).count();
    let passed = count(|outcome| *outcome == Outcome::Passed);
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let counts = format!("{passed} checks passed, {failed} failed, {skipped} cases skipped");
    match (passed, failed) {
        (0, 0) => bail!("no golden checkpoint could be checked: {counts}"),
        (_, 0) => {
            eprintln!("{counts}");
            Ok(())
        }
        _ => bail!("{counts}"),
    }
}

/// The program under test.
struct Nxd<'w> {
    workspace: &'w Workspace,
    path: &'w Path,
}

impl Nxd<'_> {
    /// Checks every case, printing the table as it grows.
    fn check_all(&self, cases: &[PathBuf], device: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        print(&header())?;
        for case in cases {
            let name = case.file_name().unwrap_or_default().to_string_lossy();
            let inspected = self.json(self.command("inspect", case))?;
            let of_case = if inspected.0["supported"] == false {
                let why = inspected.0["why_not"].as_str().unwrap_or("no reason given");
                vec![Row::skipped(&name, why.to_owned())]
            } else {
                let check = |ranks: usize| -> Result<Row> {
                    let mut command = self.command("check", case);
                    command.args(["--device", device, "--tensor-parallel-size", &ranks.to_string()]);
                    let (report, said) = self.json(command)?;
                    Ok(Row::checked(&name, ranks, &report, &said))
                };
                RANKS.into_iter().map(check).collect::<Result<_>>()?
            };
            of_case.iter().try_for_each(|row| print(&row.line()))?;
            rows.extend(of_case);
        }
        Ok(rows)
    }

    /// What the demo model says.
    fn text(&self, more: &[&str]) -> Result<String> {
        let mut command = self.workspace.program(self.path);
        command.args(DEMO).args(more);
        Ok(String::from_utf8_lossy(&step::capture(&more.join(" "), command)?).into_owned())
    }

    fn command(&self, name: &str, case: &Path) -> Command {
        let mut command = self.workspace.program(self.path);
        command.arg(name).arg(case).arg("--json");
        command
    }

    /// Runs a command that may fail: its JSON, null when it wrote none, and what it wrote to stderr.
    fn json(&self, mut command: Command) -> Result<(Value, String)> {
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start `{}`", self.path.display()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = if said.trim().is_empty() { output.status.to_string() } else { said };
        Ok((serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said))
    }
}

/// The table is the result, so it goes to stdout.
fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}

#[cfg(test)]
mod tests {
    // No `golden` in the names: these would count as golden tests.
    use serde_json::json;

    use super::*;

    #[test]
    fn cases_are_told_by_their_content() {
        let folder = tempfile::tempdir().unwrap();
        for (case, files) in [
            ("b-folder", &["expected.json", "expected.safetensors", "config.json"][..]),
            ("a-gguf", &["expected.json", "expected.safetensors", "model.gguf"]),
            ("tokenizers", &["expected.json"]),
            ("no-weights", &["expected.json", "expected.safetensors"]),
        ] {
            fs::create_dir(folder.path().join(case)).unwrap();
            for file in files {
                fs::write(folder.path().join(case).join(file), "").unwrap();
            }
        }
        fs::write(folder.path().join("README.md"), "").unwrap();
        assert_eq!(cases(folder.path()).unwrap(), [folder.path().join("a-gguf"), folder.path().join("b-folder")]);
    }

    #[test]
    fn reports_become_rows() {
        let report = json!({"ok": true, "max_abs_error": 1.5e-5, "greedy_equal": true, "first_difference": null});
        let row = Row::checked("llama", 2, &report, "");
        assert_eq!(row.outcome, Outcome::Passed);
        let words: Vec<String> = row.line().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["llama", "2", "1.50e-5", "equal", "ok"]);

        let report = json!({"ok": false, "max_abs_error": null, "greedy_equal": false, "first_difference": "layer.1"});
        let row = Row::checked("llama", 1, &report, "error[failed]: no");
        assert_eq!(row.outcome, Outcome::Failed("layer.1".to_owned()));
        assert!(row.line().contains("different"), "{}", row.line());

        let row = Row::checked("llama", 1, &Value::Null, "error[model]: x\n  cause: y\n");
        assert_eq!(row.outcome, Outcome::Failed("error[model]: x   cause: y".to_owned()));
        let skipped = Row::skipped("dbrx", "`architectures`".to_owned()).line();
        assert!(skipped.ends_with("skipped: `architectures`"), "{skipped}");
    }

    #[test]
    fn only_checks_that_ran_and_passed_are_a_success() {
        let row = |outcome| Row { outcome, ..Row::skipped("a", String::new()) };
        let skipped = || row(Outcome::Skipped("why".to_owned()));
        assert!(verdict(&[row(Outcome::Passed), skipped()]).is_ok());
        for rows in [vec![], vec![skipped()], vec![row(Outcome::Passed), row(Outcome::Failed("why".to_owned()))]] {
            let error = verdict(&rows).unwrap_err().to_string();
            assert!(error.contains("passed") && error.contains("skipped"), "{error}");
        }
    }
}
