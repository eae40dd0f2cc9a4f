//! Golden adapters, as they are and changed.

use super::*;
use serde_json::json;
use std::path::PathBuf;

/// A golden base model, and a copy of one of its adapters that may be changed.
fn golden(name: &str) -> (Model, tempfile::TempDir, PathBuf) {
    let dir = nxd_testkit::goldens().join("lora-llama");
    let model = Model::open(&dir.join("base"), LoadMode::default()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for file in [CONFIG, TENSORS] {
        std::fs::copy(dir.join(name).join(file), copy.path().join(file)).unwrap();
    }
    let path = copy.path().to_owned();
    (model, copy, path)
}

/// Writes the adapter's tensors again under other names; `None` leaves one out.
fn rename(dir: &Path, name: impl Fn(&str) -> Option<String>) {
    let bytes = std::fs::read(dir.join(TENSORS)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = tensors.iter().filter_map(|(old, view)| Some((name(old)?, view))).collect();
    std::fs::write(dir.join(TENSORS), safetensors::serialize(kept, None).unwrap()).unwrap();
}

#[test]
fn ranks_and_scales_come_from_tensors_and_patterns() {
    let (model, _copy, dir) = golden("adapter-all-rslora-r8");
    let adapter = Adapter::open(&dir, &model, LoadMode::default()).unwrap();
    let layers = model.spec().layers.len();
    assert_eq!(adapter.parts().len(), 7 * layers);
    let part = |end: &str| adapter.parts().iter().find(|part| part.weight.ends_with(end)).unwrap();
    let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
    let q = part("q_proj.weight");
    assert!(q.down.shape[0] == 8 && close(q.scale, 4.0 / 8f32.sqrt()));
    assert!(close(part("gate_proj.weight").scale, 16.0 / 8f32.sqrt()));
    let down = part("down_proj.weight");
    assert!(down.down.shape[0] == 2 && close(down.scale, 4.0 / 2f32.sqrt()));
    assert_eq!(adapter.bytes(), adapter.parts().iter().map(LowRank::bytes).sum::<usize>());
}

#[test]
fn names_without_peft_s_prefix_or_with_an_adapter_s_name_are_read_alike() {
    let (model, _copy, dir) = golden("adapter-qv-r4");
    let parts = Adapter::open(&dir, &model, LoadMode::default()).unwrap().parts().len();
    rename(&dir, |name| {
        let bare = name.strip_prefix("base_model.model.").unwrap();
        Some(bare.replace("lora_A.weight", "lora_A.default.weight"))
    });
    assert_eq!(Adapter::open(&dir, &model, LoadMode::default()).unwrap().parts().len(), parts);
}

#[test]
fn what_does_not_fit_the_model_is_named() {
    let error = |change: &dyn Fn(&Path)| {
        let (model, _copy, dir) = golden("adapter-qv-r4");
        change(&dir);
        Adapter::open(&dir, &model, LoadMode::default()).unwrap_err().to_string()
    };
    let renamed = |from: &'static str, to: &'static str| move |dir: &Path| rename(dir, |n| Some(n.replace(from, to)));
    let text = error(&renamed("layers.0.self_attn.q_proj", "layers.9.self_attn.q_proj"));
    assert!(text.contains("`model.layers.9.self_attn.q_proj` is no linear layer of this llama model"), "{text}");
    let text = error(&renamed("layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"));
    assert!(text.contains("tensor `base_model.model.model.layers.0.mlp.up_proj.lora_"), "{text}");
    let text = error(&|dir| rename(dir, |n| (!n.contains("layers.0.self_attn.q_proj.lora_B")).then(|| n.to_owned())));
    assert!(text.contains("`model.layers.0.self_attn.q_proj` has `lora_A` or `lora_B` alone"), "{text}");
    let text = error(&renamed("lora_A.weight", "lora_magnitude_vector"));
    assert!(text.contains("lora_magnitude_vector` is none of an adapter"), "{text}");
    let text = error(&|dir| rename(dir, |_| None));
    assert!(text.contains("has no tensors"), "{text}");
    let text = error(&|dir| std::fs::write(dir.join(CONFIG), json!({"peft_type": "LORA"}).to_string()).unwrap());
    assert!(text.contains("`lora_alpha` is missing"), "{text}");
    let text = error(&|dir| std::fs::remove_file(dir.join(TENSORS)).unwrap());
    assert!(text.contains(TENSORS), "{text}");
}
