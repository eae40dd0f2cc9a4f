//! `cargo xtask goldens`: `nxd check` of every golden checkpoint, on the CPU at several parallel sizes and on a traced device, as a table.
//!
//! Golden data that are no checkpoints (tokenizers, templates, layers, samplers) are what `cargo test golden` compares.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{pjrt, programs, step};

/// The repository's own cases.
const FOLDER: &str = "crates/testkit/goldens";
/// Another folder of cases, for golden tests too.
const OTHER_FOLDER: &str = "NXD_GOLDENS";
/// Tensor-parallel sizes on the CPU, and on a device that the user names.
const CPU_RANKS: [usize; 3] = [1, 2, 4];
const DEVICE_RANKS: [usize; 2] = [1, 2];
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

/// The golden checkpoints on the CPU and on XLA's CPU plugin; with `device` on that device alone, and there the demo model's text too.
/// `pjrt` is the plugin that `cargo xtask pjrt` fetches.
///
/// # Errors
/// When there is no case that can run, or one fails.
pub(crate) fn run(workspace: &Workspace, device: Option<&str>, folder: Option<&Path>) -> Result<()> {
    let cases = cases(&chosen(workspace, folder)?)?;
    let columns = columns(device)?;
    let nxd = Nxd { workspace, path: &programs::build_nxd(workspace)? };
    step::timed("golden checkpoints", || nxd.check_all(&cases, &columns)?.verdict())?;
    let Some(device) = columns.first().map(|column| &column.device).filter(|device| *device != "cpu") else {
        return Ok(());
    };
    step::timed(&format!("text of the demo model on {device}"), || {
        let ours = nxd.text(&["--device", device])?;
        let expected = nxd.text(&["--device", "cpu", "--activations", "f32"])?;
        if ours != expected {
            bail!("the texts differ\n  {device}: {ours:?}\n  cpu: {expected:?}");
        }
        eprintln!("{}", ours.trim_end());
        Ok(())
    })
}

/// The folder of cases: the one that is named, or that the environment names, or the repository's.
fn chosen(workspace: &Workspace, folder: Option<&Path>) -> Result<PathBuf> {
    let from_environment = || std::env::var_os(OTHER_FOLDER).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = folder.map(Path::to_owned).or_else(from_environment);
    let folder = folder.unwrap_or_else(|| workspace.root().join(FOLDER));
    let found = folder.canonicalize().with_context(|| format!("cannot open `{}`", folder.display()))?;
    if !found.is_dir() {
        bail!("`{}` is not a folder of golden data", found.display());
    }
    Ok(found)
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

/// A device at a parallel size.
#[derive(Debug, PartialEq)]
struct Column {
    title: String,
    device: String,
    ranks: usize,
}

impl Column {
    fn new(kind: &str, device: &str, ranks: usize) -> Self {
        Column { title: format!("{kind} tp{ranks}"), device: device.to_owned(), ranks }
    }
}

fn columns(device: Option<&str>) -> Result<Vec<Column>> {
    let plugin = || Ok::<_, anyhow::Error>(format!("pjrt:{}", pjrt::plugin()?.display()));
    let Some(device) = device else {
        let cpu = CPU_RANKS.map(|ranks| Column::new("cpu", "cpu", ranks));
        return Ok(cpu.into_iter().chain([Column::new("traced", &plugin()?, 1)]).collect());
    };
    let full = if device == "pjrt" { plugin()? } else { device.to_owned() };
    let kind = device.split(':').next().unwrap_or(device);
    Ok(DEVICE_RANKS.map(|ranks| Column::new(kind, &full, ranks)).into())
}

/// What came of a case in a column.
#[derive(Debug, PartialEq)]
enum Cell {
    /// The largest error of a logit.
    Passed(f64),
    Failed(String),
}

impl Cell {
    /// Reads the report of `nxd check --json`; `said` is what the program wrote to stderr.
    fn checked(report: &Value, said: &str) -> Self {
        match (report["ok"] == true, report["max_abs_error"].as_f64()) {
            (true, Some(error)) => Cell::Passed(error),
            _ => {
                let place = report["first_difference"].as_str().map(str::to_owned);
                Cell::Failed(place.unwrap_or_else(|| said.trim().replace('\n', " ")))
            }
        }
    }
}

/// A line of the table.
#[derive(Debug, PartialEq)]
struct Row {
    case: String,
    /// One for each column; or why the model cannot run on any device.
    cells: Result<Vec<Cell>, String>,
}

impl Row {
    fn line(&self) -> String {
        let mut line = format!("{:<34}", self.case);
        match &self.cells {
            Err(why) => line += &format!(" skipped: {why}"),
            Ok(cells) => {
                for cell in cells {
                    let text = match cell {
                        Cell::Passed(error) => format!("{error:.1e}"),
                        Cell::Failed(_) => "FAILED".to_owned(),
                    };
                    let _ = write!(line, " {text:>11}"); // a String takes every write
                }
            }
        }
        line
    }
}

/// The table's first line.
fn header(columns: &[Column]) -> String {
    columns
        .iter()
        .fold(format!("{:<34}", "largest error of a logit"), |line, Column { title, .. }| format!("{line} {title:>11}"))
}

/// The table, for its end.
struct Table<'c> {
    columns: &'c [Column],
    rows: Vec<Row>,
}

impl Table<'_> {
    /// Fails when a check failed, or none ran.
    fn verdict(&self) -> Result<()> {
        let (mut passed, mut failures, mut skipped) = (0, Vec::new(), 0);
        for Row { case, cells } in &self.rows {
            let Ok(cells) = cells else {
                skipped += 1;
                continue;
            };
            for (cell, column) in cells.iter().zip(self.columns) {
                match cell {
                    Cell::Passed(_) => passed += 1,
                    Cell::Failed(why) => failures.push(format!("\n  {case}, {}: {why}", column.title)),
                }
            }
        }
        let counts = format!("{passed} checks passed, {} failed, {skipped} cases skipped", failures.len());
        if !failures.is_empty() {
            bail!("{counts}{}", failures.concat());
        }
        if passed == 0 {
            bail!("no golden checkpoint could be checked: {counts}");
        }
        eprintln!("{counts}");
        Ok(())
    }
}

/// The program under test.
struct Nxd<'w> {
    workspace: &'w Workspace,
    path: &'w Path,
}

impl Nxd<'_> {
    /// Checks every case, printing the table as it grows.
    fn check_all<'c>(&self, cases: &[PathBuf], columns: &'c [Column]) -> Result<Table<'c>> {
        let mut rows = Vec::new();
        print(&header(columns))?;
        for case in cases {
            let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (inspected, _) = self.json(self.command("inspect", case))?;
            let cells = if inspected["supported"] == false {
                Err(inspected["why_not"].as_str().unwrap_or("no reason given").to_owned())
            } else {
                Ok(columns.iter().map(|column| self.check(case, column)).collect::<Result<_>>()?)
            };
            let row = Row { case: name, cells };
            print(&row.line())?;
            rows.push(row);
        }
        Ok(Table { columns, rows })
    }

    fn check(&self, case: &Path, column: &Column) -> Result<Cell> {
        let mut command = self.command("check", case);
        command.args(["--device", &column.device, "--tensor-parallel-size", &column.ranks.to_string()]);
        let (report, said) = self.json(command)?;
        Ok(Cell::checked(&report, &said))
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
    fn a_missing_folder_of_cases_is_an_error() {
        let workspace = Workspace::locate().unwrap();
        let error = chosen(&workspace, Some(Path::new("no/such/folder"))).unwrap_err();
        assert!(error.to_string().contains("`no/such/folder`"), "{error}");
        assert!(chosen(&workspace, Some(&workspace.root().join("README.md"))).is_err());
    }

    #[test]
    fn a_named_device_has_the_columns_to_itself() {
        let titles: Vec<String> = columns(Some("pjrt:/p.so")).unwrap().into_iter().map(|c| c.title).collect();
        assert_eq!(titles, ["pjrt tp1", "pjrt tp2"]);
        assert_eq!(columns(Some("cuda")).unwrap()[1], Column::new("cuda", "cuda", 2));
    }

    #[test]
    fn reports_become_cells() {
        let report = json!({"ok": true, "max_abs_error": 1.5e-5, "greedy_equal": true, "first_difference": null});
        let passed = Cell::checked(&report, "");
        assert_eq!(passed, Cell::Passed(1.5e-5));
        let report = json!({"ok": false, "max_abs_error": null, "greedy_equal": false, "first_difference": "layer.1"});
        let failed = Cell::checked(&report, "error[failed]: no");
        assert_eq!(failed, Cell::Failed("layer.1".to_owned()));
        let broken = Cell::checked(&Value::Null, "error[model]: x\n  cause: y\n");
        assert_eq!(broken, Cell::Failed("error[model]: x   cause: y".to_owned()));

        let line = Row { case: "llama".to_owned(), cells: Ok(vec![passed, failed]) }.line();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["llama", "1.5e-5", "FAILED"]);
        let line = Row { case: "dbrx".to_owned(), cells: Err("`architectures`".to_owned()) }.line();
        assert!(line.ends_with("skipped: `architectures`"), "{line}");
    }

    #[test]
    fn only_checks_that_ran_and_passed_are_a_success() {
        let columns = columns(Some("cpu")).unwrap();
        let of = |cells: Vec<Result<Vec<Cell>, String>>| {
            let row = |cells| Row { case: "a".to_owned(), cells };
            Table { columns: &columns, rows: cells.into_iter().map(row).collect() }.verdict()
        };
        let passed = || Ok(vec![Cell::Passed(0.0), Cell::Passed(0.0)]);
        let skipped = || Err("why".to_owned());
        assert!(of(vec![passed(), skipped()]).is_ok());
        let failed = Ok(vec![Cell::Passed(0.0), Cell::Failed("layer.1".to_owned())]);
        for cells in [vec![], vec![skipped()], vec![passed(), failed]] {
            let error = of(cells).unwrap_err().to_string();
            assert!(error.contains("passed") && error.contains("skipped"), "{error}");
        }
        let failed = vec![Ok(vec![Cell::Passed(0.0), Cell::Failed("layer.1".to_owned())])];
        let error = of(failed).unwrap_err().to_string();
        assert!(error.contains("a, cpu tp2: layer.1"), "{error}");
    }
}
