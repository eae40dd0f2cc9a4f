//! Which files a path means, and paths that are no files.

use super::gguf_writer::GgufFile;
use super::{assert_refused, at, folder};
use nxd_models::{Checkpoint, LoadMode};
use std::path::Path;

/// A safetensors file without tensors.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

#[test]
fn one_gguf_file_in_a_folder_is_the_checkpoint() {
    let dir =
        folder(&[("some-name.gguf", &GgufFile::good().bytes()), ("README.md", b""), ("expected.safetensors", EMPTY)]);
    let checkpoint = Checkpoint::open(dir.path(), LoadMode::Mmap).unwrap();
    assert_eq!(checkpoint.path(), at(&dir, "some-name.gguf"));
    assert!(checkpoint.gguf().is_some());
}

#[test]
fn a_gguf_file_may_have_any_name() {
    let dir = folder(&[("6f8a2b", &GgufFile::good().bytes())]);
    assert!(Checkpoint::open(&at(&dir, "6f8a2b"), LoadMode::Mmap).unwrap().gguf().is_some());
}

#[test]
fn several_checkpoints_are_not_guessed_among() {
    let good = GgufFile::good().bytes();
    let dir = folder(&[("a.gguf", &good), ("b.gguf", &good)]);
    assert_refused(dir.path(), &["holds several checkpoints (`a.gguf`, `b.gguf`); give the path of one file"]);

    let index = br#"{"weight_map":{"a":"1.safetensors"}}"#;
    let dir = folder(&[("model.safetensors", EMPTY), ("model.safetensors.index.json", index)]);
    assert_refused(
        dir.path(),
        &["holds several checkpoints", "`model.safetensors` and the shards of", "remove one of them"],
    );
}

#[test]
fn an_index_may_name_the_one_file() {
    let tensor = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let bytes = [&(tensor.len() as u64).to_le_bytes(), &tensor[..], &[0; 4]].concat();
    let index = br#"{"weight_map":{"a":"model.safetensors"}}"#;
    let dir = folder(&[("model.safetensors", &bytes), ("model.safetensors.index.json", index)]);
    assert_eq!(Checkpoint::open(dir.path(), LoadMode::Mmap).unwrap().tensors().count(), 1);
}

#[test]
fn folders_without_weights_say_what_is_expected() {
    let part = "holds no weights, expected `model.safetensors`, `model.safetensors.index.json` with its shards, or one `.gguf`";
    assert_refused(folder(&[]).path(), &[part]);
    assert_refused(folder(&[("config.json", b"{}")]).path(), &[part]);
    assert_refused(folder(&[("adapter.safetensors", EMPTY)]).path(), &[part, "; found `adapter.safetensors`"]);
}

#[test]
fn pickles_are_refused_with_the_way_out() {
    let part = "pickle weights are not supported";
    for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"] {
        let dir = folder(&[(name, b"\x80\x02")]);
        assert_refused(dir.path(), &[name, part, "convert them to safetensors"]);
        assert_refused(&at(&dir, name), &[name, part]);
    }
    let dir = folder(&[("pytorch_model.bin", b""), ("model.safetensors", EMPTY)]);
    assert!(Checkpoint::open(dir.path(), LoadMode::Mmap).is_ok(), "safetensors beside a pickle are used");
}

#[test]
fn paths_that_are_no_files_are_refused_at_once() {
    let dir = folder(&[]);
    assert_refused(&at(&dir, "missing.gguf"), &["missing.gguf: ", "No such file"]);
    assert_refused(Path::new(""), &["No such file"]);
    std::fs::create_dir(at(&dir, "model.safetensors")).unwrap();
    assert_refused(dir.path(), &["model.safetensors: is a folder, expected a regular file"]);
}

#[cfg(unix)]
#[test]
fn devices_and_fifos_are_refused_without_waiting() {
    for device in ["/dev/zero", "/dev/null"] {
        assert_refused(Path::new(device), &[device, "is a device, expected a regular file"]);
    }
    let dir = folder(&[]);
    for name in ["model.gguf", "model.safetensors"] {
        let fifo = at(&dir, name);
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_refused(&fifo, &[name, "is a FIFO, expected a regular file"]);
        assert_refused(dir.path(), &[name, "is a FIFO"]);
    }
}

#[test]
fn a_file_greater_than_the_memory_is_not_read() {
    let dir = folder(&[("model.gguf", &GgufFile::good().bytes())]);
    let path = at(&dir, "model.gguf");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8 << 40).unwrap();
    let error = Checkpoint::open(&path, LoadMode::Read).unwrap_err().to_string();
    assert!(error.contains("8796093022208 bytes do not fit into the"), "{error}");
    assert!(error.ends_with("map the file instead of reading it"), "{error}");
}

#[cfg(unix)]
#[test]
fn unreadable_files_and_dead_links_give_the_systems_message() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = folder(&[("model.gguf", &GgufFile::good().bytes())]);
    let path = at(&dir, "model.gguf");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read it all the same.
    if std::fs::File::open(&path).is_err() {
        assert_refused(&path, &["model.gguf: ", "Permission denied"]);
    }
    let link = at(&dir, "link.gguf");
    symlink("nowhere", &link).unwrap();
    assert_refused(&link, &["link.gguf: ", "No such file"]);
    let round = at(&dir, "round.gguf");
    symlink("round.gguf", &round).unwrap();
    assert_refused(&round, &["round.gguf: "]);
}
