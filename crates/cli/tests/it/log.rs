//! What a load says of itself with `--log-level debug`: each tensor with what serves it, and where threads run.

use crate::program::Home;

fn generate(more: &[&str]) -> crate::program::Run {
    let model = crate::device::tiny();
    let args = ["generate", model.to_str().unwrap(), "--prompt-ids", "1,2,3", "--max-tokens", "4", "--json"];
    Home::new().nxd(&[&args, more].concat(), &[])
}

#[test]
fn every_tensor_is_logged_with_what_serves_it() {
    let run = generate(&["--log-level", "debug", "--log-format", "json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let said = |name: &str, what: &str| run.err.lines().any(|line| line.contains(name) && line.contains(what));
    for (name, what) in [
        ("model.layers.0.mlp.gate_proj.weight", "\"kernel\":\"f32 "),
        ("model.layers.0.input_layernorm.weight", "kept as a vector"),
        ("model.embed_tokens.weight", "kept as a table"),
    ] {
        assert!(said(name, what), "{name}: {what}: {}", run.err);
    }
    assert!(!said("nxd_cpu", "\"bound\"") || std::fs::exists("/sys/devices/system/node/node1").unwrap(), "{}", run.err);
}

#[cfg(target_os = "linux")]
#[test]
fn pinned_threads_say_where_they_run_and_change_no_result() {
    let pinned = generate(&["--pin-threads", "--threads", "2", "--log-level", "debug", "--log-format", "json"]);
    let bound = pinned.err.lines().filter(|line| line.contains("\"bound\"") && line.contains("\"processors\""));
    assert_eq!((pinned.code, bound.count()), (Some(0), 2), "{pinned:?}");
    assert!(!pinned.err.contains("WARN"), "{}", pinned.err);
    let tokens = |out: &str| serde_json::from_str::<serde_json::Value>(out).unwrap()[0]["tokens"].clone();
    assert_eq!(tokens(&pinned.out), tokens(&generate(&["--threads", "2"]).out));
}
