//! `nxd generate` and `nxd chat`: what they print, what they share a step with, and how requests fail.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::program::{Home, Run};

/// A tiny random checkpoint with tokenizer files.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens/llama-mha-default")
}

fn generate(model: &Path, more: &[&str]) -> Run {
    let mut args = vec!["generate", model.to_str().unwrap()];
    args.extend(more);
    Home::new().nxd(&args, &[])
}

fn rows(run: &Run) -> Vec<Value> {
    assert_eq!(run.code, Some(0), "{run:?}");
    serde_json::from_str(&run.out).unwrap()
}

/// The first greedy continuation of the golden data: prompt and tokens.
fn golden() -> (Vec<u64>, Vec<u64>) {
    let expected: Value = serde_json::from_slice(&fs::read(tiny().join("expected.json")).unwrap()).unwrap();
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let greedy = &expected["greedy"][0];
    (ids(&expected["prompts"][greedy["prompt"].as_u64().unwrap() as usize]), ids(&greedy["tokens"]))
}

fn listed(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn token_ids_go_in_and_out_as_the_contract_says() {
    let (prompt, tokens) = golden();
    let count = tokens.len().to_string();
    let run = generate(
        &tiny(),
        &[
            "--prompt-ids",
            &listed(&prompt),
            "--max-tokens",
            &count,
            "--ignore-eos",
            "--json",
            "--activations",
            "f32",
            "--logprobs",
            "3",
        ],
    );
    let rows = rows(&run);
    let row = &rows[0];
    assert_eq!((&row["prompt_tokens"], &row["tokens"]), (&json!(prompt), &json!(tokens)));
    assert_eq!(
        (&row["finish_reason"], &row["steps"], &row["max_batch"]),
        (&json!("length"), &json!(tokens.len()), &json!(1))
    );
    let logprobs = row["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), tokens.len());
    for (step, token) in logprobs.iter().zip(&tokens) {
        let step = step.as_array().unwrap();
        let values: Vec<f64> = step.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(values.len() == 3 && values.is_sorted_by(|a, b| a >= b) && values[0] <= 0.0, "{values:?}");
        // Greedy takes the best one.
        assert_eq!(
            (&step[0]["id"], &step[0]["chosen"], &step[1]["chosen"]),
            (&json!(token), &json!(true), &json!(false))
        );
    }
    for rate in ["prefill_s", "decode_s", "prompt_tokens_per_s", "tokens_per_s"] {
        assert!(row["timing"][rate].as_f64().is_some_and(|x| x >= 0.0), "{row}");
    }
}

#[test]
fn prompts_of_a_file_share_steps_and_keep_their_order() {
    let home = Home::new();
    let file = home.path().join("prompts.jsonl");
    let lines = "{\"prompt_ids\":[305,68,234]}\n\n{\"prompt_ids\":[17]}\n{\"prompt\":\"Hello\"}\n";
    fs::write(&file, lines).unwrap();
    let common = ["--max-tokens", "6", "--ignore-eos", "--json", "--prompts", file.to_str().unwrap()];
    let together = rows(&generate(&tiny(), &common));
    assert_eq!(together.len(), 3);
    assert_eq!(together[0]["prompt_tokens"], json!([305, 68, 234]));
    assert!(together.iter().all(|row| row["max_batch"] == 3 && row["tokens"].as_array().unwrap().len() == 6));
    let alone = rows(&generate(&tiny(), &[&common[..], &["--max-num-seqs", "1"]].concat()));
    for (a, b) in together.iter().zip(&alone) {
        assert_eq!(a["tokens"], b["tokens"]);
        assert_eq!(b["max_batch"], 1);
    }
}

#[test]
fn seeds_repeat_and_penalties_bite() {
    let ids = ["--prompt-ids", "305,68,234", "--max-tokens", "16", "--ignore-eos", "--json"];
    let tokens = |more: &[&str]| rows(&generate(&tiny(), &[&ids[..], more].concat()))[0]["tokens"].clone();
    let drawn = tokens(&["--temperature", "1.5", "--seed", "7"]);
    assert_eq!(drawn, tokens(&["--temperature", "1.5", "--seed", "7", "--threads", "1"]));
    assert_ne!(drawn, tokens(&["--temperature", "1.5", "--seed", "8"]));
    assert_eq!(tokens(&[]), tokens(&["--temperature", "1.5", "--top-k", "1"]), "one token left is the best one");
    let spread = tokens(&["--frequency-penalty", "2", "--presence-penalty", "2", "--repetition-penalty", "5"]);
    let mut ids: Vec<u64> = spread.as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 16, "strong penalties repeat nothing: {spread}");
}

#[test]
fn without_json_stdout_is_the_text_and_a_stop_string_is_left_out() {
    let whole = generate(&tiny(), &["--prompt", "Hello", "--max-tokens", "12", "--ignore-eos"]);
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let text = whole.out.strip_suffix('\n').unwrap();
    assert!(text.chars().count() > 6, "{text:?}");
    let stop: String = text.chars().skip(4).take(2).collect();
    let cut = generate(&tiny(), &["--prompt", "Hello", "--max-tokens", "12", "--ignore-eos", "--stop", &stop]);
    assert_eq!(cut.out, format!("{}\n", &text[..text.find(&stop).unwrap()]));
    let json =
        generate(&tiny(), &["--prompt", "Hello", "--max-tokens", "12", "--ignore-eos", "--stop", &stop, "--json"]);
    assert_eq!(rows(&json)[0]["finish_reason"], "stop");
}

/// A copy of the tiny checkpoint in `home`.
fn copy(home: &Home) -> PathBuf {
    let to = home.path().join("copy");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn failed_requests_exit_with_1_and_say_why() {
    let home = Home::new();
    let dir = copy(&home);
    let long = listed(&vec![5; 80]);
    for (args, text) in [
        (vec!["--prompt-ids", "1,99999"], "99999"),
        (vec!["--prompt-ids", long.as_str(), "--max-model-len", "64"], "64"),
        (vec!["--prompt-ids", ""], "no tokens"),
    ] {
        let run = generate(&dir, &args);
        assert_eq!(run.code, Some(1), "{args:?}: {run:?}");
        assert!(run.err.contains(text) && run.out.is_empty(), "{args:?}: {run:?}");
    }
}

#[test]
fn an_empty_prompt_needs_a_bos_token() {
    let home = Home::new();
    let dir = copy(&home);
    assert_eq!(generate(&dir, &["--prompt", "", "--max-tokens", "2"]).code, Some(0));
    for file in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let mut value: Value = serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap();
        for key in ["bos_token_id", "bos_token", "add_bos_token"] {
            value.as_object_mut().unwrap().remove(key);
        }
        fs::write(dir.join(file), value.to_string()).unwrap();
    }
    // The tokenizer itself must not put one there either.
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(dir.join("tokenizer.json")).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let run = generate(&dir, &["--prompt", "", "--max-tokens", "2"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("no tokens"), "{run:?}");
}

#[test]
fn logits_that_become_nan_fail_the_request() {
    let home = Home::new();
    let dir = copy(&home);
    let file = dir.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = 8 + header + table["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let run = generate(&dir, &["--prompt-ids", "1,2,3"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("NaN"), "{run:?}");
}

#[test]
fn text_for_a_model_without_tokenizer_exits_with_3() {
    let home = Home::new();
    let dir = copy(&home);
    fs::remove_file(dir.join("tokenizer.json")).unwrap();
    let ids = generate(&dir, &["--prompt-ids", "1,2,3", "--json"]);
    assert_eq!(rows(&ids)[0]["text"], "");
    let run = generate(&dir, &["--prompt", "Hello"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("tokenizer"), "{run:?}");
}

/// The demo model in the user's own cache, where `nxd pull demo` puts it; tests of the workspace run after that.
fn demo() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
    let file = cache.join("nxd/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(file.is_file(), "{} is missing: run `cargo xtask demo` first", file.display());
    file
}

#[test]
fn golden_continuations_of_the_real_model_are_equal_except_at_near_ties() {
    let file = nxd_testkit::goldens().join("demo-greedy.json");
    if !file.is_file() {
        println!("skipped: {} has no demo-greedy.json", nxd_testkit::goldens().display());
        return;
    }
    let golden: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let model = demo();
    let prompts = golden["prompts"].as_array().unwrap();
    for prompt in prompts {
        let ids = |key: &str| -> Vec<u64> { serde_json::from_value(prompt[key].clone()).unwrap() };
        let (given, expected) = (ids("prompt_ids"), ids("gen_ids"));
        let count = expected.len().to_string();
        let args =
            ["--prompt-ids", &listed(&given), "--max-tokens", &count, "--ignore-eos", "--json", "--activations", "f32"];
        let rows = rows(&generate(&model, &args));
        let tokens: Vec<u64> = serde_json::from_value(rows[0]["tokens"].clone()).unwrap();
        if let Some(at) = tokens.iter().zip(&expected).position(|(a, b)| a != b) {
            let gap = prompt["gap"][at].as_f64().unwrap();
            assert!(gap < 0.02, "{}: token {at} differs at a gap of {gap}", prompt["name"]);
        }
    }
    println!("{} golden cases ran", prompts.len());
    assert!(!prompts.is_empty());
}

#[test]
fn chat_answers_lines_and_commands() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_nxd"))
        .args(["chat", demo().to_str().unwrap(), "--max-tokens", "8"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"/help\nHello, who are you?\n/stats\n/nonsense\n/quit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out} {err}");
    assert!(err.contains("/system") && err.contains("answer 8 tokens") && err.contains("/nonsense is not"), "{err}");
    assert!(out.trim().len() > 3, "{out:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_nxd"))
        .args(["chat", demo().to_str().unwrap(), "--max-tokens", "4000", "--ignore-eos"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Write the numbers from 1 to 500.\n").unwrap();
    // The answer has begun when its first byte is there.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    stdin.write_all(b"/stats\n/quit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} {err}", output.status);
    assert!(err.contains("(stopped)") && err.contains("answer "), "{err}");
}

#[test]
fn an_adapter_gives_its_own_tokens_and_a_folder_that_is_none_is_a_file_error() {
    let golden = tiny().join("../lora-llama");
    let expected: Value = serde_json::from_slice(&fs::read(golden.join("expected.json")).unwrap()).unwrap();
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>();
    for (name, adapter) in expected["adapters"].as_object().unwrap() {
        let greedy = &adapter["greedy"][0];
        let prompt = listed(&ids(&expected["prompts"][greedy["prompt"].as_u64().unwrap() as usize]));
        let (tokens, path) = (ids(&greedy["tokens"]), golden.join(name));
        let count = tokens.len().to_string();
        let asked = ["--prompt-ids", &prompt, "--max-tokens", &count, "--ignore-eos", "--json", "--activations", "f32"];
        let with = [&asked[..], &["--lora", path.to_str().unwrap()]].concat();
        assert_eq!(rows(&generate(&golden.join("base"), &with))[0]["tokens"], json!(tokens), "{name}");
    }
    let none = golden.join("base");
    let run = generate(&none, &["--prompt-ids", "1", "--lora", none.to_str().unwrap()]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("adapter_config.json"), "{run:?}");
}
