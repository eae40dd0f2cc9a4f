//! Caches and programs of the traced device.

use crate::plugin::client;
use crate::text::{Layer, Made};
use nxd_ops::{Batch, GroupTables, Manifest, Mesh, SamplingBatch, SamplingRow};
use nxd_stablehlo::cache::ProgramCache;
use nxd_stablehlo::device::{TracedDevice, TracedOptions};
use nxd_stablehlo::error::DeviceError;
use nxd_stablehlo::record::Element;
use nxd_stablehlo::target::Target;
use std::path::Path;
use std::sync::Arc;

const BLOCK_SIZE: usize = 16;

fn device(ranks: usize, cache: Option<&Path>) -> (TracedDevice, Layer) {
    let mut manifest = Manifest::new(Mesh::tensor(ranks));
    let layer = Layer::new(&mut manifest);
    let mut options = TracedOptions::of(Target::CPU);
    options.cache = cache.map(|folder| ProgramCache::open(folder, 1 << 30));
    let mut device = TracedDevice::bind(client(), Arc::new(manifest), &Made, options).unwrap();
    device.allocate_kv(&[8], BLOCK_SIZE, Element::F32).unwrap();
    (device, layer)
}

/// One request's rows from `start` on, its blocks being 5, 2, 7.
fn batch(tokens: &[u32], start: usize) -> Batch {
    let end = start + tokens.len();
    let blocks = [5, 2, 7][..end.div_ceil(BLOCK_SIZE)].to_vec();
    Batch {
        token_ids: tokens.to_vec(),
        positions: (start as u32..end as u32).collect(),
        query_starts: vec![0, tokens.len() as u32],
        rope_lens: vec![end as u32],
        groups: vec![GroupTables {
            starts: vec![0, blocks.len() as u32],
            blocks,
            first_blocks: vec![0],
            zero_blocks: vec![],
            copy_blocks: vec![],
        }],
        wanted: vec![tokens.len() as u32 - 1],
        ..Batch::default()
    }
}

fn logits(device: &mut TracedDevice, layer: &Layer, batch: &Batch) -> Vec<f32> {
    let step = device.forward(batch, |tracer| layer.forward(tracer)).unwrap();
    let sampling = SamplingBatch { rows: vec![SamplingRow::default()], keep_logits: true };
    device.sample(&step, &sampling, |tracer| layer.sample(tracer)).unwrap().1
}

#[test]
fn the_cache_is_updated_in_place() {
    let (mut device, layer) = device(1, None);
    logits(&mut device, &layer, &batch(&[1, 2, 3], 0));
    logits(&mut device, &layer, &batch(&[4], 3));
    let memory = device.memory();
    let forward: Vec<_> = memory.iter().filter(|(name, _)| name.starts_with("forward")).collect();
    assert_eq!(forward.len(), 2, "{memory:?}");
    for (name, stats) in forward {
        assert_eq!(stats.alias_bytes as usize, device.kv_bytes(), "program `{name}` copies the cache");
    }
}

#[test]
fn one_program_serves_every_step_of_its_bucket() {
    let (mut device, layer) = device(1, None);
    let mut seen = Vec::new();
    for position in 0..20 {
        seen.push(logits(&mut device, &layer, &batch(&[position % 7], position as usize)));
    }
    assert_eq!(device.num_programs(), 2, "one forward program and one sampling program");
    // The same tokens as one prompt: what was written step by step was read.
    let (mut other, layer) = self::device(1, None);
    let tokens: Vec<u32> = (0..20).map(|i| i % 7).collect();
    let whole = logits(&mut other, &layer, &batch(&tokens, 0));
    for (a, b) in seen[19].iter().zip(&whole) {
        assert!((a - b).abs() < 1e-5, "{a} against {b}");
    }
}

#[test]
fn compiled_programs_are_found_again_and_damage_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let (mut device, layer) = device(1, Some(folder.path()));
        logits(&mut device, &layer, &batch(&[1, 2, 3], 0))
    };
    let files = || {
        let mut files: Vec<_> = walk(folder.path());
        files.sort();
        files
    };
    let first = run();
    let kept = files();
    assert!(kept.len() >= 2, "{kept:?}");
    assert_eq!(run(), first);
    assert_eq!(files(), kept, "nothing new was compiled");
    for file in &kept {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        bytes.truncate(bytes.len() - 3);
        std::fs::write(file, bytes).unwrap();
    }
    assert_eq!(run(), first);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn more_ranks_than_devices_are_refused() {
    let mut manifest = Manifest::new(Mesh::tensor(3));
    Layer::new(&mut manifest);
    let bound = TracedDevice::bind(client(), Arc::new(manifest), &Made, TracedOptions::of(Target::CPU));
    let error = bound.err().unwrap();
    assert!(matches!(error, DeviceError::Devices { ranks: 3, devices: 2, .. }), "{error}");
}
