//! The golden checkpoints open, and their tensors are those that other programs wrote.

use nxd_models::{Checkpoint, LoadMode};
use std::path::{Path, PathBuf};

/// Golden folders that hold weights.
fn cases(is_case: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let cases: Vec<PathBuf> =
        nxd_testkit::folders(&nxd_testkit::goldens()).into_iter().filter(|dir| is_case(dir)).collect();
    assert!(!cases.is_empty(), "no case in {}", nxd_testkit::goldens().display());
    cases
}

#[test]
fn golden_safetensors_checkpoints_open() {
    let index = "model.safetensors.index.json";
    let mut ran = 0;
    for dir in cases(|dir| dir.join("model.safetensors").is_file() || dir.join(index).is_file()) {
        ran += 1;
        let checkpoint = Checkpoint::open(&dir, LoadMode::Mmap).unwrap();
        assert!(checkpoint.tensors().any(|t| t.shape.len() == 2), "{} holds no matrix", dir.display());
        // The crate's own reader gives the same bytes.
        for path in checkpoint.files() {
            let bytes = std::fs::read(path).unwrap();
            for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
                let info = checkpoint.info(name).unwrap();
                assert_eq!(info.shape, view.shape(), "{name}");
                if let Ok(tensor) = checkpoint.tensor(name) {
                    assert_eq!(&tensor.data.bytes().unwrap()[..], view.data(), "{name}");
                }
            }
        }
    }
    println!("{ran} cases ran");
}

#[test]
fn golden_gguf_checkpoints_open() {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e == "gguf");
    let has_gguf = |dir: &Path| std::fs::read_dir(dir).unwrap().any(|entry| is_gguf(&entry.unwrap().path()));
    let cases = cases(has_gguf);
    println!("{} cases run", cases.len());
    for dir in cases {
        let checkpoint = Checkpoint::open(&dir, LoadMode::Mmap).unwrap();
        let metadata = checkpoint.gguf().unwrap().metadata();
        let architecture = metadata.string("general.architecture").unwrap().unwrap();
        let hidden = metadata.u64(&format!("{architecture}.embedding_length")).unwrap().unwrap();
        let table = checkpoint.tensor("token_embd.weight").unwrap();
        assert_eq!(table.shape[1] as u64, hidden);
        let whole: usize = checkpoint.tensors().map(|t| t.bytes()).sum();
        let file_bytes = std::fs::metadata(checkpoint.path()).unwrap().len() as usize;
        assert!(whole < file_bytes && checkpoint.tensors().all(|t| checkpoint.tensor(&t.name).is_ok()));
        assert!(checkpoint.vector("output_norm.weight").unwrap().iter().all(|v| v.is_finite()));
    }
}
