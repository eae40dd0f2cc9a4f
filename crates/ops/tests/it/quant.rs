//! Block formats against golden data, and against any bytes.

use std::path::Path;

use nxd_ops::quant::{Groups, decode_row, open};
use nxd_ops::{BlockFormat, Format};
use nxd_testkit::{assert_bits, folders, goldens};
use proptest::prelude::*;
use serde_json::Value;

/// A safetensors file: its header, and the bytes behind it.
struct Tensors {
    header: Value,
    data: Vec<u8>,
}

impl Tensors {
    fn read(path: &Path) -> Self {
        let mut file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let header_len = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        let data = file.split_off(8 + header_len);
        Tensors { header: serde_json::from_slice(&file[8..]).unwrap(), data }
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let offsets = &self.header[name]["data_offsets"];
        let end = |i: usize| offsets[i].as_u64().unwrap_or_else(|| panic!("no tensor `{name}`")) as usize;
        &self.data[end(0)..end(1)]
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

fn format_named(name: &str) -> Option<Format> {
    let blocks = BlockFormat::ALL.map(Format::Blocks);
    [Format::F32, Format::F16, Format::BF16].into_iter().chain(blocks).find(|format| format.name() == name)
}

#[test]
fn golden_gguf_blocks_decode() {
    let (mut ran, mut skipped) = (Vec::new(), Vec::new());
    for folder in folders(&goldens()).into_iter().filter(|folder| folder.join("blocks.safetensors").exists()) {
        let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
        let tensors = Tensors::read(&folder.join("blocks.safetensors"));
        for (name, facts) in index.as_object().unwrap() {
            let Some(format) = format_named(name) else {
                skipped.push(name.clone());
                continue;
            };
            assert_eq!(facts["block_elements"], format.block_len(), "{name}");
            assert_eq!(facts["block_bytes"], format.block_bytes(), "{name}");
            let expected = tensors.floats(&format!("{name}.dequant"));
            let mut values = vec![0.0; expected.len()];
            decode_row(format, tensors.bytes(&format!("{name}.raw")), &mut values);
            assert_bits(&values, &expected, name);
            ran.push(name.clone());
        }
    }
    println!("{} formats decoded: {}; skipped: {}", ran.len(), ran.join(" "), skipped.join(" "));
    assert!(!ran.is_empty(), "no format was decoded");
}

proptest! {
    #[test]
    fn any_bytes_decode_to_scale_times_integer_plus_minimum(
        which in 0..BlockFormat::ALL.len(),
        blocks in 0_usize..4,
        seed in proptest::collection::vec(any::<u8>(), 3 * 210),
    ) {
        let format = BlockFormat::ALL[which];
        let bytes = &seed[..blocks * format.block_bytes()];
        let mut values = vec![f32::NAN; blocks * format.block_len()];
        decode_row(Format::Blocks(format), bytes, &mut values);
        // A used `Groups` must open the next block as a new one does.
        let mut groups = Groups { quants: [77; 256], scales: [7.0; 16], mins: [7.0; 16] };
        for (block, values) in bytes.chunks(format.block_bytes()).zip(values.chunks(format.block_len())) {
            open(format, block, &mut groups);
            for (i, value) in values.iter().enumerate() {
                let group = i / format.group_len();
                let scaled = groups.scales[group] * f32::from(groups.quants[i]);
                let expected = if format.has_min() { scaled + groups.mins[group] } else { scaled };
                prop_assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan());
            }
        }
    }
}

#[test]
fn formats_without_a_minimum_clear_the_minima_of_the_last_block() {
    for format in BlockFormat::ALL {
        let mut groups = Groups { mins: [7.0; 16], ..Groups::default() };
        open(format, &vec![0; format.block_bytes()], &mut groups);
        let used = format.block_len() / format.group_len();
        assert_bits(
            &groups.mins[..used].iter().map(|min| min.abs()).collect::<Vec<_>>(),
            &vec![0.0; used],
            format.name(),
        );
    }
}

#[test]
fn plain_floats_keep_their_values() {
    let mut values = [0.0; 4];
    let numbers = [1.0_f32, -0.0, f32::INFINITY, 3.0e-39];
    decode_row(Format::F32, &numbers.map(f32::to_le_bytes).concat(), &mut values);
    assert_bits(&values, &numbers, "F32");

    // 1, -2, the smallest subnormal, infinity
    decode_row(Format::F16, &[0x00, 0x3C, 0x00, 0xC0, 0x01, 0x00, 0x00, 0x7C], &mut values);
    assert_bits(&values, &[1.0, -2.0, 2.0_f32.powi(-24), f32::INFINITY], "F16");

    // 1, -2, the smallest subnormal, infinity
    decode_row(Format::BF16, &[0x80, 0x3F, 0x00, 0xC0, 0x01, 0x00, 0x80, 0x7F], &mut values);
    assert_bits(&values, &[1.0, -2.0, 2.0_f32.powi(-133), f32::INFINITY], "BF16");

    decode_row(Format::F16, &[], &mut []);
}

#[test]
#[should_panic(expected = "bytes of 4 values as F16")]
fn a_wrong_length_is_refused() {
    decode_row(Format::F16, &[0; 7], &mut [0.0; 4]);
}
