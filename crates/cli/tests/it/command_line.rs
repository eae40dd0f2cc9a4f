//! What every command shares: help, usage errors, completions, where models may lie.

use std::fs;

use crate::program::Home;

#[test]
fn help_names_every_command_and_goes_to_stdout() {
    let run = Home::new().nxd(&["--help"], &[]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    for command in ["generate", "chat", "check", "inspect", "plan", "bench", "doctor", "pull", "completions", "run"] {
        assert!(run.out.contains(command), "{command}: {}", run.out);
    }
    let version = Home::new().nxd(&["--version"], &[]);
    assert_eq!(version.out, concat!("nxd ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn usage_errors_exit_with_2_and_suggest() {
    let home = Home::new();
    for (args, text) in [
        (&["sreve", "demo"][..], "unrecognized subcommand"),
        (&["pull", "demo", "--jsno"], "--json"),
        (&["pull", "demo", "--json", "--json"], "multiple times"),
        (&["pull"], "<ID>"),
        (&["generate", "demo", "--prompt", "a", "--device", "tpu"], "`tpu` is not a device"),
        (&["check", "demo", "--device", "pjrt:"], "as in `pjrt:/path/to/plugin.so`"),
        (&["bench", "demo", "--dtype", "int8"], "[possible values: auto, f32, bf16, f16]"),
        (&["doctor", "--log-level", "a=b=c"], "not a log level"),
    ] {
        let run = home.nxd(args, &[]);
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
        assert!(run.err.contains(text) && run.out.is_empty(), "{args:?}: {run:?}");
    }
}

#[test]
fn switches_can_come_from_the_environment() {
    for on in ["1", "true", "yes"] {
        let run = Home::new().nxd(&["doctor"], &[("NXD_JSON", on)]);
        assert!(run.out.starts_with('{'), "{run:?}");
    }
    let run = Home::new().nxd(&["doctor"], &[("NXD_JSON", "0")]);
    assert!(run.out.starts_with("nxd"), "{run:?}");
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = Home::new().nxd(&["completions", shell], &[]);
        assert!(
            run.code == Some(0) && run.out.contains("max-num-batched-tokens"),
            "{shell}: {:?} {}",
            run.code,
            run.err
        );
    }
}

#[test]
fn paths_that_hold_no_model_are_errors_that_name_them() {
    let home = Home::new();
    fs::create_dir(home.path().join("empty")).unwrap();
    fs::write(home.path().join("text.txt"), "x").unwrap();
    for (model, text) in [
        ("missing/model.gguf", "no such file or directory"),
        ("./missing", "no such file or directory"),
        ("empty", "no `config.json` and no `.gguf`"),
        ("text.txt", "without the ending `.gguf`"),
        ("/dev/zero", "a pipe, a socket or a device"),
        ("gpt2", "neither a file, a directory nor a hub id"),
        ("org/na me", "not a hub id"),
    ] {
        let run = home.nxd(&["pull", model], &[("HF_HUB_OFFLINE", "1")]);
        assert_eq!(run.code, Some(3), "{model}: {run:?}");
        assert!(run.err.contains(text) && run.err.contains(model), "{model}: {}", run.err);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let run = std::process::Command::new("sh")
        .args(["-c", "\"$0\" completions bash | true; echo done", env!("CARGO_BIN_EXE_nxd")])
        .output()
        .unwrap();
    assert!(run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
}
