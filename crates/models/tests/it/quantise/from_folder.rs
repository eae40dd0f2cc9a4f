//! From a folder to GGUF.

use super::{golden, off, open, values, weights, write};
use nxd_models::quantise::Scheme;
use nxd_models::{LoadMode, Model};
use nxd_ops::Role;
use std::fs;
use std::path::Path;

/// How far the values of a scheme may be off, in parts of the usual value: their steps over the square root of 12, where a row's greatest value is
/// about three times the usual one.
const BOUNDS: [(Scheme, f64); 3] = [(Scheme::Q8_0, 0.01), (Scheme::Q4_0, 0.13), (Scheme::Q4_K, 0.1)];

/// Compares all weights of a folder with those of a GGUF file made of it.
fn check(source: &Path, file: &Path, bound: f64) {
    let ((model, specs, from), (again, same, to)) = (weights(source), weights(file));
    assert_eq!(specs, same);
    assert_eq!(
        (model.spec().vocab_size, model.spec().layers.len()),
        (again.spec().vocab_size, again.spec().layers.len())
    );
    for spec in &specs {
        let [expected, found] = [&from, &to].map(|weights| values(weights, spec));
        assert_eq!(expected.len(), found.len(), "{}: {}", source.display(), spec.name);
        let off = off(&expected, &found);
        // Routers stay, too.
        let is_exact = spec.role == Role::Vector || spec.name.ends_with("mlp.gate.weight");
        assert!(if is_exact { off == 0.0 } else { off < bound }, "{}: {} is off by {off}", source.display(), spec.name);
    }
}

#[test]
fn golden_folders_become_the_same_model_or_are_refused_by_a_reason() {
    let mut ran = Vec::new();
    for folder in nxd_testkit::folders(&nxd_testkit::goldens()) {
        let Ok(model) = Model::open(&folder, LoadMode::Mmap) else { continue };
        if model.checkpoint().gguf().is_some() {
            continue;
        }
        for (scheme, bound) in BOUNDS {
            let home = tempfile::tempdir().unwrap();
            let out = home.path().join("out.gguf");
            match write(&folder, &out, scheme) {
                Ok(_) => {
                    // Gemma's stored norm weights are one less in folders.
                    if model.spec().norm.offset == 0.0 {
                        check(&folder, &out, bound);
                    }
                    ran.push(folder.file_name().unwrap().to_string_lossy().into_owned());
                }
                Err(error) => {
                    assert!(!out.exists() && fs::read_dir(home.path()).unwrap().next().is_none());
                    println!("refused {}: {error}", folder.display());
                    break;
                }
            }
        }
    }
    ran.dedup();
    println!("{} cases ran: {}", ran.len(), ran.join(" "));
    assert!(!ran.is_empty(), "no case in {}", nxd_testkit::goldens().display());
}

#[test]
fn a_llama_of_a_folder_is_one_of_a_file() {
    let home = tempfile::tempdir().unwrap();
    let (source, out) = (golden("llama-gqa-llama3-rope-tied"), home.path().join("out.gguf"));
    write(&source, &out, Scheme::Q8_0).unwrap();
    let written = open(&out);
    let names: Vec<&str> = written.tensors().map(|tensor| tensor.name.as_str()).collect();
    assert!(names.contains(&"blk.1.attn_q.weight") && names.contains(&"rope_freqs.weight"), "{names:?}");
    assert!(!names.contains(&"output.weight"), "tied: {names:?}");
    let metadata = written.gguf().unwrap().metadata();
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.u32("llama.attention.head_count_kv").unwrap(), Some(2));
    assert_eq!(metadata.f64("llama.rope.freq_base").unwrap(), Some(500_000.0));
    // Neighbouring pairs of a head of 8 rows, where the folder pairs its halves.
    let rows = |path: &Path, name: &str, expected: usize| {
        let tensor = open(path).tensor(name).unwrap();
        assert_eq!(tensor.shape, [64, 64]);
        let bytes = tensor.data.bytes().unwrap();
        let mut values = vec![0.0; 64 * 64];
        nxd_ops::quant::decode_row(tensor.format, bytes, &mut values);
        values[expected * 64..][..64].to_vec()
    };
    let (file, folder) =
        (rows(&out, "blk.0.attn_q.weight", 1), rows(&source, "model.layers.0.self_attn.q_proj.weight", 4));
    assert!(off(&folder, &file) < 0.01);
}

#[test]
fn the_tokenizer_gives_the_same_ids() {
    let texts = ["", "Hello, world!", "  12345 naïve\n\n東京 👍🏽 don't", "<|begin_of_text|>a<s>b"];
    let mut ran = 0;
    for folder in nxd_testkit::folders(&nxd_testkit::goldens()) {
        if !folder.join("tokenizer.json").is_file() || !folder.join("model.safetensors").is_file() {
            continue;
        }
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out.gguf");
        if let Err(error) = write(&folder, &out, Scheme::Q8_0) {
            println!("refused {}: {error}", folder.display());
            continue;
        }
        let [source, written] = [&folder, &out].map(|path| Model::open(path, LoadMode::Mmap).unwrap());
        let [expected, found] = [&source, &written].map(|model| model.tokenizer().unwrap());
        for (text, add_special) in texts.iter().flat_map(|text| [(text, false), (text, true)]) {
            let [expected, found] = [expected, found].map(|tokenizer| tokenizer.encode(text, add_special).unwrap());
            assert_eq!(expected, found, "{}: {text:?}", folder.display());
            let [expected, found] = [&source, &written].map(|m| m.tokenizer().unwrap().decode(&expected, false));
            assert_eq!(expected, found);
        }
        assert_eq!(source.bos_id(), written.bos_id());
        assert_eq!(source.eos_ids()[0], written.eos_ids()[0]);
        let [expected, found] = [expected, found].map(|t| t.chat_template().map(|template| template.text().to_owned()));
        assert_eq!(expected, found);
        ran += 1;
    }
    println!("{ran} tokenizers ran");
    assert!(ran > 0);
}
