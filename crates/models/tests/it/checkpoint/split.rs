//! GGUF checkpoints in several files.

use super::gguf_writer::*;
use super::{assert_refused, at, folder};
use nxd_models::{Checkpoint, LoadMode};
use tempfile::TempDir;

/// Part `number` (from 0) of `count`, with one vector.
fn part(number: u16, count: u16, tensor: &str) -> GgufFile {
    let file = if number == 0 {
        GgufFile::empty().key("general.architecture", STRING_TYPE, &string("llama"))
    } else {
        GgufFile::empty()
    };
    file.key("split.no", U16_TYPE, &number.to_le_bytes())
        .key("split.count", U16_TYPE, &count.to_le_bytes())
        .key("split.tensors.count", I32_TYPE, &i32::from(count).to_le_bytes())
        .tensor(tensor, &[1], F32, f32::from(number).to_le_bytes().to_vec())
}

const NAMES: [&str; 3] = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];

fn parts(files: &[GgufFile]) -> TempDir {
    let bytes: Vec<Vec<u8>> = files.iter().map(GgufFile::bytes).collect();
    let files: Vec<(&str, &[u8])> = NAMES.iter().zip(&bytes).map(|(name, bytes)| (*name, &bytes[..])).collect();
    folder(&files)
}

fn good() -> [GgufFile; 3] {
    [part(0, 3, "a"), part(1, 3, "b"), part(2, 3, "c")]
}

#[test]
fn any_part_or_the_folder_opens_all() {
    let dir = parts(&good());
    let mut paths = vec![dir.path().to_owned()];
    paths.extend(NAMES.map(|name| at(&dir, name)));
    for path in paths {
        let checkpoint = Checkpoint::open(&path, LoadMode::Mmap).unwrap();
        assert_eq!(checkpoint.vector("c").unwrap(), [2.0]);
        assert_eq!(checkpoint.tensor("b").unwrap().origin, "m-00002-of-00003.gguf: tensor `b`");
        let metadata = checkpoint.gguf().unwrap().metadata();
        assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"), "metadata of the first part");
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let [a, b, c] = good();
    let refused = |files: &[GgufFile], parts_of_message: &[&str]| assert_refused(parts(files).path(), parts_of_message);
    refused(&[a.clone(), b.clone()], &["part 3 of 3 is missing", "m-00003-of-00003.gguf"]);
    refused(&[a.clone(), part(1, 4, "b"), c.clone()], &["m-00002-of-00003.gguf: key `split.count` is 4, expected 3"]);
    refused(&[a.clone(), c.clone(), b.clone()], &["m-00002-of-00003.gguf: key `split.no` is 2, expected 1"]);
    refused(
        &[a.clone(), GgufFile::good(), c.clone()],
        &["m-00002-of-00003.gguf: key `split.count` is missing, expected 3"],
    );
    refused(
        &[a.clone(), part(1, 3, "a"), c.clone()],
        &["m-00002-of-00003.gguf: tensor `a` is also in `m-00001-of-00003.gguf`"],
    );
    let other = b.clone().key("general.architecture", STRING_TYPE, &string("qwen2"));
    refused(
        &[a.clone(), other, c.clone()],
        &["m-00002-of-00003.gguf: key `general.architecture` is string `qwen2`, expected"],
    );
    let more = c.tensor("d", &[1], F32, vec![0; 4]);
    refused(&[a.clone(), b, more], &["the 3 parts hold 4 tensors, `split.tensors.count` is 3"]);
    refused(&[a, GgufFile { magic: *b"FUGG", ..GgufFile::good() }], &["m-00002-of-00003.gguf: bad magic"]);
}

#[test]
fn a_part_of_another_name_cannot_find_the_others() {
    for (name, count) in [("model.gguf", 3), ("m-00001-of-00002.gguf", 3), ("m-00001-of-00003.gguf", u16::MAX)] {
        let dir = folder(&[(name, &part(0, count, "a").bytes())]);
        assert_refused(&at(&dir, name), &[&format!("{name}: is one of {count} parts, so its name must end in")]);
    }
}
