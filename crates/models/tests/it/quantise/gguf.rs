//! From GGUF to GGUF.

use super::{golden, open, write};
use nxd_models::quantise::Scheme;
use nxd_ops::quant::{decode_row, encode_row};
use nxd_ops::{BlockFormat, Format};

const SOURCE: &str = "llama-gguf-q8_0";

#[test]
fn every_tensor_stands_encoded_in_its_place_and_keys_stay() {
    let home = tempfile::tempdir().unwrap();
    let (source, out) = (golden(SOURCE).join("model.gguf"), home.path().join("out.gguf"));
    let report = write(&source, &out, Scheme::Q4_0).unwrap();
    let (source, written) = (open(&source), open(&out));
    let names = |checkpoint: &nxd_models::Checkpoint| checkpoint.tensors().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&source), names(&written));
    for info in written.tensors() {
        let (from, to) = (source.tensor(&info.name).unwrap(), written.tensor(&info.name).unwrap());
        assert_eq!(from.shape, to.shape);
        let expected = match info.name.as_str() {
            name if name.contains("norm") => Format::F32,
            // 64 columns are no K-quant block.
            "output.weight" => Format::Blocks(BlockFormat::Q8_0),
            _ => Format::Blocks(BlockFormat::Q4_0),
        };
        assert_eq!(to.format, expected, "{}", info.name);
        let (from_bytes, bytes) = (from.data.bytes().unwrap(), to.data.bytes().unwrap());
        let mut values = vec![0.0; from.shape.iter().product()];
        decode_row(from.format, from_bytes, &mut values);
        let mut encoded = vec![0; bytes.len()];
        match from.format == to.format {
            true => encoded.copy_from_slice(from_bytes),
            false => encode_row(expected, &values, &mut encoded).unwrap(),
        }
        assert!(encoded == bytes[..], "{}", info.name);
    }
    assert_eq!(report.bytes, written.tensors().map(|t| t.bytes() as u64).sum::<u64>());
    assert_eq!(report.tensors["Q8_0"], 1);

    let [source, written] = [&source, &written].map(|checkpoint| checkpoint.gguf().unwrap().metadata().clone());
    for (key, value) in source.iter().filter(|(key, _)| *key != "general.file_type") {
        let found = written.get(key).unwrap_or_else(|| panic!("no `{key}`"));
        assert_eq!(found.to_string(), value.to_string(), "{key}");
    }
    let (tokens, scores) = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores");
    assert_eq!(source.strings(tokens).unwrap(), written.strings(tokens).unwrap());
    assert_eq!(source.f32s(scores).unwrap(), written.f32s(scores).unwrap());
    assert_eq!(written.u32("general.file_type").unwrap(), Some(2));
    assert_eq!(written.u32("general.quantization_version").unwrap(), Some(2));
}

#[test]
fn a_file_of_the_same_scheme_is_copied() {
    let home = tempfile::tempdir().unwrap();
    let [first, second] = ["first.gguf", "second.gguf"].map(|name| home.path().join(name));
    write(&golden(SOURCE), &first, Scheme::Q4_K).unwrap();
    write(&first, &second, Scheme::Q4_K).unwrap();
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
}
