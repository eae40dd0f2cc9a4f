//! From a folder to int8 and fp8.

use super::{golden, off, open, options, values, weights, write};
use nxd_models::quantise::{QuantiseOptions, Scheme, quantise};
use nxd_ops::quant::{encode_scaled, row_scale};
use nxd_ops::{Format, Role};
use serde_json::Value;
use std::fs;

const SOURCE: &str = "llama-gqa-llama3-rope-tied";

#[test]
fn matrices_of_linear_layers_become_bytes_under_scales_and_the_rest_stays() {
    for (scheme, format, name) in
        [(Scheme::Int8, Format::I8, "int-quantized"), (Scheme::Fp8, Format::E4M3, "float-quantized")]
    {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        write(&golden(SOURCE), &out, scheme).unwrap();
        let (source, written) = (open(&golden(SOURCE)), open(&out));
        for info in source.tensors() {
            let from = source.tensor(&info.name).unwrap();
            let bytes = from.data.bytes().unwrap();
            let written_bytes = written.bytes_of(&info.name);
            if !info.name.contains("_proj.weight") {
                assert!(written_bytes == bytes[..], "{}", info.name);
                continue;
            }
            let floats: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let cols = info.shape[1];
            let (mut expected, mut scales) = (vec![0; floats.len()], Vec::new());
            for (row, expected) in floats.chunks(cols).zip(expected.chunks_mut(cols)) {
                let scale = row_scale(format, row, from.format).unwrap();
                encode_scaled(format, row, scale, expected).unwrap();
                scales.extend(scale.to_le_bytes());
            }
            assert!(written_bytes == expected, "{}", info.name);
            let scale = written.info(&format!("{}_scale", info.name)).unwrap();
            assert_eq!(scale.shape, [info.shape[0], 1]);
            assert!(written.bytes_of(&scale.name) == scales, "{}", scale.name);
        }
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        let quantisation = &config["quantization_config"];
        assert_eq!(
            (&quantisation["format"], &quantisation["ignore"]),
            (&Value::from(name), &Value::from(vec!["lm_head"]))
        );
        assert_eq!(quantisation["config_groups"]["group_0"]["format"], name);
        assert_eq!(config["rope_scaling"]["rope_type"], "llama3");
        for file in ["tokenizer.json", "generation_config.json"] {
            assert!(fs::read(golden(SOURCE).join(file)).unwrap() == fs::read(out.join(file)).unwrap(), "{file}");
        }
        assert!(!out.join("expected.json").exists());
    }
}

/// Bytes of a tensor, whatever they need beside them.
trait BytesOf {
    fn bytes_of(&self, name: &str) -> Vec<u8>;
}

impl BytesOf for nxd_models::Checkpoint {
    fn bytes_of(&self, name: &str) -> Vec<u8> {
        self.files()
            .find_map(|file| {
                let bytes = fs::read(file).unwrap();
                let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                tensors.tensor(name).ok().map(|view| view.data().to_vec())
            })
            .unwrap()
    }
}

#[test]
fn routers_embeddings_and_heads_stay_and_are_listed() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let source = golden("mixtral-top2");
    write(&source, &out, Scheme::Int8).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    let ignored: Vec<&str> =
        config["quantization_config"]["ignore"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(ignored[0], "lm_head");
    assert!(ignored[1..].iter().all(|name| name.ends_with(".gate")) && ignored.len() > 1, "{ignored:?}");
    let (_, specs, from) = weights(&source);
    let (_, again, to) = weights(&out);
    assert_eq!(specs, again);
    for spec in &specs {
        let off = off(&values(&from, spec), &values(&to, spec));
        let is_quantised =
            spec.role == Role::Matrix && !spec.name.contains("gate.weight") && spec.name != "lm_head.weight";
        // Half a step of a hundred and twenty-seventh of a row's greatest value, which is a few times the usual one.
        assert!(if is_quantised { off > 0.0 && off < 0.02 } else { off == 0.0 }, "{}: {off}", spec.name);
    }
}

#[test]
fn large_folders_are_spread_over_files_with_an_index() {
    let home = tempfile::tempdir().unwrap();
    let [one, many] = ["one", "many"].map(|name| home.path().join(name));
    // Weights and scales of 16 bits, whose bytes would leave some of them unaligned in the order of the source.
    let source = golden("llama-yarn-bf16-sharded");
    write(&source, &one, Scheme::Fp8).unwrap();
    let options = QuantiseOptions { shard_bytes: 20_000, ..options(Scheme::Fp8) };
    quantise(&source, &many, &options, &mut |_, _| {}).unwrap();
    assert!(open(&many).files().count() > 2);
    let ((_, specs, one), (_, _, many)) = (weights(&one), weights(&many));
    for spec in &specs {
        nxd_testkit::assert_bits(&values(&one, spec), &values(&many, spec), &spec.name);
    }
    for file in open(&home.path().join("many")).files() {
        let bytes = fs::read(file).unwrap();
        for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
            let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert!(at.is_multiple_of(view.dtype().bitsize() / 8), "{name} lies at {at}");
        }
    }
}
