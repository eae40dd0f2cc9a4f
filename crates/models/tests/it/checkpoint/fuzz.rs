//! Damaged files never panic: mutations and cuts of good ones.

use super::folder;
use super::gguf_writer::GgufFile;
use nxd_models::checkpoint::gguf::Value;
use nxd_models::{Checkpoint, LoadMode};
use proptest::prelude::*;
use std::path::Path;

/// Opens a path and, if that works, reads everything.
fn read_all(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path, LoadMode::Read) else { return };
    for tensor in checkpoint.tensors() {
        let bytes =
            checkpoint.tensor(&tensor.name).map_or(0, |tensor| tensor.data.bytes().map_or(0, |bytes| bytes.len()));
        assert!(bytes == 0 || bytes == tensor.bytes());
        // Most are no vectors; what counts is that it returns.
        let _ = checkpoint.vector(&tensor.name);
    }
    for (key, value) in checkpoint.gguf().iter().flat_map(|gguf| gguf.metadata().iter()) {
        let metadata = checkpoint.gguf().unwrap().metadata();
        let read = metadata.strings(key).is_ok() || metadata.i32s(key).is_ok() || metadata.f32s(key).is_ok();
        assert!(read || !matches!(value, Value::Array(array) if array.element().name() == "string"));
        assert!(!value.to_string().is_empty() && !value.to_json().is_null());
    }
}

fn safetensors() -> Vec<u8> {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"#,
        r#""b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]},"c":{"dtype":"F4","shape":[4],"data_offsets":[24,26]}}"#
    );
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7; 26]].concat()
}

const INDEX: &[u8] = br#"{"metadata":{"total_size":26},"weight_map":{"a":"1.safetensors","b":"1.safetensors"}}"#;

/// Places and the bytes to write there.
fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
}

fn mutate(mut bytes: Vec<u8>, mutations: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    for (at, byte) in mutations {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len() + 1));
    }
    bytes
}

#[test]
fn the_good_files_are_good() {
    let dir = folder(&[("1.safetensors", &safetensors()), ("model.safetensors.index.json", INDEX)]);
    assert_eq!(Checkpoint::open(dir.path(), LoadMode::Read).unwrap().tensors().count(), 3);
    let dir = folder(&[("a.gguf", &GgufFile::good().bytes())]);
    assert_eq!(Checkpoint::open(dir.path(), LoadMode::Read).unwrap().tensors().count(), 3);
}

#[test]
fn every_cut_of_a_file_is_survived() {
    let dir = folder(&[]);
    for (name, bytes) in [("a.gguf", GgufFile::good().bytes()), ("a.safetensors", safetensors())] {
        let path = dir.path().join(name);
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            read_all(&path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn mutated_gguf_files_never_panic(mutations in mutations(), cut in any::<Option<prop::sample::Index>>()) {
        let dir = folder(&[("a.gguf", &mutate(GgufFile::good().bytes(), &mutations, cut))]);
        read_all(&dir.path().join("a.gguf"));
    }

    #[test]
    fn mutated_safetensors_files_never_panic(mutations in mutations(), cut in any::<Option<prop::sample::Index>>()) {
        let bytes = mutate(safetensors(), &mutations, cut);
        let dir = folder(&[("a.safetensors", &bytes)]);
        let path = dir.path().join("a.safetensors");
        read_all(&path);
        let ours = Checkpoint::open(&path, LoadMode::Mmap);
        let theirs = safetensors::SafeTensors::deserialize(&bytes);
        match (&ours, &theirs) {
            (Err(error), Ok(_)) => prop_assert!(error.to_string().contains("duplicate tensor"), "only we refuse: {error}"),
            (Ok(_), Err(error)) => prop_assert!(false, "only the crate refuses: {error}"),
            _ => {}
        }
    }

    #[test]
    fn mutated_indices_never_panic(mutations in mutations(), cut in any::<Option<prop::sample::Index>>()) {
        let index = mutate(INDEX.to_vec(), &mutations, cut);
        read_all(folder(&[("1.safetensors", &safetensors()), ("model.safetensors.index.json", &index)]).path());
    }
}
