//! `nxd plan` on golden checkpoints: it fits, it does not, and what scripts read of it.

use serde_json::Value;

use crate::program::{Home, Run};

fn plan(name: &str, more: &[&str]) -> Run {
    let model = nxd_testkit::goldens().join(name);
    let mut args = vec!["plan", model.to_str().unwrap()];
    args.extend(more);
    Home::new().nxd(&args, &[])
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

#[test]
fn a_model_that_fits_is_told_of_with_the_flags_to_serve_it() {
    let run = plan("llama-mha-default", &["--memory", "64MiB", "--max-num-seqs", "2", "--threads", "1"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    for row in
        ["memory         64 MiB", "weights ", "work space ", "KV per token ", "  full ", "at once        2 requests"]
    {
        assert!(run.out.lines().any(|line| line.starts_with(row)), "{row}: {}", run.out);
    }
    assert!(run.out.contains("\nfits           yes\n"), "{}", run.out);
    let line = run.out.lines().find(|line| line.starts_with("serve with")).unwrap();
    assert!(line.contains("nxd serve /") && line.contains(" --max-num-seqs 2 --kv-cache-memory "), "{line}");
    assert!(line.ends_with(" --threads 1"), "{line}");
}

#[test]
fn the_flags_that_are_told_give_the_same_plan() {
    let first = json(&plan("llama-gguf-q8_0", &["--memory", "40MiB", "--json"]));
    let line = first["serve"].as_str().unwrap();
    let flags: Vec<&str> = line.split(' ').skip(3).collect();
    let second = json(&plan("llama-gguf-q8_0", &[&["--memory", "40MiB", "--json"], &flags[..]].concat()));
    assert_eq!(second["fits"], true, "{second}");
    for key in ["max_model_len", "kv_tokens", "kv_bytes", "full_length_requests", "total_bytes"] {
        assert_eq!(first[key], second[key], "{key}: {line}");
    }
}

#[test]
fn a_context_that_does_not_fit_exits_with_4_and_says_what_does() {
    let args = ["--memory", "64MiB", "--max-model-len", "100000000"];
    let run = plan("llama-mha-default", &args);
    assert_eq!(run.code, Some(4), "{run:?}");
    for way_out in ["lower --max-model-len", "raise --kv-cache-memory", "smaller --kv-cache-dtype"] {
        assert!(run.err.starts_with("error[memory]: ") && run.err.contains(way_out), "{run:?}");
    }
    assert!(run.out.contains("\nfits           no\nwould fit      nxd serve "), "{}", run.out);
    let report = json(&plan("llama-mha-default", &[&args[..], &["--json"]].concat()));
    assert_eq!((&report["fits"], &report["max_model_len"]), (&Value::Bool(false), &report["model_context"]));
    assert!(report["why_not"].as_str().unwrap().contains("100,000,000"), "{report}");
}

#[test]
fn a_cache_beside_which_weights_do_not_fit_exits_with_4() {
    let run =
        plan("llama-mha-default", &["--memory", "64MiB", "--kv-cache-memory", "1GiB", "--max-num-seqs", "100000"]);
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.err.contains("lower --kv-cache-memory") && run.out.contains("would fit"), "{run:?}");
}

#[test]
fn a_machine_that_is_too_small_for_the_weights_exits_with_4() {
    let run = plan("llama-mha-default", &["--memory", "100KiB", "--json"]);
    let report = json(&run);
    assert_eq!(
        (run.code, &report["serve"], &report["max_model_len"]),
        (Some(4), &Value::Null, &Value::Null),
        "{run:?}"
    );
    assert!(run.err.contains("100 KiB of memory") && run.err.contains("smaller quantisation"), "{run:?}");
    let page = plan("llama-mha-default", &["--memory", "100KiB"]);
    assert!(page.out.contains("none fits") && page.out.ends_with("fits           no\n"), "{page:?}");
}

#[test]
fn groups_types_and_ranks_are_counted() {
    let with = |more: &[&str]| json(&plan("gemma3-local-global", &[&["--memory", "1GiB", "--json"], more].concat()));
    let one = with(&[]);
    let groups = one["kv_groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2, "{one}");
    assert!(groups.iter().any(|g| g["window"].is_null()) && groups.iter().any(|g| g["window"].is_u64()), "{one}");
    let sum: u64 = groups.iter().map(|g| g["token_bytes"].as_u64().unwrap()).sum();
    assert_eq!(one["kv_token_bytes"], sum);
    let wide = with(&["--activations", "f32"]);
    assert_eq!((&one["kv_dtype"], &wide["kv_dtype"]), (&Value::from("f16"), &Value::from("f32")));
    assert_eq!(wide["kv_token_bytes"], 2 * sum);
    let narrow = with(&["--kv-cache-dtype", "int8"])["kv_token_bytes"].as_u64().unwrap();
    for name in ["fp8", "fp8_e4m3"] {
        let float = with(&["--kv-cache-dtype", name]);
        assert_eq!((&float["kv_dtype"], float["kv_token_bytes"].as_u64()), (&Value::from("fp8"), Some(narrow)));
    }
    assert!(narrow > sum / 2 && narrow < sum, "integers and their scales: {narrow} of {sum}");
    let two = with(&["--tensor-parallel-size", "2"]);
    assert_eq!(two["weights_packed_bytes"].as_array().unwrap().len(), 2);
    assert_eq!(two["tensor_parallel_size"], 2);
}

#[test]
fn numbers_beyond_any_machine_are_no_panic() {
    let most = usize::MAX.to_string();
    let run = plan(
        "qwen3-tied",
        &["--max-model-len", &most, "--max-num-seqs", &most, "--max-num-batched-tokens", &most, "--memory", "1TiB"],
    );
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(!run.err.contains("panicked"), "{run:?}");
}

#[test]
fn a_model_that_cannot_be_loaded_cannot_be_planned() {
    let home = Home::new();
    let run = home.nxd(&["plan", "missing/model.gguf"], &[]);
    assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{run:?}");
    let usage = home.nxd(&["plan", "x", "--memory", "much"], &[]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}
