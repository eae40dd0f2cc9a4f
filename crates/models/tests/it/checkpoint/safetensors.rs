//! Safetensors files, single and sharded: what good ones give, and one row for each way to be bad.

use super::{alone, assert_refused, at, folder, memory, open_bytes};
use nxd_models::checkpoint::Encoding;
use nxd_models::{Checkpoint, LoadMode};
use nxd_ops::Format;
use std::io::Write;

/// A file with this header, as it is, and `data` zeros.
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; data]].concat()
}

/// The header of one tensor `x`.
fn one(dtype: &str, shape: &str, begin: &str, end: &str) -> String {
    format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
}

/// A good file of vectors of two f32.
fn vectors(names: &[&str]) -> Vec<u8> {
    let entry = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{},{}]}}"#, 8 * i, 8 * i + 8)
    };
    let header = format!("{{{}}}", names.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    let mut bytes = file(header, 0);
    bytes.extend((0..2 * names.len()).flat_map(|i| (i as f32).to_le_bytes()));
    bytes
}

fn index(entries: &[(&str, &str)], total_size: &str) -> Vec<u8> {
    let entries: Vec<String> = entries.iter().map(|(tensor, shard)| format!(r#""{tensor}":"{shard}""#)).collect();
    let entries = entries.join(",");
    format!(r#"{{"metadata":{{"total_size":{total_size}}},"weight_map":{{{entries}}}}}"#).into_bytes()
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let dir = folder(&[("model.safetensors", bytes)]);
    assert_refused(dir.path(), &[&["model.safetensors: "], parts].concat());
}

#[track_caller]
fn refused_header(header: impl AsRef<[u8]>, data: usize, parts: &[&str]) {
    refused(&file(header, data), parts);
}

#[test]
fn a_good_file_gives_its_tensors_in_both_modes() {
    let dir = folder(&[("model.safetensors", &vectors(&["a", "b"]))]);
    for mode in super::MODES {
        let checkpoint = Checkpoint::open(dir.path(), mode).unwrap();
        assert_eq!(checkpoint.dir(), dir.path());
        assert_eq!(checkpoint.path(), at(&dir, "model.safetensors"));
        assert!(checkpoint.gguf().is_none());
        let tensor = checkpoint.tensor("b").unwrap();
        assert_eq!((tensor.format, &tensor.shape[..]), (Format::F32, &[2][..]));
        assert_eq!(tensor.origin, "model.safetensors: tensor `b`");
        assert_eq!(checkpoint.vector("b").unwrap(), [2.0, 3.0]);
    }
}

#[test]
fn data_of_any_alignment_loads() {
    for spaces in 0..8 {
        let header = one("F32", "[2]", "0", "8") + &" ".repeat(spaces);
        let mut bytes = file(header, 0);
        bytes.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(open_bytes("x.safetensors", &bytes).unwrap().vector("x").unwrap(), [1.5, -2.0]);
    }
}

#[test]
fn dtypes_without_kernels_are_listed_and_named_when_asked_for() {
    for (dtype, bytes) in [("I64", 16), ("F8_E4M3", 2), ("BOOL", 2), ("U8", 2), ("F64", 16)] {
        let header = one(dtype, "[2]", "0", &bytes.to_string());
        let checkpoint = open_bytes("x.safetensors", &file(header, bytes)).unwrap();
        let encoding = checkpoint.info("x").unwrap().encoding;
        assert!(matches!(encoding, Encoding::Other(_)) && encoding.name() == dtype, "{encoding:?}");
        let error = checkpoint.tensor("x").unwrap_err().to_string();
        assert!(error.contains(&format!("tensor `x` is stored as {dtype}, which is not supported")), "{error}");
    }
}

#[test]
fn no_tensors_and_scalars_are_fine() {
    assert_eq!(open_bytes("x.safetensors", &file("{}", 0)).unwrap().tensors().count(), 0);
    let scalar = open_bytes("x.safetensors", &file(one("F32", "[]", "0", "4"), 4)).unwrap();
    assert!(scalar.info("x").unwrap().shape.is_empty());
    let error = scalar.vector("x").unwrap_err().to_string();
    assert!(error.contains("tensor `x` is [], expected a vector"), "{error}");
}

#[test]
fn header_lengths_are_checked() {
    refused(b"", &["header length missing: the file has 0 bytes"]);
    refused(b"1234567", &["header length missing: the file has 7 bytes"]);
    for length in [1u64 << 63, u64::MAX, 200_000_000, 17] {
        let bytes = [&length.to_le_bytes()[..], &[b' '; 16]].concat();
        refused(&bytes, &[&format!("header length {length} exceeds the 16 bytes that follow it")]);
    }
    refused_header(vec![b' '; 20 << 20], 0, &["header length 20971520 exceeds the limit of 16777216 bytes"]);
}

#[test]
fn headers_that_are_no_tensor_table_are_refused() {
    refused_header(b"{\"a\xff\"", 0, &["invalid header: not UTF-8 at offset 11"]);
    for header in ["not json", "[]", "{", "", "null", "\"x\"", "7"] {
        refused_header(header, 0, &["invalid header: "]);
    }
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        refused_header(&deep, 0, &["invalid header: "]);
        refused_header(format!("{{\"__metadata__\":{deep}"), 0, &["invalid header: "]);
    }
    let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    refused_header(format!(r#"{{"x":{entry},"x":{entry}}}"#), 4, &["duplicate tensor `x`"]);
    refused_header(r#"{"__metadata__":{"format":7}}"#, 0, &["`__metadata__` must map strings to strings"]);
    refused_header(one("F7", "[1]", "0", "4"), 4, &["tensor `x`: unknown variant `F7`", "`BF16`"]);
    refused_header(r#"{"x":{"dtype":"F32","shape":[1]}}"#, 4, &["tensor `x`: missing field `data_offsets`"]);
}

#[test]
fn the_greatest_header_takes_bounded_memory() {
    if !alone("checkpoint::safetensors::the_greatest_header_takes_bounded_memory") {
        return;
    }
    let dir = folder(&[]);
    let path = at(&dir, "x.safetensors");
    // Written piece by piece: this process must not have held the file before.
    let mut out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let length = 16usize << 20;
    out.write_all(&(length as u64).to_le_bytes()).unwrap();
    let (mut number, mut left) = (0, length - 1);
    while left > 80 {
        let start = if number == 0 { '{' } else { ',' };
        let entry = format!(r#"{start}"{number:x}":{{"dtype":"F4","shape":[0],"data_offsets":[0,0]}}"#);
        out.write_all(entry.as_bytes()).unwrap();
        (number, left) = (number + 1, left - entry.len());
    }
    out.write_all(format!("}}{}", " ".repeat(left)).as_bytes()).unwrap();
    drop(out);
    let before = memory("VmRSS");
    assert!(Checkpoint::open(&path, LoadMode::Mmap).unwrap().tensors().count() > 300_000);
    let grown = memory("VmHWM") - before;
    assert!(grown < 100 << 20, "memory grew by {grown} bytes");
}

#[test]
fn shapes_and_offsets_are_checked() {
    refused_header(
        one("F32", "[3]", "0", "8"),
        8,
        &["tensor `x`: shape [3] of F32 needs 12 bytes, data_offsets give 8"],
    );
    for shape in ["[-1]", "[1.5]", "[18446744073709551616]", "[\"1\"]", "7"] {
        refused_header(one("F32", shape, "0", "4"), 4, &["tensor `x`: invalid"]);
    }
    for shape in ["[18446744073709551615]", "[4294967296,4294967296]"] {
        refused_header(one("F32", shape, "0", "4"), 4, &["tensor `x`: the size of shape", "overflows"]);
    }
    refused_header(
        one("F4", "[3]", "0", "2"),
        2,
        &["tensor `x`: the size of shape [3] of F4", "whole number of bytes"],
    );
    refused_header(one("F32", "[1]", "8", "4"), 8, &["tensor `x`: data_offsets 8 to 4 are reversed"]);
    refused_header(one("F32", "[1]", "4", "8"), 8, &["tensor `x`: data_offsets begin at 4, expected 0", "gap"]);
    let two = |begin: usize| {
        let y = format!(r#","y":{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{}]}}}}"#, begin + 4);
        one("F32", "[2]", "0", "8").trim_end_matches('}').to_owned() + "}" + &y
    };
    assert!(open_bytes("x.safetensors", &file(two(8), 12)).is_ok());
    refused_header(two(4), 8, &["tensor `y`: data_offsets begin at 4, expected 8"]);
    refused_header(two(12), 16, &["tensor `y`: data_offsets begin at 12, expected 8"]);
    let header = one("F32", "[2]", "0", "8");
    let end = 8 + header.len() + 8;
    refused_header(&header, 7, &[&format!("truncated: the tensors end at byte {end}, the file has {}", end - 1)]);
    refused_header(&header, 30, &["22 bytes follow the last tensor"]);
}

#[test]
fn shards_are_found_by_their_index() {
    let dir = folder(&[
        ("model.safetensors.index.json", &index(&[("a", "1.safetensors"), ("b", "2.safetensors")], "16")),
        ("1.safetensors", &vectors(&["a"])),
        ("2.safetensors", &vectors(&["b"])),
    ]);
    for mode in super::MODES {
        let checkpoint = Checkpoint::open(dir.path(), mode).unwrap();
        assert_eq!(checkpoint.tensor("b").unwrap().origin, "2.safetensors: tensor `b`");
        assert_eq!(checkpoint.files().count(), 2);
    }
    let float = index(&[("a", "1.safetensors")], "8.0");
    std::fs::write(at(&dir, "model.safetensors.index.json"), float).unwrap();
    assert!(Checkpoint::open(dir.path(), LoadMode::Mmap).is_ok(), "some writers make the size a float");
}

#[test]
fn an_index_that_does_not_fit_is_refused() {
    let refused = |index: &[u8], parts: &[&str]| {
        let files = [
            ("model.safetensors.index.json", index),
            ("1.safetensors", &vectors(&["a"])),
            ("2.safetensors", &vectors(&["b"])),
            ("3.safetensors", &vectors(&["a", "c"])),
        ];
        assert_refused(folder(&files).path(), &[&["model.safetensors.index.json: "], parts].concat());
    };
    let good = [("a", "1.safetensors"), ("b", "2.safetensors")];
    refused(&index(&[("a", "9.safetensors")], "8"), &["shard `9.safetensors` is missing"]);
    for shard in
        ["../../etc/passwd", "/etc/passwd", "sub/1.safetensors", "..", ".", "", "./1.safetensors", "1.safetensors/"]
    {
        refused(
            &index(&[("a", shard)], "8"),
            &["tensor `a` is said to be in", shard, "names of files in the same folder"],
        );
    }
    refused(
        &index(&[("a", "2.safetensors")], "8"),
        &["tensor `a` is said to be in `2.safetensors`, which does not hold it"],
    );
    refused(
        &index(&[("a", "1.safetensors"), ("c", "3.safetensors")], "24"),
        &["tensor `a` is in both `1.safetensors` and `3.safetensors`"],
    );
    refused(&index(&good, "17"), &["`total_size` is 17, the tensors have 16 bytes"]);
    for size in ["-1", "1.5", "1e300", "\"16\""] {
        refused(&index(&good, size), &["invalid index: "]);
    }
    refused(br#"{"weight_map":{}}"#, &["`weight_map` is empty"]);
    refused(br#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#, &["duplicate tensor `a`"]);
    for other in ["", "[]", "{}", "{", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#] {
        refused(other.as_bytes(), &["invalid index: "]);
    }
    refused("[".repeat(100_000).as_bytes(), &["invalid index: "]);
}

#[test]
fn a_bad_shard_is_named() {
    let files =
        [("model.safetensors.index.json", index(&[("a", "1.safetensors")], "8")), ("1.safetensors", b"xx".to_vec())];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    assert_refused(folder(&files).path(), &["1.safetensors: header length missing: the file has 2 bytes"]);
}

#[cfg(unix)]
#[test]
fn links_may_lead_to_the_cache_but_not_elsewhere() {
    use std::os::unix::fs::symlink;
    let outside = folder(&[("secret", &vectors(&["a"]))]);
    let dir = folder(&[("model.safetensors.index.json", &index(&[("a", "1.safetensors")], "8"))]);
    symlink(at(&outside, "secret"), at(&dir, "1.safetensors")).unwrap();
    assert_refused(dir.path(), &["shard `1.safetensors` is a link to", "secret", "outside the checkpoint's folder"]);

    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/0123"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(blobs.join("f00"), vectors(&["a"])).unwrap();
    std::fs::write(blobs.join("f01"), index(&[("a", "1.safetensors")], "8")).unwrap();
    symlink("../../blobs/f00", snapshot.join("1.safetensors")).unwrap();
    symlink("../../blobs/f01", snapshot.join("model.safetensors.index.json")).unwrap();
    assert!(Checkpoint::open(&snapshot, LoadMode::Mmap).is_ok());
}
