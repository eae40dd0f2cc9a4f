//! What weights and activations become, and how far products are from exact ones.

use super::*;
use crate::kernels::linear::across::Next;
use crate::kernels::linear::float::Element;
use crate::kernels::linear::quantise::{WordsMut, quantise_words};
use crate::kernels::linear::{Activations, PackedMatrix, Scratch, linears};
use crate::team::Team;
use half::{bf16, f16};
use nxd_ops::{Format, LocalWeight, Role, Sharding, StoredWeight, WeightSpec};
use proptest::prelude::*;

/// The scale of a row, and its integers: found by trying.
fn steps(row: &[f32]) -> (f32, Vec<i32>) {
    let largest = row.iter().fold(0, |largest, w| largest.max(w.abs().to_bits()));
    let largest = f64::from(f32::from_bits(largest));
    if !largest.is_finite() {
        return (f32::NAN, vec![0; row.len()]);
    }
    let mut scale = 2f64.powi(-126);
    while largest / scale > 8192.0 {
        scale *= 2.0;
    }
    (scale as f32, row.iter().map(|&w| (f64::from(w) / scale).round_ties_even() as i32).collect())
}

/// The scale of 32 values, and their integers.
fn quantised(x: &[f32]) -> (f32, Vec<i32>) {
    let amax = x.iter().fold(0f32, |amax, x| amax.max(x.abs()));
    if x.iter().any(|x| !x.is_finite()) {
        return (f32::NAN, vec![0; x.len()]);
    }
    let factor = if (8191.0 / amax).is_finite() { 8191.0 / amax } else { 0.0 };
    (amax / 8191.0, x.iter().map(|x| (x * factor).round_ties_even() as i32).collect())
}

/// The product of a weight of 16-bit floats with rows `x` as it is defined.
pub(in crate::kernels::linear) fn defined(weight: &LocalWeight, x: &[f32]) -> Vec<f32> {
    let weights: Vec<_> = weight.to_f32().chunks_exact(weight.cols()).map(steps).collect();
    let product = |(scale, q): &(f32, Vec<i32>), x: &[(f32, Vec<i32>)]| {
        let sum = q.chunks(CELL).zip(x).fold(0f32, |acc, (q, (da, a))| {
            let sum: i32 = q.iter().zip(a).map(|(q, a)| q * a).sum();
            da.mul_add(sum as f32, acc)
        });
        sum * scale
    };
    let mut out = Vec::new();
    for x in x.chunks_exact(weight.cols()) {
        let x: Vec<_> = x.chunks(CELL).map(quantised).collect();
        out.extend(weights.iter().map(|weights| product(weights, &x)));
    }
    out
}

/// Packs `[16][cols]` numbers: scales, and the integers of each row, those that fill it up among them.
fn packed(element: Element, rows: &[[u8; 2]]) -> (Vec<f32>, Vec<Vec<i32>>) {
    let cols = rows.len() / PANEL;
    let mut panel = vec![7; cols.next_multiple_of(CELL) * PANEL * 2];
    let mut scales = [7; SCALES];
    pack_panel(element, rows.as_flattened(), [&mut scales, &mut panel], Next::behind(&[]));
    let mut words = vec![Vec::new(); PANEL];
    for pair in panel.chunks_exact(PAIR) {
        for (words, [a, b, c, d]) in words.iter_mut().zip(pair.as_chunks::<4>().0) {
            words.extend([[*a, *b], [*c, *d]].map(|word| i32::from(i16::from_le_bytes(word))));
        }
    }
    (scales.as_chunks().0.iter().map(|&scale| f32::from_le_bytes(scale)).collect(), words)
}

fn floats(element: Element, halves: &[[u8; 2]]) -> Vec<f32> {
    halves.iter().map(|half| element.read(half)).collect()
}

proptest! {
    #[test]
    fn a_packed_row_has_the_integers_of_its_floats_under_a_power_of_two(
        element in prop::sample::select(vec![Element::F16, Element::BF16]),
        cols in 1usize..100,
        // Numbers near each other, subnormal ones, large ones, and any bits, which are no numbers now and then.
        kinds in prop::collection::vec(0usize..4, PANEL),
        seed in prop::collection::vec(any::<u16>(), 16 * 100),
    ) {
        let half = |j: usize, bits: u16| match kinds[j] {
            0 => bits & 0x87ff | 0x3000,
            1 => bits & 0x80ff,
            2 => bits & 0x9fff | 0x6000,
            _ => bits,
        };
        let halves = seed[..PANEL * cols].iter().enumerate().map(|(i, &bits)| half(i / cols, bits).to_le_bytes());
        let halves: Vec<[u8; 2]> = halves.collect();
        let (scales, words) = packed(element, &halves);
        for ((stored, scale), mut words) in halves.chunks_exact(cols).zip(scales).zip(words) {
            prop_assert!(words.split_off(cols).iter().all(|&word| word == 0));
            let row = floats(element, stored);
            let (expected_scale, expected) = steps(&row);
            prop_assert!(scale.to_bits() == expected_scale.to_bits() || scale.is_nan() && expected_scale.is_nan());
            prop_assert_eq!(&words, &expected);
            let (largest, kept) = (row.iter().fold(0f32, |largest, w| largest.max(w.abs())), 0.25);
            for (w, word) in row.iter().zip(words).filter(|(w, _)| largest > 1e-30 && w.abs() >= kept * largest) {
                prop_assert!(scale.is_nan() || w.to_bits() == (word as f32 * scale).to_bits(), "{} of at most {}", w, largest);
            }
        }
    }
}

#[test]
fn rows_of_zeros_and_of_extremes_have_finite_scales_and_others_nan() {
    let row = |values: [f32; 2]| {
        (values.map(|v| bf16::from_f32(v).to_le_bytes()), values.map(|v| f16::from_f32(v).to_le_bytes()))
    };
    let extremes = [bf16::MAX.to_f32(), f32::from_bits(1 << 16), f32::MIN_POSITIVE, 0.0, 65504.0, 6e-8, 8192.0, 8193.0];
    for value in extremes.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY, f32::NAN]) {
        let (of_bf16, of_f16) = row([-value, 0.0]);
        for (element, stored) in [(Element::BF16, of_bf16), (Element::F16, of_f16)] {
            let mut rows = vec![[0; 2]; 2 * PANEL];
            rows[2..4].copy_from_slice(&stored);
            let (scales, words) = packed(element, &rows);
            let value = element.read(&stored[0]);
            assert_eq!((words[0][0], words[1][1]), (0, 0), "{value}");
            assert!(scales[0] > 0.0 && scales[0].is_finite(), "{value}");
            if value.is_finite() {
                let back = words[1][0] as f32 * scales[1];
                let off = (back - value).abs();
                assert!(scales[1] >= f32::MIN_POSITIVE && off <= scales[1] / 2.0, "{value} became {back}");
                assert!(off == 0.0 || value.abs() < f32::MIN_POSITIVE * 4096.0, "{value} became {back}");
            } else {
                assert!(scales[1].is_nan() && words[1][0] == 0, "{value}");
            }
        }
    }
}

proptest! {
    #[test]
    fn every_instruction_set_quantises_rows_as_it_is_defined(
        rows in 1usize..=4,
        blocks in 1usize..5,
        kinds in prop::collection::vec(0usize..6, 16),
        seed in prop::collection::vec(-1f32..1.0, 4 * 4 * CELL),
    ) {
        let (cols, stride) = (blocks * CELL, blocks * CELL + 3);
        let mut x = vec![f32::NAN; rows * stride];
        for row in 0..rows {
            for k in 0..cols {
                let (kind, value) = (kinds[row * 4 + k / CELL], seed[row * 4 * CELL + k]);
                x[row * stride + k] = match kind {
                    0 => value * 1e-36,
                    1 => value * 1e38,
                    2 if k % CELL == 7 => [f32::INFINITY, f32::NAN][row % 2],
                    // Halves between integers.
                    3 => (value * 8191.0 * 2.0).round() / 2.0,
                    4 => 0.0,
                    _ => value,
                };
            }
        }
        for isa in Isa::available() {
            let (mut words, mut scales) = (vec![7; rows * cols], vec![7.0; rows * blocks]);
            let mut tile = WordsMut { rows, words: &mut words, scales: &mut scales };
            // SAFETY: the instruction set is available.
            unsafe { quantise_words(isa, &x, stride, &mut tile) };
            for row in 0..rows {
                for block in 0..blocks {
                    let (scale, quants) = quantised(&x[row * stride + block * CELL..][..CELL]);
                    let found = scales[block * rows + row];
                    prop_assert!(found.to_bits() == scale.to_bits() || found.is_nan() && scale.is_nan(), "{}", isa);
                    for (k, quant) in (block * CELL..).zip(quants) {
                        prop_assert_eq!(i32::from(words[(k / 2 * rows + row) * 2 + k % 2]), quant, "{}", isa);
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_is_as_near_to_the_exact_one_as_steps_of_both_sides_allow() {
    let (rows, n, cols) = (7, 33, 1000);
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let team = Team::new(2);
    for format in [Format::F16, Format::BF16] {
        let mut stored = |_| match (format, random().powi(3)) {
            (Format::F16, w) => f16::from_f32(w).to_le_bytes(),
            (_, w) => bf16::from_f32(w).to_le_bytes(),
        };
        let data: Vec<[u8; 2]> = (0..n * cols).map(&mut stored).collect();
        let (shape, sharding) = ([n, cols], Sharding::Replicated);
        let spec = WeightSpec { name: "w".into(), role: Role::Matrix, shape, sharding };
        let data = data.concat().into();
        let stored = StoredWeight { origin: "test".into(), format, shape, data, order: None, scales: None };
        let weight = LocalWeight::new(&spec, stored, 0).unwrap();
        let x: Vec<f32> = (0..rows * cols).map(|_| random()).collect();
        let matrix = PackedMatrix::pack(&weight, Activations::Int8, Isa::detect(), &team);
        let mut out = vec![f32::NAN; rows * n];
        linears(&team, Isa::detect(), &x, rows, &[&matrix], &mut [&mut out], &mut Scratch::new());
        let dense = weight.to_f32();
        let (mut squares, mut errors) = (0.0, 0.0);
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(n)) {
            let da: Vec<f32> = x.chunks(CELL).map(|x| quantised(x).0).collect();
            for (w, &out) in dense.chunks_exact(cols).zip(out) {
                let (scale, (mut exact, mut most, mut size)) = (f64::from(steps(w).0), (0.0, 0.0, 0.0));
                for (k, (w, x)) in w.iter().zip(x).enumerate() {
                    let ([w, x], da) = ([w, x].map(|v| f64::from(*v)), f64::from(da[k / CELL]));
                    exact += w * x;
                    most += w.abs() * da / 2.0 + scale / 2.0 * (x.abs() + da / 2.0);
                    size += w.abs() * x.abs();
                }
                // Each of 33 roundings of a sum in f32, and of what enters it.
                most += size * 33.0 * f64::from(f32::EPSILON);
                let off = (f64::from(out) - exact).abs();
                assert!(off <= most, "{format}: {out} against {exact}, off by {off}, at most {most}");
                (squares, errors) = (squares + exact * exact, errors + off * off);
            }
        }
        // Errors of single products cancel each other out.
        let relative = (errors / squares).sqrt();
        assert!(relative < 1.5e-4, "{format}: {relative}");
    }
}
