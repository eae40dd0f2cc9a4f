//! One battery for every format, kind of activations, instruction set, number of rows and number of threads: all give the bits of the
//! definition, computed here from the stored rows.

use super::{Activations, GatedPair, PackedMatrix, Scratch, int16, linear_gated, linears};
use crate::isa::Isa;
use crate::kernels::gated::gated;
use crate::team::Team;
use half::{bf16, f16};
use ndarray::ArrayView2;
use nxd_collectives::Axis;
use nxd_ops::quant::{self, Groups};
use nxd_ops::{
    BlockFormat, Dim, Format, Gated, LocalWeight, Role, Scales, Segment, ShardLayout, Sharding, StoredWeight,
    WeightSpec,
};
use nxd_testkit::assert_bits;
use proptest::prelude::*;
use std::sync::Arc;

/// A small generator: test data need not be good, only repeatable.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58476d1ce4e5b9) >> 16
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 8 & 0xff_ffff) as f32 / 8_388_608.0 - 1.0
    }

    /// Rows with blocks of zeros, of tiny and of large values among them.
    fn rows(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        let mut size = 1.0;
        let mut value = |i: usize| {
            if i.is_multiple_of(32) {
                size = [1.0, 1.0, 1.0, 0.0, 1e-6, 100.0][self.next() as usize % 6];
            }
            self.float() * size
        };
        (0..rows * cols).map(&mut value).collect()
    }

    /// Random stored bytes, with factors of a sensible size where the format keeps 16-bit ones.
    fn stored(&mut self, format: Format, rows: usize, cols: usize) -> StoredWeight {
        let mut data = Vec::new();
        for _ in 0..rows * cols / format.block_len() {
            match format {
                Format::F32 => data.extend((self.float() * 0.1).to_le_bytes()),
                Format::F16 => data.extend(f16::from_f32(self.float() * 0.1).to_le_bytes()),
                Format::BF16 => data.extend(bf16::from_f32(self.float() * 0.1).to_le_bytes()),
                Format::I8 => data.push(self.next() as u8),
                // Finite numbers, subnormal and large ones among them.
                Format::E4M3 => data.push([0, 0x80][self.next() as usize % 2] | (self.next() % 0x7f) as u8),
                Format::E5M2 => data.push([0, 0x80][self.next() as usize % 2] | (self.next() % 0x7c) as u8),
                Format::Blocks(block) => {
                    let mut bytes: Vec<u8> = (0..block.block_bytes()).map(|_| self.next() as u8).collect();
                    let factors: &[usize] = match block {
                        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => &[0, 2],
                        BlockFormat::Q2_K => &[80, 82],
                        BlockFormat::Q3_K => &[108],
                        BlockFormat::Q6_K => &[208],
                        BlockFormat::MXFP4 | BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8 => &[],
                        _ => &[0],
                    };
                    for &at in factors {
                        bytes[at..at + 2].copy_from_slice(&f16::from_f32(self.float() * 0.01).to_le_bytes());
                    }
                    match block {
                        BlockFormat::MXFP4 => bytes[0] = 118 + (self.next() % 6) as u8,
                        BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8 => {
                            bytes[..4].copy_from_slice(&(self.float() * 0.01).to_le_bytes());
                            bytes[4..6].copy_from_slice(&(-((self.next() % 17) as i16)).to_le_bytes());
                        }
                        _ => {}
                    }
                    data.extend(bytes);
                }
            }
        }
        let (scales, shape) = (self.scales(format, rows, cols), [rows, cols]);
        StoredWeight { origin: "test".into(), format, shape, data: data.into(), order: None, scales }
    }

    /// Scales of a tensor, of rows, or of blocks whose borders fall inside panels and chunks; or none.
    fn scales(&mut self, format: Format, rows: usize, cols: usize) -> Option<Scales> {
        let (kinds, size) = match format {
            Format::I8 => (3, 0.01),
            Format::E4M3 => (5, 1e-3),
            Format::E5M2 => (5, 1e-5),
            _ => return None,
        };
        let kind = self.next() % kinds;
        let mut some = |count: usize| -> Vec<f32> { (0..count).map(|_| self.float() * size).collect() };
        Some(match kind {
            0 => return None,
            1 => Scales::of_tensor(size),
            2 => Scales::of_rows(some(rows)),
            3 => Scales { rows: 128, cols: 128, values: some(rows.div_ceil(128) * cols.div_ceil(128)).into() },
            _ => Scales { rows: 7, cols: 33, values: some(rows.div_ceil(7) * cols.div_ceil(33)).into() },
        })
    }

    fn weight(&mut self, format: Format, rows: usize, cols: usize) -> LocalWeight {
        local(self.stored(format, rows, cols), Sharding::Replicated, 0)
    }
}

fn local(stored: StoredWeight, sharding: Sharding, rank: usize) -> LocalWeight {
    let spec = WeightSpec { name: "w".into(), role: Role::Matrix, shape: stored.shape, sharding };
    LocalWeight::new(&spec, stored, rank).unwrap()
}

/// Integers and scale of 32 values.
fn quantised(x: &[f32]) -> (Vec<i32>, f32) {
    let amax = x.iter().fold(0f32, |amax, x| amax.max(x.abs()));
    let factor = if amax > 1e-30 { 127.0 / amax } else { 0.0 };
    (x.iter().map(|x| (x * factor).round_ties_even() as i32).collect(), amax / 127.0)
}

/// The product as it is defined, from the stored rows.
fn defined(weight: &LocalWeight, activations: Activations, x: &[f32]) -> Vec<f32> {
    let cols = weight.cols();
    let (rows, dense) = (x.chunks_exact(cols), weight.to_f32());
    let format = match (weight.format(), activations) {
        (Format::Blocks(format), Activations::Int8) => format,
        (Format::I8, Activations::Int8) => return defined_int8(weight, x),
        (Format::F16 | Format::BF16, Activations::Int8) => return int16::tests::defined(weight, x),
        (Format::E4M3 | Format::E5M2, _) => return defined_runs(weight, x),
        _ => {
            let chain = |w: &[f32], x: &[f32]| w.iter().zip(x).fold(0f32, |acc, (w, x)| w.mul_add(*x, acc));
            return rows.flat_map(|x| dense.chunks_exact(cols).map(|w| chain(w, x)).collect::<Vec<_>>()).collect();
        }
    };
    let mut opened = vec![Vec::new(); weight.rows()];
    for (row, opened) in opened.iter_mut().enumerate() {
        let mut bytes = vec![0; weight.row_bytes()];
        weight.read_row(row, &mut bytes);
        for block in bytes.chunks_exact(format.block_bytes()) {
            let mut groups = Groups::default();
            quant::open(format, block, &mut groups);
            opened.push(groups);
        }
    }
    let group_len = format.group_len();
    let product = |blocks: &[Groups], x: &[(Vec<i32>, f32)]| {
        let mut acc = 0f32;
        for k in (0..cols).step_by(group_len) {
            let (block, at) = (&blocks[k / format.block_len()], k % format.block_len());
            let (a, scale) = &x[k / 32];
            let a = &a[k % 32..][..group_len];
            let products: i32 = block.quants[at..].iter().zip(a).map(|(&q, a)| i32::from(q) * a).sum();
            acc = (block.scales[at / group_len] * scale).mul_add(products as f32, acc);
            if format.has_min() {
                acc = block.mins[at / group_len].mul_add(scale * a.iter().sum::<i32>() as f32, acc);
            }
        }
        acc
    };
    rows.flat_map(|x| {
        let x: Vec<_> = x.chunks_exact(32).map(quantised).collect();
        opened.iter().map(|blocks| product(blocks, &x)).collect::<Vec<_>>()
    })
    .collect()
}

/// The product of int8 with integers as it is defined.
fn defined_int8(weight: &LocalWeight, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; weight.row_bytes()];
    let mut product = |row: usize, x: &[(Vec<i32>, f32)]| {
        weight.read_row(row, &mut bytes);
        let scale = weight.scales(row).next().unwrap();
        let sum = bytes.chunks(32).zip(x).fold(0f32, |acc, (w, (a, scale))| {
            let products: i32 = w.iter().zip(a).map(|(&w, a)| i32::from(w.cast_signed()) * a).sum();
            scale.mul_add(products as f32, acc)
        });
        sum * scale
    };
    let mut out = Vec::new();
    for x in x.chunks_exact(weight.cols()) {
        let x: Vec<_> = x.chunks(32).map(quantised).collect();
        out.extend((0..weight.rows()).map(|row| product(row, &x)));
    }
    out
}

/// The product of floats of one byte as it is defined.
fn defined_runs(weight: &LocalWeight, x: &[f32]) -> Vec<f32> {
    // A number of E4M3 enters as its 256th.
    let factor = if weight.format() == Format::E4M3 { 256.0 } else { 1.0 };
    let mut rows = Vec::new();
    for row in 0..weight.rows() {
        let (mut bytes, mut numbers) = (vec![0; weight.row_bytes()], vec![0.0; weight.cols()]);
        weight.read_row(row, &mut bytes);
        quant::decode_row(weight.format(), &bytes, &mut numbers);
        rows.push((numbers, weight.scales(row).collect::<Vec<_>>()));
    }
    let product = |numbers: &[f32], scales: &[f32], x: &[f32]| {
        let (mut sum, mut at) = (0f32, 0);
        for (run, scale) in weight.scale_runs().iter().zip(scales) {
            let of_run = at..at + run.len;
            let pairs = numbers[of_run.clone()].iter().zip(&x[of_run]);
            let chain = pairs.fold(0f32, |acc, (w, x)| (w / factor).mul_add(*x, acc));
            sum = chain.mul_add(scale * factor, sum);
            at += run.len;
        }
        sum
    };
    let of_row = |x: &[f32]| rows.iter().map(|(numbers, scales)| product(numbers, scales, x)).collect::<Vec<_>>();
    x.chunks_exact(weight.cols()).flat_map(of_row).collect()
}

/// One product.
fn multiply(team: &Team, isa: Isa, x: &[f32], rows: usize, matrix: &PackedMatrix) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * matrix.rows()];
    linears(team, isa, x, rows, &[matrix], &mut [&mut out], &mut Scratch::new());
    out
}

#[derive(Clone, Debug)]
struct Case {
    format: Format,
    activations: Activations,
    rows: usize,
    outputs: usize,
    cols: usize,
    threads: usize,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let formats: Vec<Format> = Format::all().collect();
    let activations = prop_oneof![Just(Activations::Int8), Just(Activations::F32)];
    // A tile, several, and so many that kernels open cells.
    let rows = prop_oneof![Just(1usize), 2usize..9, 9usize..=40, 60usize..=70];
    // More panels than one call takes, too.
    let outputs = prop_oneof![4 => 1usize..=100, 1 => 250usize..=300];
    (prop::sample::select(formats), activations, rows, outputs, 1usize..=40, 1usize..=4, any::<u64>()).prop_map(
        |(format, activations, rows, outputs, steps, threads, seed)| {
            // As many values whatever the block: up to 1280.
            let block = format.block_len();
            let cols = if block == 1 { steps * 32 - steps % 7 } else { (steps * 32).div_ceil(block) * block };
            Case { format, activations, rows, outputs, cols, threads, seed }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_and_tiling_gives_the_bits_of_the_definition(case in cases()) {
        let mut random = Random(case.seed);
        let weight = random.weight(case.format, case.outputs, case.cols);
        let x = random.rows(case.rows, case.cols);
        let expected = defined(&weight, case.activations, &x);
        let team = Team::new(case.threads);
        let matrix = PackedMatrix::pack(&weight, case.activations, Isa::detect(), &team);
        let is_filled_up = match case.format {
            Format::F16 | Format::BF16 => case.activations == Activations::Int8,
            format => format == Format::I8,
        };
        let filled_up = if is_filled_up { case.cols.next_multiple_of(32) } else { case.cols };
        prop_assert_eq!((matrix.rows(), matrix.cols()), (case.outputs, filled_up));
        for isa in Isa::available() {
            assert_bits(&multiply(&team, isa, &x, case.rows, &matrix), &expected, isa.name());
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch(case in cases(), pick in any::<prop::sample::Index>()) {
        let mut random = Random(case.seed);
        let weight = random.weight(case.format, case.outputs, case.cols);
        let x = random.rows(case.rows, case.cols);
        let team = Team::new(case.threads);
        let matrix = PackedMatrix::pack(&weight, case.activations, Isa::detect(), &team);
        let (first, n) = (pick.index(case.rows), case.outputs);
        for isa in Isa::available() {
            let all = multiply(&team, isa, &x, case.rows, &matrix);
            for len in [1, (case.rows - first).div_ceil(2)] {
                let part = multiply(&team, isa, &x[first * case.cols..(first + len) * case.cols], len, &matrix);
                assert_bits(&part, &all[first * n..(first + len) * n], isa.name());
            }
        }
    }
}

#[test]
fn long_inputs_and_many_rows_cross_every_chunk() {
    let (team, mut scratch) = (Team::new(2), Scratch::new());
    for (i, format) in Format::all().enumerate() {
        let mut random = Random(i as u64);
        let (rows, n, cols) = (487, 40, 2304);
        let weight = random.weight(format, n, cols);
        let x = random.rows(rows, cols);
        for activations in [Activations::Int8, Activations::F32] {
            let matrix = PackedMatrix::pack(&weight, activations, Isa::detect(), &team);
            let mut out = vec![f32::NAN; rows * n];
            linears(&team, Isa::detect(), &x, rows, &[&matrix], &mut [&mut out], &mut scratch);
            for row in [0, 3, 239, 240, 241, 486] {
                let expected = defined(&weight, activations, &x[row * cols..(row + 1) * cols]);
                assert_bits(&out[row * n..(row + 1) * n], &expected, &format!("{format} row {row}"));
            }
        }
    }
}

#[test]
fn products_of_one_input_share_it_and_keep_their_own_bits() {
    let mut random = Random(7);
    let cols = 512;
    let kinds = [
        // Of one input, each of the next needs more sums than the one before.
        (Format::Blocks(BlockFormat::Q8_0), Activations::Int8, 64),
        (Format::Blocks(BlockFormat::Q4_K), Activations::Int8, 40),
        (Format::Blocks(BlockFormat::Q6_K), Activations::Int8, 24),
        (Format::F16, Activations::Int8, 7),
        (Format::F16, Activations::F32, 70),
        (Format::BF16, Activations::Int8, 48),
        (Format::Blocks(BlockFormat::Q8_0), Activations::F32, 33),
        (Format::Blocks(BlockFormat::Q4_0), Activations::Int8, 16),
    ];
    let mut scratch = Scratch::new();
    for (rows, threads) in [(1, 1), (1, 3), (9, 2), (33, 4)] {
        let (team, x) = (Team::new(threads), random.rows(rows, cols));
        let mut products: Vec<_> = kinds
            .map(|(format, activations, n)| {
                let weight = random.weight(format, n, cols);
                let right = defined(&weight, activations, &x);
                (format!("{format}, {rows} rows"), weight, activations, right)
            })
            .into();
        // The first one says how rows are cut for all.
        for _ in 0..2 {
            products.reverse();
            for isa in Isa::available() {
                let pack = |(_, weight, activations, _): &_| PackedMatrix::pack(weight, *activations, isa, &team);
                let matrices: Vec<_> = products.iter().map(pack).collect();
                let mut outs: Vec<_> = matrices.iter().map(|matrix| vec![f32::NAN; rows * matrix.rows()]).collect();
                let mut slices: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
                let matrices: Vec<_> = matrices.iter().collect();
                linears(&team, isa, &x, rows, &matrices, &mut slices, &mut scratch);
                for ((name, _, _, right), out) in products.iter().zip(&outs) {
                    assert_bits(out, right, &format!("{name}, {isa}"));
                }
            }
        }
    }
}

#[test]
fn a_gated_product_has_the_bits_of_its_parts() {
    let mut random = Random(8);
    let blocks = |format| Format::Blocks(format);
    // Two of one kind, two whose inputs have tiles of different sizes, and outputs that fill no panel.
    let pairs = [
        ([blocks(BlockFormat::Q4_1), blocks(BlockFormat::Q6_K)], 64),
        ([blocks(BlockFormat::Q8_0), Format::F16], 40),
        ([Format::BF16, Format::BF16], 7),
    ];
    let mut scratch = Scratch::new();
    for (formats, n) in pairs {
        for (rows, threads) in [(1, 1), (1, 3), (9, 2), (33, 4), (245, 2)] {
            let (team, x) = (Team::new(threads), random.rows(rows, 512));
            let weights = formats.map(|format| random.weight(format, n, 512));
            for isa in Isa::available() {
                let matrices =
                    weights.each_ref().map(|weight| PackedMatrix::pack(weight, Activations::Int8, isa, &team));
                let [mut expected, other] = matrices.each_ref().map(|matrix| multiply(&team, isa, &x, rows, matrix));
                gated(&team, isa, Gated::Silu, &mut expected, &other);
                let mut out = vec![f32::NAN; rows * n];
                let [gate, up] = matrices.each_ref();
                let pair = GatedPair { gate, up, activation: Gated::Silu };
                linear_gated(&team, isa, &x, rows, pair, &mut out, &mut scratch);
                assert_bits(&out, &expected, &format!("{formats:?}, {rows} rows, {isa}"));
            }
        }
    }
}

#[test]
fn a_matrix_that_is_packed_when_used_again_has_the_same_bits_each_time() {
    let (mut random, team) = (Random(11), Team::new(2));
    for format in Format::all() {
        // A last panel that is not full, and K over several cells.
        let weight = random.weight(format, 50, 512);
        for activations in [Activations::Int8, Activations::F32] {
            for (isa, rows) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 5), (isa, 20), (isa, 100)])
            {
                let what = format!("{format} {activations:?} {isa} {rows}");
                let x = random.rows(rows, 512);
                let packed = PackedMatrix::pack(&weight, activations, isa, &team);
                let expected = multiply(&team, isa, &x, rows, &packed);
                let later = PackedMatrix::pack_later(&Arc::default(), weight.clone(), activations, isa);
                let in_place = rows < 100 && (!format.is_quantised() || activations == Activations::Int8);
                for time in 0..3 {
                    assert_bits(&multiply(&team, isa, &x, rows, &later), &expected, &what);
                    assert_eq!(later.data().is_empty(), in_place && time == 0, "{what}");
                }
                assert_eq!(later.data(), packed.data(), "{what}");
                assert_eq!(later.bytes(), packed.bytes(), "{what}");
            }
        }
    }
}

#[test]
fn warm_scratch_stays_where_it_is() {
    let (mut random, team, mut scratch) = (Random(9), Team::new(3), Scratch::new());
    let formats = [Format::Blocks(BlockFormat::Q8_0), Format::F16, Format::Blocks(BlockFormat::Q4_1)];
    let matrices = formats
        .map(|format| PackedMatrix::pack(&random.weight(format, 50, 512), Activations::Int8, Isa::detect(), &team));
    let mut run = |rows: usize, matrices: &[&PackedMatrix]| {
        let x = random.rows(rows, 512);
        let mut outs = vec![vec![0.0; rows * 50]; matrices.len()];
        let mut slices: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
        linears(&team, Isa::detect(), &x, rows, matrices, &mut slices, &mut scratch);
        scratch.memory()
    };
    let all: Vec<_> = matrices.iter().collect();
    run(40, &all);
    let warm = run(40, &all[1..]);
    for (rows, first) in [(1, 0), (7, 0), (40, 0), (1, 1), (33, 0)] {
        assert_eq!(run(rows, &all[first..]), warm, "{rows} rows");
    }
}

#[test]
fn products_agree_with_ndarray_in_double_precision() {
    for (i, format) in Format::all().enumerate() {
        let mut random = Random(100 + i as u64);
        let (rows, n, cols) = (5, 35, 768);
        let weight = random.weight(format, n, cols);
        let x: Vec<f32> = (0..rows * cols).map(|_| random.float()).collect();
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (a, b) = (wide(&x), wide(&weight.to_f32()));
        let (a, b) =
            (ArrayView2::from_shape((rows, cols), &a).unwrap(), ArrayView2::from_shape((n, cols), &b).unwrap());
        let expected = a.dot(&b.t());
        let largest = expected.iter().fold(0f64, |max, v| max.max(v.abs()));
        // Eight bits of activations cost about a hundredth of the largest value, fourteen bits of both sides a few 100,000ths, f32 sums a
        // millionth.
        let of_integers = if matches!(format, Format::F16 | Format::BF16) { 1e-4 } else { 2e-2 };
        for (activations, tolerance) in [(Activations::Int8, of_integers), (Activations::F32, 2e-6)] {
            let team = Team::new(2);
            let matrix = PackedMatrix::pack(&weight, activations, Isa::detect(), &team);
            for (out, expected) in multiply(&team, Isa::detect(), &x, rows, &matrix).iter().zip(&expected) {
                let off = (f64::from(*out) - expected).abs() / largest;
                assert!(off < tolerance, "{format} {activations:?}: {out} against {expected}, off by {off}");
            }
        }
    }
}

#[test]
fn a_weight_cut_within_blocks_sums_to_the_whole() {
    let mut random = Random(11);
    let (rows, n, cols) = (3, 20, 768);
    // Parts of 376 and 392 columns, the first one padded; and of 256 columns each, begun in the middle of a block.
    let heads = |range: std::ops::Range<usize>, pad: usize| range.map(Some).chain(vec![None; pad]).collect::<Vec<_>>();
    let two = ShardLayout::units(8, &[heads(0..47, 2), heads(47..96, 0)]);
    let three = ShardLayout::units(8, &[heads(0..31, 4), heads(31..61, 5), heads(61..96, 0)]);
    for format in Format::all() {
        let stored = random.stored(format, n, cols);
        let x: Vec<f32> = (0..rows * cols).map(|_| random.float()).collect();
        let team = Team::new(2);
        let whole = local(stored.clone(), Sharding::Replicated, 0);
        let whole = PackedMatrix::pack(&whole, Activations::F32, Isa::detect(), &team);
        let whole = multiply(&team, Isa::detect(), &x, rows, &whole);
        for (isa, layout) in Isa::available().into_iter().flat_map(|isa| [(isa, &two), (isa, &three)]) {
            let sharding = Sharding::Split { dim: Dim::Columns, axis: Axis::Tensor, layout: Arc::new(layout.clone()) };
            let mut sum = vec![0f32; rows * n];
            for rank in 0..layout.ranks() {
                let part = local(stored.clone(), sharding.clone(), rank);
                assert!(format.block_len() == 1 || part.input().is_some(), "a cut on a border would test nothing");
                let matrix = PackedMatrix::pack(&part, Activations::F32, isa, &team);
                let input: Vec<f32> = x.chunks_exact(cols).flat_map(|row| columns(row, layout.part(rank))).collect();
                let out = multiply(&team, isa, &input, rows, &matrix);
                sum.iter_mut().zip(out).for_each(|(sum, out)| *sum += out);
            }
            let largest = whole.iter().fold(1f32, |largest, whole| largest.max(whole.abs()));
            for (sum, whole) in sum.iter().zip(&whole) {
                assert!(
                    (sum - whole).abs() < 1e-5 * largest,
                    "{format}, {} ranks: {sum} against {whole}",
                    layout.ranks()
                );
            }
        }
    }
}

/// A rank's own columns of a row; padded ones hold what must not matter.
fn columns(row: &[f32], part: &[Segment]) -> Vec<f32> {
    let mut own = Vec::new();
    for &segment in part {
        match segment {
            Segment::Range { start, len } => own.extend(&row[start..start + len]),
            Segment::Zeros { len } => own.extend(vec![f32::NAN; len]),
        }
    }
    own
}

#[test]
fn a_row_that_is_not_finite_gives_nan_and_spares_its_neighbours() {
    let mut random = Random(3);
    let (rows, n, cols) = (5, 20, 128);
    let weights = [Format::Blocks(BlockFormat::Q4_1), Format::F16].map(|format| random.weight(format, n, cols));
    let team = Team::new(2);
    let [blocks, halves] =
        weights.each_ref().map(|weight| PackedMatrix::pack(weight, Activations::Int8, Isa::detect(), &team));
    let clean = random.rows(rows, cols);
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
    for (bad, matrix) in bad.into_iter().flat_map(|bad| [(bad, &blocks), (bad, &halves)]) {
        let mut x = clean.clone();
        x[2 * cols + 77] = bad;
        for isa in Isa::available() {
            let (spoilt, clean) = (multiply(&team, isa, &x, rows, matrix), multiply(&team, isa, &clean, rows, matrix));
            for row in 0..rows {
                let range = row * n..(row + 1) * n;
                if row == 2 {
                    assert!(spoilt[range].iter().all(|v| v.is_nan()), "{bad} with {isa}");
                } else {
                    assert_bits(&spoilt[range.clone()], &clean[range], isa.name());
                }
            }
        }
    }
}

#[test]
fn a_byte_that_is_no_number_makes_its_output_nan_whatever_it_meets() {
    let (mut random, team) = (Random(4), Team::new(1));
    let (n, cols) = (20, 200);
    for (format, bad) in [(Format::E4M3, 0x7f), (Format::E4M3, 0xff), (Format::E5M2, 0x7d), (Format::E5M2, 0xfc)] {
        let mut stored = random.stored(format, n, cols);
        let mut data = stored.data.bytes().unwrap().to_vec();
        data[17 * cols + 150] = bad;
        stored.data = data.into();
        let weight = local(stored, Sharding::Replicated, 0);
        let mut x = random.rows(3, cols);
        x[cols + 150] = 0.0;
        let expected = defined(&weight, Activations::F32, &x);
        for isa in Isa::available() {
            let matrix = PackedMatrix::pack(&weight, Activations::F32, isa, &team);
            for (i, (out, expected)) in multiply(&team, isa, &x, 3, &matrix).iter().zip(&expected).enumerate() {
                assert!(out.to_bits() == expected.to_bits() || out.is_nan() && expected.is_nan(), "{format} {isa} {i}");
            }
        }
    }
}

#[test]
fn every_float_of_one_byte_is_multiplied_exactly() {
    let team = Team::new(1);
    for format in [Format::E4M3, Format::E5M2] {
        // One weight a row: the largest scale that is allowed, and a small one, which make subnormal numbers of some.
        for scale in [1.0, Scales::LIMIT / 2.0, 1e-40] {
            let (shape, data) = ([256, 1], (0..=u8::MAX).collect::<Vec<_>>());
            let scales = Some(Scales::of_tensor(scale));
            let stored = StoredWeight { origin: "test".into(), format, shape, data: data.into(), order: None, scales };
            let weight = local(stored, Sharding::Replicated, 0);
            for isa in Isa::available() {
                let matrix = PackedMatrix::pack(&weight, Activations::F32, isa, &team);
                let out = multiply(&team, isa, &[1.0], 1, &matrix);
                for (byte, (out, value)) in out.iter().zip(weight.to_f32()).enumerate() {
                    // A chain begins with +0, so there is no -0.
                    let same = out.to_bits() == (value + 0.0).to_bits() || out.is_nan() && value.is_nan();
                    assert!(same, "{format} {byte:#x} * {scale}: {out} against {value} with {isa}");
                }
            }
        }
    }
}

#[test]
fn denormal_blocks_count_as_zeros() {
    let team = Team::new(1);
    for format in [Format::Blocks(BlockFormat::Q8_0), Format::BF16] {
        let weight = Random(5).weight(format, 16, 32);
        let matrix = PackedMatrix::pack(&weight, Activations::Int8, Isa::detect(), &team);
        for isa in Isa::available() {
            let out = multiply(&team, isa, &[1e-40; 32], 1, &matrix);
            assert!(out.iter().all(|&v| v.abs() == 0.0), "{isa}: {out:?}");
        }
    }
}

#[test]
fn kernels_are_named_after_format_activations_and_instructions() {
    let team = Team::new(1);
    let name = |format, activations| {
        let weight = Random(1).weight(format, 3, 256);
        PackedMatrix::pack(&weight, activations, Isa::Scalar, &team).kernel_name().to_string()
    };
    assert_eq!(name(Format::Blocks(BlockFormat::Q4_1), Activations::Int8), "q4_1 int8 scalar");
    assert_eq!(name(Format::Blocks(BlockFormat::Q6_K), Activations::F32), "q6_k f32 scalar");
    assert_eq!(name(Format::BF16, Activations::Int8), "bf16 int16 scalar");
    assert_eq!(name(Format::F16, Activations::F32), "f16 f32 scalar");
    assert_eq!(name(Format::F32, Activations::Int8), "f32 scalar");
    assert_eq!(name(Format::I8, Activations::Int8), "i8 int8 scalar");
    assert_eq!(name(Format::I8, Activations::F32), "i8 f32 scalar");
    assert_eq!(name(Format::E4M3, Activations::Int8), "f8_e4m3 scalar");
}

#[test]
#[should_panic(expected = "an input of 31 columns times a weight of 32")]
fn an_input_of_another_width_is_refused() {
    let team = Team::new(1);
    let weight = Random(1).weight(Format::F32, 3, 32);
    let matrix = PackedMatrix::pack(&weight, Activations::F32, Isa::Scalar, &team);
    multiply(&team, Isa::Scalar, &[0.0; 62], 2, &matrix);
}
