//! GGUF files: what a good one gives, and one row for each way to be bad.

use super::gguf_writer::*;
use super::{MODES, alone, assert_refused, at, folder, memory, open_bytes};
use nxd_models::checkpoint::gguf::Value;
use nxd_models::checkpoint::{Encoding, TensorInfo};
use nxd_models::{Checkpoint, LoadMode};
use nxd_ops::{BlockFormat, Format};

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let dir = folder(&[("bad.gguf", bytes)]);
    assert_refused(&at(&dir, "bad.gguf"), &[&["bad.gguf: "], parts].concat());
}

#[track_caller]
fn refused_file(file: GgufFile, parts: &[&str]) {
    refused(&file.bytes(), parts);
}

#[test]
fn a_good_file_gives_metadata_and_tensors() {
    let checkpoint = open_bytes("good.gguf", &GgufFile::good().bytes()).unwrap();
    let gguf = checkpoint.gguf().unwrap();
    assert_eq!(gguf.version(), 3);
    let metadata = gguf.metadata();
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.u32("llama.block_count").unwrap(), Some(2));
    assert_eq!(metadata.f64("llama.rope.freq_base").unwrap(), Some(1e4));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().iter().collect::<Vec<_>>(), ["a", "é"]);
    assert_eq!(metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap(), [1, 3]);
    assert_eq!(metadata.u32("absent").unwrap(), None);
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");

    let names: Vec<&str> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["token_embd.weight", "output_norm.weight", "blk.0.ffn_up.weight"]);
    let matrix = checkpoint.tensor("token_embd.weight").unwrap();
    assert_eq!(matrix.shape, [2, 3], "rows first");
    assert_eq!(matrix.origin, "good.gguf: tensor `token_embd.weight`");
    assert_eq!(matrix.data.bytes().unwrap()[4..8], 1f32.to_le_bytes());
    let blocks = checkpoint.tensor("blk.0.ffn_up.weight").unwrap();
    assert_eq!((blocks.format, &blocks.shape[..]), (Format::Blocks(BlockFormat::Q4_0), &[2, 64][..]));
    assert_eq!(blocks.data.bytes().unwrap()[..], (0..72).collect::<Vec<u8>>());
    assert_eq!(checkpoint.vector("output_norm.weight").unwrap(), [0.0, 1.0, 2.0]);
}

#[test]
fn version_2_and_both_load_modes_give_the_same() {
    let dir = folder(&[("v2.gguf", &GgufFile { version: 2, ..GgufFile::good() }.bytes())]);
    for mode in super::MODES {
        let checkpoint = Checkpoint::open(&at(&dir, "v2.gguf"), mode).unwrap();
        assert_eq!(checkpoint.gguf().unwrap().version(), 2);
        assert_eq!(checkpoint.vector("output_norm.weight").unwrap(), [0.0, 1.0, 2.0]);
    }
}

#[test]
fn magic_and_version_are_checked() {
    let good = GgufFile::good();
    refused(b"", &["not a GGUF file: 0 bytes"]);
    refused(b"GGU", &["truncated in magic"]);
    refused_file(GgufFile { magic: *b"FUGG", ..good.clone() }, &["bad magic `FUGG`, expected `GGUF`"]);
    refused_file(GgufFile { magic: [0, 255, b'\n', b'a'], ..good.clone() }, &[r"bad magic `\x00\xff\na`"]);
    for magic in [*b"GGML", *b"ggjt", *b"tjgg", *b"lmgg"] {
        refused_file(GgufFile { magic, ..good.clone() }, &["old GGML format", "convert the model to GGUF"]);
    }
    for (version, part) in [
        (0, "unsupported version 0"),
        (1, "GGUF v1 is no longer supported"),
        (99, "version 99: newer than the supported 3"),
        (0x0300_0000, "byte-swapped: big-endian GGUF is not supported"),
    ] {
        refused_file(GgufFile { version, ..good.clone() }, &[part]);
    }
}

#[test]
fn counts_beyond_the_file_are_refused() {
    let good = GgufFile::good();
    let bytes = good.bytes().len();
    for num_tensors in [u64::MAX, 1_000_000] {
        let claim = format!("tensor count {num_tensors} exceeds what a file of {bytes} bytes can hold");
        refused_file(GgufFile { num_tensors: Some(num_tensors), ..good.clone() }, &[&claim]);
    }
    for num_keys in [u64::MAX, 1_000_000] {
        let claim = format!("key count {num_keys} exceeds what a file of {bytes} bytes can hold");
        refused_file(GgufFile { num_keys: Some(num_keys), ..good.clone() }, &[&claim]);
    }
    refused(
        &[&good.bytes()[..8], &[70_000u64.to_le_bytes(); 2].concat(), &[0; 3_000_000]].concat(),
        &["tensor count 70000 exceeds the limit of 65536"],
    );
}

#[test]
fn keys_are_checked() {
    let good = GgufFile::good();
    let key_length = |len: u64| good.clone().raw_key([&len.to_le_bytes()[..], b"abc"].concat());
    refused_file(key_length(u64::MAX), &["key at index 6 length 18446744073709551615 exceeds the remaining"]);
    let long = good.clone().key("k".repeat(65_537), BOOL_TYPE, &[1]);
    refused_file(long, &["key at index 6 length 65537 exceeds the limit of 65536 bytes"]);
    refused_file(good.clone().key("", BOOL_TYPE, &[1]), &["empty metadata key at index 6"]);
    refused_file(GgufFile::empty().key(b"ab\xffcd", BOOL_TYPE, &[1]), &["key at index 0 is not UTF-8 at offset 34"]);
    refused_file(good.clone().key("llama.block_count", BOOL_TYPE, &[1]), &["duplicate key `llama.block_count`"]);
    for kind in [13, u32::MAX, 255] {
        let part = format!("key `x` has the unknown value type {kind}, allowed are 0 to 12");
        refused_file(good.clone().key("x", kind, &[0; 16]), &[&part]);
    }
}

#[test]
fn values_are_checked() {
    let good = GgufFile::good();
    let nested = array(ARRAY_TYPE, 1, &array(ARRAY_TYPE, 1, &[0; 64]).repeat(100));
    refused_file(good.clone().key("x", ARRAY_TYPE, &nested), &["key `x` is an array of arrays", "not supported"]);
    let long = array(F32_TYPE, 1 << 60, &[0; 64]);
    refused_file(
        good.clone().key("x", ARRAY_TYPE, &long),
        &["key `x`: array length 1152921504606846976 exceeds the remaining"],
    );
    let strings = [string("a"), u64::MAX.to_le_bytes().to_vec(), vec![0; 64]].concat();
    refused_file(
        good.clone().key("x", ARRAY_TYPE, &array(STRING_TYPE, 3, &strings)),
        &["key `x`: string at index 1 length 18446744073709551615 exceeds the remaining"],
    );
    refused_file(good.clone().key("x", BOOL_TYPE, &[7]), &["key `x` is a bool of value 7, allowed are 0 and 1"]);
    refused_file(good.clone().key("x", ARRAY_TYPE, &array(BOOL_TYPE, 2, &[1, 2])), &["key `x` is a bool of value 2"]);
    refused_file(good.clone().key("x", STRING_TYPE, &string(b"\xc3")), &["key `x`: string is not UTF-8 at offset"]);
    let many = array(STRING_TYPE, 3_000_000, &vec![0; 24_000_000]);
    refused_file(GgufFile::empty().key("x", ARRAY_TYPE, &many), &["key `x` has 3000000 strings, allowed are at most"]);
}

#[test]
fn alignment_is_a_power_of_two() {
    for alignment in [0u32, 13, 3, 1 << 31] {
        let part = format!("key `general.alignment` is {alignment}, must be a power of two from 1 to 65536");
        refused_file(GgufFile::good().key("general.alignment", U32_TYPE, &alignment.to_le_bytes()), &[&part]);
    }
    let typed = |kind, value: &[u8]| GgufFile::good().key("general.alignment", kind, value);
    let part = "key `general.alignment` has the wrong type: found";
    refused_file(typed(I32_TYPE, &32u32.to_le_bytes()), &[part, "i32 32", "expected u32"]);
    refused_file(typed(STRING_TYPE, &string("32")), &[part, "string `32`", "expected u32"]);
    for alignment in [8u32, 64] {
        let file = GgufFile { alignment: alignment as usize, ..GgufFile::good() };
        let bytes = file.key("general.alignment", U32_TYPE, &alignment.to_le_bytes()).bytes();
        let checkpoint = open_bytes("aligned.gguf", &bytes).unwrap();
        assert_eq!(checkpoint.vector("output_norm.weight").unwrap(), [0.0, 1.0, 2.0], "alignment {alignment}");
    }
}

#[test]
fn tensor_names_and_shapes_are_checked() {
    let empty = GgufFile::empty;
    let good = GgufFile::good();
    let name = |name: &[u8]| good.clone().tensor(name, &[1], F32, vec![0; 4]);
    refused_file(name(&[b'n'; 300]), &["tensor name at index 3 length 300 exceeds the limit of 255 bytes"]);
    refused_file(name(b""), &["empty tensor name at index 3"]);
    refused_file(name(b"\xff"), &["tensor name at index 3 is not UTF-8 at offset"]);
    refused_file(name(b"output_norm.weight"), &["tensors 1 and 3 are both named `output_norm.weight`"]);
    for num_dims in [0, 5, u32::MAX] {
        let part = format!("tensor `token_embd.weight` has n_dims {num_dims}, must be 1 to 4");
        refused_file(GgufFile { num_dims: Some(num_dims), ..good.clone() }, &[&part]);
    }
    let shape = |dims: &[u64], kind| empty().tensor("x", dims, kind, vec![0; 4]);
    refused_file(shape(&[2, 0], F32), &["tensor `x` has the shape [2, 0]", "at least 1"]);
    for dims in [&[i64::MAX as u64, 2, 1, 1][..], &[1 << 32, 1 << 32], &[u64::MAX]] {
        refused_file(shape(dims, F32), &["tensor `x` has the shape", "its element count overflows"]);
    }
    refused_file(shape(&[u64::MAX / 4], F32), &["tensor `x`", "overflows"]);
    refused_file(shape(&[i64::MAX as u64], F32), &["its byte count overflows"]);
    let both = 0x7FFF_FFFF_FFFF_FFC0;
    let sum = shape(&[both], I8).tensor("y", &[both], I8, vec![0; 4]).at_offset(both);
    refused_file(sum, &["tensor `y`", "its end of data overflows"]);
    for kind in [31, 200, 4] {
        refused_file(shape(&[1], kind), &[&format!("unknown tensor type {kind} in `x`")]);
    }
    refused_file(shape(&[100], Q4_K), &["tensor `x` of type Q4_K has ne0=100, not a multiple of 256"]);
}

#[test]
fn tensor_data_is_packed_and_complete() {
    let two = || GgufFile::empty().tensor("x", &[8], F32, vec![0; 32]).tensor("y", &[8], F32, vec![0; 32]);
    assert!(open_bytes("good.gguf", &two().at_offset(32).bytes()).is_ok());
    refused_file(two().at_offset(33), &["tensor `y` has offset 33, not a multiple of 32"]);
    refused_file(two().at_offset(1 << 20), &["tensor `y` needs bytes 1048672..1048704 but the file has 160"]);
    refused_file(two().at_offset(u64::MAX - 31), &["tensor `y`", "its end of data overflows"]);
    refused_file(two().at_offset(0), &["tensor `y` has offset 0, expected 32", "without gap or overlap"]);
    let hole = two().at_offset(64).tensor("z", &[8], F32, vec![0; 32]);
    refused_file(hole, &["tensor `y` has offset 64, expected 32"]);
    let mut swapped = two();
    swapped.tensors[0].offset = Some(32);
    refused_file(swapped.at_offset(0), &["tensor `x` has offset 32, expected 0"]);
}

#[test]
fn a_cut_file_says_how_much_is_there() {
    let file = GgufFile::empty().tensor("x", &[8], F32, vec![0; 32]).tensor("y", &[1000], F32, vec![0; 4000]);
    let bytes = file.bytes();
    let end = file.header().len().next_multiple_of(32) + 32 + 4000;
    refused(&bytes[..end - 1], &["tensor `y` needs bytes 128..4128 but the file has 4127 (99 % of", "incomplete?"]);
    refused(&bytes[..end / 2], &["tensor `y`", "but the file has 2064 (50 % of what its header describes)"]);
    refused(&bytes[..96], &["tensor `x` needs bytes 96..128 but the file has 96 (2 %"]);
    refused(&bytes[..80], &["truncated in", "are left"]);
    assert!(open_bytes("unpadded.gguf", &bytes[..end]).is_ok(), "the last padding may be missing");
    assert!(open_bytes("trailing.gguf", &[&bytes[..], b"garbage"].concat()).is_ok(), "ignored with a warning");
}

#[test]
fn claims_do_not_make_it_allocate() {
    if !alone("checkpoint::gguf::claims_do_not_make_it_allocate") {
        return;
    }
    // A sparse file: the claims below would be honest about its size.
    let dir = folder(&[]);
    let claims = [
        (
            "key.gguf",
            GgufFile::empty().raw_key((2u64 << 30).to_le_bytes().to_vec()),
            "key at index 0 length 2147483648",
        ),
        (
            "array.gguf",
            GgufFile::empty().key("x", ARRAY_TYPE, &array(U8_TYPE, 2 << 30, &[])),
            "array length 2147483648",
        ),
        ("strings.gguf", GgufFile::empty().key("x", ARRAY_TYPE, &array(STRING_TYPE, 200_000_000, &[])), "array length"),
        ("tensors.gguf", GgufFile { num_tensors: Some(50_000_000), ..GgufFile::empty() }, "tensor count 50000000"),
        ("keys.gguf", GgufFile { num_keys: Some(50_000_000), ..GgufFile::empty() }, "key count 50000000"),
    ];
    let before = memory("VmRSS");
    for (name, file, part) in claims {
        let path = at(&dir, name);
        std::fs::write(&path, file.header()).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3 << 30).unwrap();
        let start = std::time::Instant::now();
        let error = Checkpoint::open(&path, LoadMode::Mmap).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("exceeds the limit"), "{error}");
        assert!(start.elapsed().as_secs() < 2, "{name} took {:?}", start.elapsed());
    }
    let grown = memory("VmHWM") - before;
    assert!(grown < 100 << 20, "memory grew by {grown} bytes");
}

#[test]
fn types_without_kernels_are_listed_and_named_when_asked_for() {
    let file = GgufFile::good().tensor("blk.0.ffn_down.weight", &[256, 1], IQ2_XXS, vec![0; 66]);
    let checkpoint = open_bytes("model.gguf", &file.bytes()).unwrap();
    let info: &TensorInfo = checkpoint.info("blk.0.ffn_down.weight").unwrap();
    assert_eq!((info.encoding, info.bytes()), (Encoding::Other("IQ2_XXS"), 66));
    let error = checkpoint.tensor("blk.0.ffn_down.weight").unwrap_err().to_string();
    assert!(
        error.starts_with("model.gguf: tensor `blk.0.ffn_down.weight` is stored as IQ2_XXS, which is not"),
        "{error}"
    );
    assert!(error.contains("Q4_K"), "lists what is supported: {error}");
    assert!(checkpoint.tensor("output_norm.weight").is_ok(), "the others can be used");
}

#[test]
fn getters_name_key_and_both_types() {
    let file = GgufFile::good()
        .key("negative", I32_TYPE, &(-1i32).to_le_bytes())
        .key("bytes", ARRAY_TYPE, &array(U8_TYPE, 3, &[1, 2, 255]))
        .key("text", STRING_TYPE, &string("x".repeat(100)))
        .key("nan", F32_TYPE, &f32::NAN.to_le_bytes())
        .key("short", U16_TYPE, &7u16.to_le_bytes());
    let checkpoint = open_bytes("model.gguf", &file.bytes()).unwrap();
    let metadata = checkpoint.gguf().unwrap().metadata();
    let message = |error: Result<(), nxd_models::checkpoint::gguf::MetadataError>| error.unwrap_err().to_string();
    assert_eq!(
        message(metadata.u32("general.architecture").map(drop)),
        "model.gguf: key `general.architecture` is string `llama`, expected an integer from 0 to 4294967295"
    );
    assert_eq!(
        message(metadata.u64("negative").map(drop)),
        "model.gguf: key `negative` is i32 -1, expected an integer of at least 0"
    );
    assert_eq!(
        message(metadata.i32s("bytes").map(drop)),
        "model.gguf: key `bytes` is array of 3 u8, expected an array of i32"
    );
    assert!(
        message(metadata.f32s("tokenizer.ggml.tokens").map(drop))
            .contains("array of 2 string, expected an array of f32")
    );
    assert!(message(metadata.bool("text").map(drop)).len() < 150, "long strings are cut");
    assert_eq!(metadata.bytes("bytes").unwrap().unwrap(), [1, 2, 255]);
    assert_eq!(metadata.u64("short").unwrap(), Some(7));
    let json = |key: &str| metadata.get(key).map(Value::to_json).unwrap();
    assert_eq!(json("bytes"), serde_json::json!([1, 2, 255]));
    assert_eq!(json("nan"), serde_json::json!("f32 NaN"));
    assert_eq!(json("negative"), serde_json::json!(-1));
}

#[test]
fn vectors_are_read_as_f32_or_refused_by_name() {
    let file =
        GgufFile::good().tensor("bf16", &[2], 30, vec![0x80, 0x3f, 0x00, 0xc0]).tensor("q", &[32], Q4_0, vec![0; 18]);
    let checkpoint = open_bytes("model.gguf", &file.bytes()).unwrap();
    assert_eq!(checkpoint.vector("bf16").unwrap(), [1.0, -2.0]);
    let refused = |name: &str| checkpoint.vector(name).unwrap_err().to_string();
    assert!(refused("q").contains("tensor `q` is stored as Q4_0"), "{}", refused("q"));
    assert!(refused("token_embd.weight").contains("is [2, 3], expected a vector"), "{}", refused("token_embd.weight"));
    let missing = refused("output_norm.weigth");
    assert!(
        missing.contains("model.gguf: tensor `output_norm.weigth` is missing (have `output_norm.weight`)"),
        "{missing}"
    );
}

#[test]
fn a_file_cut_after_opening_is_an_error() {
    for mode in MODES {
        let dir = folder(&[("model.gguf", &GgufFile::good().bytes())]);
        let path = at(&dir, "model.gguf");
        let checkpoint = Checkpoint::open(&path, mode).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
        let error = checkpoint.tensor("output_norm.weight").unwrap_err().to_string();
        assert!(error.contains("when it was opened and has 100 now"), "{mode:?}: {error}");
    }
}

#[test]
fn a_tensor_that_was_read_outlives_its_file() {
    let dir = folder(&[("model.gguf", &GgufFile::good().bytes())]);
    let path = at(&dir, "model.gguf");
    let tensor = Checkpoint::open(&path, LoadMode::Read).unwrap().tensor("output_norm.weight").unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert_eq!(tensor.data.bytes().unwrap().len(), 12);
}
