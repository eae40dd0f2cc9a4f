//! Block formats against golden data, and against any bytes.

use nxd_ops::quant::{Groups, decode_row, open};
use nxd_ops::{BlockFormat, Format};
use nxd_testkit::{Tensors, assert_bits, folders, goldens};
use proptest::prelude::*;
use serde_json::Value;

fn format_named(name: &str) -> Option<Format> {
    Format::all().find(|format| format.name() == name)
}

#[test]
fn golden_floats_of_one_byte_decode() {
    let files: Vec<_> = folders(&goldens()).into_iter().map(|folder| folder.join("tables.safetensors")).collect();
    let files: Vec<_> = files.iter().filter(|file| file.exists()).collect();
    for file in &files {
        let (tensors, codes) = (Tensors::read(file), (0..=u8::MAX).collect::<Vec<_>>());
        for (format, table) in [(Format::E4M3, "e4m3fn_table"), (Format::E5M2, "e5m2_table")] {
            let mut values = vec![0.0; codes.len()];
            decode_row(format, &codes, &mut values);
            for (code, (value, expected)) in values.iter().zip(tensors.floats(table)).enumerate() {
                let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
                assert!(same, "{format} {code:#x} is {value}, expected {expected}");
            }
        }
    }
    println!("{} tables of {} and {}", files.len(), Format::E4M3, Format::E5M2);
    assert!(!files.is_empty(), "no tables in {}", goldens().display());
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
