//! `--device` and `--dtype`: what cannot be used is refused by every command that computes, with the file named and what to install.

use std::path::{Path, PathBuf};

use crate::program::{Home, Run};

/// A tiny checkpoint with golden data and tokenizer files.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens/llama-mha-default")
}

/// What follows the model in each command that computes.
const COMPUTING: [&[&str]; 4] = [
    &["generate", "--prompt-ids", "1,2,3", "--max-tokens", "2"],
    &["chat"],
    &["check"],
    &["bench", "--prompt-tokens", "4", "--gen-tokens", "2", "--batch", "1", "--repeat", "1"],
];

fn nxd(home: &Home, command: &[&str], more: &[&str]) -> Run {
    let model = tiny();
    let args = [&command[..1], &[model.to_str().unwrap()], &command[1..], more].concat();
    home.nxd(&args, &[])
}

#[cfg(feature = "pjrt")]
#[test]
fn a_missing_plugin_exits_with_3_and_says_what_to_install() {
    let home = Home::new();
    for command in COMPUTING {
        for (device, file, install) in [
            ("pjrt:/no/such.so", "/no/such.so", "pip install"),
            ("pjrt:/no/pjrt_c_api_cpu_plugin.so", "/no/pjrt_c_api_cpu_plugin.so", "cargo xtask pjrt"),
        ] {
            let run = nxd(&home, command, &["--device", device]);
            assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{command:?}: {run:?}");
            assert!(run.err.starts_with("error[model]: ") && !run.err.contains("panicked"), "{run:?}");
            assert!(run.err.contains(file) && run.err.contains(install), "{command:?}: {run:?}");
        }
    }
}

#[cfg(feature = "pjrt")]
#[test]
fn a_file_that_is_no_plugin_exits_with_3_and_is_named() {
    let home = Home::new();
    let file = home.path().join("plugin.so");
    std::fs::write(&file, "not a shared library").unwrap();
    for path in [file.as_path(), home.path()] {
        let device = format!("pjrt:{}", path.display());
        let run = nxd(&home, COMPUTING[0], &["--device", &device]);
        assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{run:?}");
        assert!(run.err.contains(path.to_str().unwrap()) && run.err.contains("GetPjrtApi"), "{run:?}");
    }
}

#[cfg(not(feature = "pjrt"))]
#[test]
fn other_devices_are_usage_errors_in_a_build_without_them() {
    for command in COMPUTING {
        let run = nxd(&Home::new(), command, &["--device", "pjrt:/no/such.so"]);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{command:?}: {run:?}");
        assert!(run.err.contains("supported: `cpu`"), "{run:?}");
    }
}

#[test]
fn the_cpu_computes_in_f32_alone() {
    let home = Home::new();
    for command in COMPUTING {
        for dtype in ["bf16", "f16"] {
            let run = nxd(&home, command, &["--dtype", dtype]);
            assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{command:?}: {run:?}");
            assert!(run.err.contains("--dtype takes `auto` and `f32`"), "{command:?}: {run:?}");
        }
    }
    let generate = |more: &[&str]| nxd(&home, COMPUTING[0], more).out;
    let plain = generate(&[]);
    assert!(!plain.is_empty());
    assert_eq!(plain, generate(&["--dtype", "f32", "--device", "cpu"]));
}
