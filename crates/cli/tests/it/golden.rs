//! Golden checkpoints through `nxd check`: logits and greedy tokens, over 1, 2 and 4 ranks; and that the check can fail.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{Home, Run};

/// Tensor-parallel sizes that golden checkpoints run at on the CPU, and on the traced device.
pub(crate) const CPU_RANKS: [&str; 3] = ["1", "2", "4"];
pub(crate) const TRACED_RANKS: [&str; 2] = ["1", "2"];

/// The folders of `goldens` that hold golden data of a model.
pub(crate) fn cases(goldens: &Path) -> Vec<PathBuf> {
    let folders = nxd_testkit::folders(goldens);
    let is_case = |dir: &PathBuf| {
        let has = |name| dir.join(name).is_file();
        has("expected.json") && has("expected.safetensors") && (has("config.json") || has("model.gguf"))
    };
    folders.into_iter().filter(is_case).collect()
}

fn check(dir: &Path, more: &[&str]) -> Run {
    let mut args = vec!["check", dir.to_str().unwrap(), "--json"];
    args.extend(more);
    Home::new().nxd(&args, &[])
}

/// Whether the case needs what is not there yet: an architecture or a quantisation scheme.
fn is_unsupported(run: &Run) -> bool {
    run.code == Some(3) && run.err.contains("not supported")
}

#[test]
fn golden_models_agree_at_every_parallel_size() {
    let mut ran = 0;
    let mut failures = Vec::new();
    for dir in cases(&nxd_testkit::goldens()) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        for ranks in CPU_RANKS {
            let run = check(&dir, &["--tensor-parallel-size", ranks]);
            if is_unsupported(&run) {
                println!("skipped {name}: {}", run.err.trim());
                break;
            }
            ran += 1;
            let report: Value = serde_json::from_str(&run.out).unwrap_or(Value::Null);
            if run.code != Some(0) || report["ok"] != true {
                failures.push(format!("{name} on {ranks} ranks: {run:?}"));
            }
        }
    }
    println!("{ran} golden cases ran");
    assert!(ran > 0, "no golden case ran");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_models_are_supported_where_inspect_says_so() {
    let mut ran = 0;
    for dir in cases(&nxd_testkit::goldens()) {
        let run = Home::new().nxd(&["inspect", dir.to_str().unwrap(), "--json"], &[]);
        let report: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(report["supported"], !is_unsupported(&check(&dir, &[])), "{}: {report}", dir.display());
        let stored = report["dtype_parameters"].as_object().unwrap();
        assert_eq!(report["parameters"], stored.values().map(|count| count.as_u64().unwrap()).sum::<u64>());
        ran += 1;
    }
    println!("{ran} golden cases ran");
    assert!(ran > 0, "no golden case ran");
}

#[test]
fn golden_models_agree_in_chunks_and_other_blocks() {
    let mut ran = 0;
    for dir in cases(&nxd_testkit::goldens()) {
        let run = check(&dir, &["--max-num-batched-tokens", "5", "--block-size", "8", "--load-mode", "read"]);
        if !is_unsupported(&run) {
            assert_eq!(run.code, Some(0), "{}: {run:?}", dir.display());
            ran += 1;
        }
    }
    println!("{ran} golden cases ran");
    assert!(ran > 0, "no golden case ran");
}

#[test]
fn golden_folders_and_the_gguf_files_made_of_them_agree() {
    let (mut ran, mut failures) = (0, Vec::new());
    let converted = nxd_testkit::goldens().join("gguf");
    // Another set of golden data need not have such files.
    for dir in converted.is_dir().then(|| nxd_testkit::folders(&converted)).into_iter().flatten() {
        let against = nxd_testkit::goldens().join(dir.file_name().unwrap());
        let run = check(&dir.join("model.gguf"), &["--against", against.to_str().unwrap()]);
        if run.code != Some(0) {
            failures.push(format!("{}: {run:?}", dir.display()));
        }
        ran += 1;
    }
    println!("{ran} converted golden cases ran");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A copy of the first case that runs here.
fn copy(home: &Home) -> PathBuf {
    let case = cases(&nxd_testkit::goldens()).into_iter().find(|dir| check(dir, &[]).code == Some(0)).unwrap();
    let to = home.path().join("copy");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(case).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// One case for each architecture: its smallest folder name, so that the choice does not depend on the file system.
#[cfg(feature = "pjrt")]
fn one_of_each_family() -> Vec<PathBuf> {
    let mut seen = std::collections::BTreeSet::new();
    let architecture = |dir: &PathBuf| {
        let config = fs::read(dir.join("config.json")).unwrap_or_default();
        let config: Value = serde_json::from_slice(&config).unwrap_or_default();
        // A folder without a configuration holds a GGUF file, a family of formats by itself.
        config["architectures"][0].as_str().unwrap_or("gguf").to_owned()
    };
    cases(&nxd_testkit::goldens()).into_iter().filter(|dir| seen.insert(architecture(dir))).collect()
}

#[cfg(feature = "pjrt")]
#[test]
fn golden_models_of_each_family_agree_on_the_traced_device() {
    let device = format!("pjrt:{}", nxd_testkit::pjrt_cpu_plugin().display());
    let mut ran = 0;
    for dir in one_of_each_family() {
        // What the CPU computes is not skipped here: no device refuses a model.
        let on_cpu = check(&dir, &[]);
        if is_unsupported(&on_cpu) {
            println!("skipped {}: {}", dir.display(), on_cpu.err.trim());
            continue;
        }
        for ranks in TRACED_RANKS {
            let run = check(&dir, &["--device", &device, "--tensor-parallel-size", ranks]);
            let report: Value = serde_json::from_str(&run.out).unwrap_or(Value::Null);
            assert!(run.code == Some(0) && report["ok"] == true, "{} on {ranks} ranks: {run:?}", dir.display());
            ran += 1;
        }
    }
    println!("{ran} golden cases ran");
    assert!(ran > 0, "no golden case ran");
}

#[test]
fn a_golden_logit_moved_by_a_hundredth_fails() {
    let home = Home::new();
    let dir = copy(&home);
    let file = dir.join("expected.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = 8 + header + table["logits_last.1"]["data_offsets"][0].as_u64().unwrap() as usize + 4 * 17;
    let moved = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) + 0.01;
    bytes[at..at + 4].copy_from_slice(&moved.to_le_bytes());
    fs::write(&file, bytes).unwrap();

    let run = check(&dir, &[]);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((run.code, &report["ok"], &report["greedy_equal"]), (Some(1), &Value::Bool(false), &Value::Bool(true)));
    assert!(report["first_difference"].as_str().unwrap().contains("logits_last.1"), "{report}");
}

#[test]
fn a_golden_greedy_token_changed_fails() {
    let home = Home::new();
    for field in ["greedy", "greedy_stop"] {
        let dir = copy(&home);
        let file = dir.join("expected.json");
        let mut expected: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let tokens = if field == "greedy" { &mut expected[field][0]["tokens"] } else { &mut expected[field]["tokens"] };
        tokens[1] = Value::from(tokens[1].as_u64().unwrap() ^ 1);
        fs::write(&file, expected.to_string()).unwrap();

        let run = check(&dir, &[]);
        let report: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!((run.code, &report["greedy_equal"]), (Some(1), &Value::Bool(false)), "{field}: {run:?}");
    }
}

#[test]
fn a_folder_without_golden_data_exits_with_3() {
    let home = Home::new();
    let dir = copy(&home);
    fs::remove_file(dir.join("expected.json")).unwrap();
    let run = check(&dir, &[]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("expected.json"), "{run:?}");
}
