//! Values stored as other programs store them, and no worse than a plain grid would.

use nxd_ops::quant::{ENCODED, EncodeError, decode_row, encode_row, encode_scaled, f32_to_e4m3, row_scale};
use nxd_ops::{BlockFormat, Format};
use nxd_testkit::{Tensors, folders, goldens};
use proptest::prelude::*;

fn encoded(format: Format, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xaa; format.row_bytes(values.len()).unwrap()];
    encode_row(format, values, &mut bytes).unwrap();
    bytes
}

/// What becomes of values that are stored as `format`.
fn stored(format: Format, values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    decode_row(format, &encoded(format, values), &mut out);
    out
}

fn error(values: &[f32], stored: &[f32]) -> f64 {
    values.iter().zip(stored).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Golden files of this name, or whose names begin with it.
fn files(start: &str) -> Vec<Tensors> {
    let files = folders(&goldens()).into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let paths = files.map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(start) && name.ends_with(".safetensors")
    });
    paths.map(|path| Tensors::read(&path)).collect()
}

#[test]
fn golden_values_are_stored_in_the_same_blocks() {
    let mut ran = Vec::new();
    for (tensors, format) in files("blocks").iter().flat_map(|file| ENCODED.map(|format| (file, format))) {
        let name = |part: &str| format!("{format}.{part}");
        if !tensors.names().any(|found| found == name("quantise_raw")) {
            continue;
        }
        let values = tensors.floats(&name("quantise_input"));
        let cols = tensors.shape(&name("quantise_input"))[1];
        let bytes: Vec<u8> = values.chunks(cols).flat_map(|row| encoded(format, row)).collect();
        assert!(bytes == tensors.bytes(&name("quantise_raw")), "{format} differs");
        ran.push(format.name());
    }
    println!("{} formats: {}", ran.len(), ran.join(" "));
    assert!(!ran.is_empty(), "no blocks in {}", goldens().display());
}

#[test]
fn golden_values_are_rounded_alike() {
    let files = files("tables");
    for tensors in &files {
        let values = tensors.floats("round_input");
        // Halves of more than the largest number round to infinity there and are refused here.
        for (format, table) in [(Format::BF16, "round_bf16"), (Format::F16, "round_f16")] {
            for (value, expected) in values.iter().zip(tensors.bytes(table).as_chunks::<2>().0) {
                let mut bytes = [0; 2];
                match encode_row(format, &[*value], &mut bytes) {
                    Ok(()) => assert_eq!(bytes, *expected, "{value:e} as {format}"),
                    Err(error) => assert!(value.abs() > 65504.0, "{error}"),
                }
            }
        }
        for (value, expected) in values.iter().zip(tensors.bytes("round_e4m3fn")) {
            assert_eq!(f32_to_e4m3(*value), *expected, "{value:e}");
        }
    }
    println!("{} tables", files.len());
    assert!(!files.is_empty(), "no tables in {}", goldens().display());
}

#[test]
fn golden_rows_are_stored_under_the_same_scales() {
    let mut ran = 0;
    for tensors in files("linear_") {
        let (values, cols) = (tensors.floats("weight"), tensors.shape("weight")[1]);
        for (format, layout) in [(Format::I8, "int8_per_channel"), (Format::E4M3, "fp8_e4m3_per_channel")] {
            let (expected, scales) =
                (tensors.bytes(&format!("{layout}.q")), tensors.floats(&format!("{layout}.scale")));
            for ((row, expected), scale) in values.chunks(cols).zip(expected.chunks(cols)).zip(scales) {
                let found = row_scale(format, row, Format::F32).unwrap();
                assert_eq!(found.to_bits(), scale.to_bits(), "{layout}");
                let mut bytes = vec![0; cols];
                encode_scaled(format, row, found, &mut bytes).unwrap();
                assert_eq!(bytes, expected, "{layout}");
            }
            ran += 1;
        }
    }
    println!("{ran} layers");
    assert!(ran > 0, "no layers in {}", goldens().display());
}

#[test]
fn values_that_have_no_place_are_named() {
    let mut values = [0.5; 256];
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1e9, "-1000000000")] {
        values[77] = value;
        for format in ENCODED.into_iter().filter(|format| !value.is_finite() || format.block_len() > 1) {
            let error = encode_row(format, &values, &mut vec![0; format.row_bytes(256).unwrap()]).unwrap_err();
            let text = format!("value {text} in column 77 cannot be stored as {format}");
            assert!(error.to_string().starts_with(&text), "{error}");
        }
        let scaled = row_scale(Format::I8, &values, Format::F32);
        assert_eq!(scaled.is_err(), !value.is_finite());
    }
    let format = Format::Blocks(BlockFormat::Q2_K);
    let refused = encode_row(format, &[0.0; 256], &mut [0; 84]);
    assert_eq!(refused, Err(EncodeError::Format { format }));
    assert_eq!(row_scale(Format::E5M2, &[1.0], Format::F32), Err(EncodeError::Format { format: Format::E5M2 }));
}

#[test]
fn every_e4m3_is_the_nearest_to_itself_and_what_lies_beyond_is_the_largest() {
    for code in (0..=u8::MAX).filter(|code| code & 0x7f != 0x7f) {
        let mut value = [0.0];
        decode_row(Format::E4M3, &[code], &mut value);
        assert_eq!(f32_to_e4m3(value[0]), code);
    }
    assert_eq!([f32_to_e4m3(1e9), f32_to_e4m3(f32::NEG_INFINITY), f32_to_e4m3(f32::NAN)], [0x7e, 0xfe, 0x7f]);
}

#[test]
fn a_row_of_zeros_and_a_tiny_one_have_scales() {
    for stored in [Format::F32, Format::F16, Format::BF16] {
        assert_eq!(row_scale(Format::I8, &[0.0; 4], stored), Ok(1.0));
        let scale = row_scale(Format::E4M3, &[1e-9], stored).unwrap();
        assert!(scale > 0.0 && scale < 1e-7, "{scale} as {stored}");
    }
    for format in ENCODED {
        assert!(stored(format, &[0.0; 256]).iter().all(|&value| value == 0.0), "{format}");
        assert!(stored(format, &[1e-40; 256]).iter().all(|value| value.abs() <= 1e-39), "{format}");
    }
}

/// Values as weights have them: a bell, by a sum of uniform numbers, and a few that stick out.
fn weights(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut value = |i: usize| (uniform() + uniform() + uniform()) * if i.is_multiple_of(61) { 0.3 } else { 0.05 };
    (0..len).map(&mut value).collect()
}

/// What a grid from least to greatest of each group of 32 makes of values, with `steps` steps and exact ends.
fn on_plain_grid(values: &[f32], steps: f32) -> Vec<f32> {
    let group = |group: &[f32]| {
        let low = group.iter().copied().fold(0.0, f32::min);
        let step = (group.iter().copied().fold(0.0, f32::max) - low) / steps;
        group.iter().map(|value| low + step * ((value - low) / step).round()).collect::<Vec<_>>()
    };
    values.chunks(32).flat_map(group).collect()
}

proptest! {
    #[test]
    fn fitted_scales_are_better_than_a_plain_grid(seed in any::<u64>()) {
        // Rounding the scales costs less than fitting them gains; over a few blocks, as a single one may be a plain grid's luck.
        let values = weights(seed, 4096);
        let q4_k = error(&values, &stored(Format::Blocks(BlockFormat::Q4_K), &values));
        prop_assert!(q4_k <= error(&values, &on_plain_grid(&values, 15.0)));
        let q6_k = error(&values, &stored(Format::Blocks(BlockFormat::Q6_K), &values));
        let q5_0 = error(&values, &stored(Format::Blocks(BlockFormat::Q5_0), &values));
        let q4_0 = error(&values, &stored(Format::Blocks(BlockFormat::Q4_0), &values));
        prop_assert!(q6_k < q5_0 && q5_0 < q4_k && q4_k < q4_0);
    }

    #[test]
    fn plain_blocks_are_off_by_half_a_step(seed in any::<u64>(), scale in -30..10_i32) {
        let values: Vec<f32> = weights(seed, 256).iter().map(|value| value * 2.0_f32.powi(scale)).collect();
        // Half a step, a whole one on the side that has one integer less, and the rounding of scales, where those are subnormal, too.
        for (format, part) in [(BlockFormat::Q8_0, 0.5 / 127.0), (BlockFormat::Q5_0, 1.0 / 16.0), (BlockFormat::Q4_0, 1.0 / 8.0)] {
            let stored = stored(Format::Blocks(format), &values);
            for (values, stored) in values.chunks(32).zip(stored.chunks(32)) {
                let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let bound = largest * (part + 1.0 / 2048.0) + 128.0 * 2.0_f32.powi(-25);
                for (value, stored) in values.iter().zip(stored) {
                    prop_assert!((value - stored).abs() <= bound * 1.0001, "{} to {} of {}", value, stored, largest);
                }
            }
        }
    }

    #[test]
    fn scaled_bytes_are_off_by_half_a_step(seed in any::<u64>()) {
        let values = weights(seed, 100);
        for (format, stored) in [(Format::I8, Format::BF16), (Format::E4M3, Format::F32)] {
            let scale = row_scale(format, &values, stored).unwrap();
            let (mut bytes, mut decoded) = (vec![0; 100], vec![0.0; 100]);
            encode_scaled(format, &values, scale, &mut bytes).unwrap();
            decode_row(format, &bytes, &mut decoded);
            for (value, decoded) in values.iter().zip(decoded) {
                // Three bits behind the leading one, and below 2^-6 as many steps of 2^-9.
                let step = if format == Format::I8 { scale } else { (value.abs() / 8.0).max(scale / 512.0) };
                prop_assert!((value - decoded * scale).abs() <= 0.5001 * step, "{} to {}", value, decoded * scale);
            }
        }
    }
}
