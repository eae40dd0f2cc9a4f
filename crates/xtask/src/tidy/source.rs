//! Rules about one file: its header, length, name, and what it may mention.

use super::code::{Literals, code, identifiers, words};
use super::{File, Violation};

/// Words for devices. The layers above `Ops` know none of them, or a second device would mean a second model.
const DEVICES: [&str; 6] = ["cpu", "cuda", "neuron", "pjrt", "stablehlo", "avx"];
const DEVICE_FREE: [&str; 3] = ["crates/parallel/", "crates/modules/", "crates/models/"];

/// Where `unsafe` may stand, as prefixes of paths; `docs/architecture.md` says why it is needed there.
const UNSAFE: [&str; 8] = [
    "crates/cpu/src/kernels",
    "crates/cpu/src/team",
    "crates/cpu/src/arena",
    "crates/cpu/src/prefetch.rs",
    "crates/collectives/src/ffi",
    "crates/runtime/",
    "crates/models/src/checkpoint/map.rs",
    "benches/limits/peak.rs",
];

const FAMILIES: &str = "crates/models/src/families/";
const FAMILY_LINES: usize = 120;
const LONG_LINES: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "helpers", "misc"];

/// Addresses and paths that hold on one machine or in one network only. In pieces, so that this file does not mention them.
const FOREIGN: [&str; 9] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted"),
    concat!("npm", "js."),
    concat!("deb.", "debian"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

/// Lock files name the registry they were resolved with.
const LOCK_FILES: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// Every rule of this module on one file.
pub(super) fn all(file: &File) -> Vec<Violation> {
    let rules = [header, device_names, family_length, file_length, unsafe_code, foreign_names, empty_names];
    rules.iter().flat_map(|rule| rule(file)).collect()
}

/// Every Rust file opens with `//!`.
fn header(file: &File) -> Vec<Violation> {
    if !is_rust(file) || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![Violation::new(&file.path, 1, "the file does not open with `//!`; say in a line what it is for")]
}

/// No device is named in code of the device-free crates; comments may.
fn device_names(file: &File) -> Vec<Violation> {
    if !is_rust(file) || !DEVICE_FREE.iter().any(|folder| file.path.starts_with(folder)) {
        return Vec::new();
    }
    let text = code(&file.text, Literals::Keep);
    let named = identifiers(&text).filter(|(_, name)| words(name).iter().any(|word| DEVICES.contains(&word.as_str())));
    named
        .map(|(line, name)| {
            let message = format!("`{name}` names a device; only `nxd-executor` and the devices themselves may");
            Violation::new(&file.path, line, message)
        })
        .collect()
}

/// A family is data; one that needs more lines needs a new block kind.
fn family_length(file: &File) -> Vec<Violation> {
    let lines = file.text.lines().count();
    if !is_rust(file) || !file.path.starts_with(FAMILIES) || file.path.ends_with("/mod.rs") || lines <= FAMILY_LINES {
        return Vec::new();
    }
    let message = format!(
        "a family file of {lines} lines, {FAMILY_LINES} at most; what needs code is a block kind in `nxd-modules`"
    );
    vec![Violation::new(&file.path, FAMILY_LINES + 1, message)]
}

/// A long file says in its header why it is one.
fn file_length(file: &File) -> Vec<Violation> {
    let lines = file.text.lines().count();
    if !is_rust(file) || lines <= LONG_LINES {
        return Vec::new();
    }
    let header: String = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let header = header.to_lowercase();
    if header.contains("uniform") || header.contains("table") {
        return Vec::new();
    }
    let message = format!(
        "{lines} lines, and the `//!` header does not say why (uniform, a table) past {LONG_LINES}; split it by concept"
    );
    vec![Violation::new(&file.path, LONG_LINES + 1, message)]
}

/// `unsafe` stays in the listed places.
fn unsafe_code(file: &File) -> Vec<Violation> {
    if !is_rust(file) || UNSAFE.iter().any(|prefix| file.path.starts_with(prefix)) {
        return Vec::new();
    }
    let text = code(&file.text, Literals::Blank);
    let lines = identifiers(&text).filter(|(_, word)| *word == "unsafe").map(|(line, _)| line);
    lines
        .map(|line| Violation::new(&file.path, line, format!("`unsafe` outside its places ({})", UNSAFE.join(", "))))
        .collect()
}

/// No registry's address, no machine's path.
fn foreign_names(file: &File) -> Vec<Violation> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    if LOCK_FILES.contains(&name) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (n, line) in file.text.lines().enumerate() {
        for foreign in FOREIGN.iter().filter(|foreign| line.contains(**foreign)) {
            let message = format!("mentions `{foreign}`, which holds on one machine or in one network only");
            found.push(Violation::new(&file.path, n + 1, message));
        }
    }
    found
}

/// A file's or folder's name says what is inside.
fn empty_names(file: &File) -> Vec<Violation> {
    let parts = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    parts
        .filter(|part| EMPTY_NAMES.contains(&part.to_lowercase().as_str()))
        .map(|part| Violation::new(&file.path, 1, format!("the name `{part}` says nothing; name the concept")))
        .collect()
}

fn is_rust(file: &File) -> bool {
    file.path.ends_with(".rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    /// The lines where `rule` fires on a made-up file.
    fn lines(rule: fn(&File) -> Vec<Violation>, path: &str, text: &str) -> Vec<usize> {
        rule(&file(path, text)).iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_file_without_header_is_found() {
        assert_eq!(lines(header, "crates/ops/src/lib.rs", "use std::fmt;\n"), [1]);
        assert_eq!(lines(header, "crates/ops/src/lib.rs", ""), [1]);
        assert!(lines(header, "crates/ops/src/lib.rs", "//! Ops.\n").is_empty());
        assert!(lines(header, "README.md", "# nxd\n").is_empty());
    }

    #[test]
    fn a_device_name_above_ops_is_found() {
        let text =
            "//! Not for cuda alone.\nuse nxd_cpu::Team;\nlet pjrtClient = \"AVX2\"; // neuron\nlet occupied = 1;\n";
        assert_eq!(lines(device_names, "crates/modules/src/mlp.rs", text), [2, 3, 3]);
        assert!(lines(device_names, "crates/executor/src/lib.rs", text).is_empty());
    }

    #[test]
    fn a_long_family_is_found() {
        let text = "//! F.\n".repeat(FAMILY_LINES + 1);
        assert_eq!(lines(family_length, "crates/models/src/families/llama.rs", &text), [FAMILY_LINES + 1]);
        assert!(lines(family_length, "crates/models/src/families/mod.rs", &text).is_empty());
        assert!(lines(family_length, "crates/models/src/families/llama.rs", "//! F.\n").is_empty());
    }

    #[test]
    fn a_long_file_that_does_not_say_why_is_found() {
        let body = "//\n".repeat(LONG_LINES);
        assert_eq!(lines(file_length, "crates/cpu/src/a.rs", &format!("//! Long.\n{body}")), [LONG_LINES + 1]);
        assert!(lines(file_length, "crates/cpu/src/a.rs", &format!("//! A Table.\n{body}")).is_empty());
        assert!(lines(file_length, "crates/cpu/src/a.rs", &body).is_empty());
    }

    #[test]
    fn unsafe_outside_its_places_is_found() {
        let text = "//! unsafe\n#![allow(unsafe_code, reason = \"unsafe\")]\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(lines(unsafe_code, "crates/engine/src/lib.rs", text), [4]);
        assert_eq!(lines(unsafe_code, "crates/models/src/checkpoint/mapped.rs", text), [4]);
        for allowed in
            ["crates/cpu/src/kernels/gemv/avx2.rs", "crates/cpu/src/arena.rs", "crates/models/src/checkpoint/map.rs"]
        {
            assert!(lines(unsafe_code, allowed, text).is_empty(), "{allowed}");
        }
    }

    #[test]
    fn a_registry_or_a_machines_path_is_found() {
        for foreign in FOREIGN {
            assert_eq!(lines(foreign_names, "README.md", &format!("# nxd\nsee {foreign}x\n")), [2], "{foreign}");
        }
        assert!(lines(foreign_names, "Cargo.lock", FOREIGN[0]).is_empty());
        assert!(lines(foreign_names, "README.md", "HF_ENDPOINT\n").is_empty());
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        for path in ["crates/ops/src/utils.rs", "crates/ops/tests/common/mod.rs", "docs/Helpers.md", "misc/a.py"] {
            assert_eq!(lines(empty_names, path, ""), [1], "{path}");
        }
        assert!(lines(empty_names, "crates/ops/src/uncommon.rs", "").is_empty());
    }

    #[test]
    fn all_rules_run() {
        let found = all(&file("crates/models/src/families/utils.rs", "unsafe cpu\n"));
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(
            found[0].to_string(),
            "crates/models/src/families/utils.rs:1: the file does not open with `//!`; say in a line what it is for"
        );
    }
}
