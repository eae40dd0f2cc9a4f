//! Tensor parallelism: several ranks compute what one computes, within rounding, also where heads and blocks do not divide.

use crate::model::{Rows, Setup, latent_spec, ranks, spec};
use nxd_cpu::{Activations, Isa, KvDtype};
use nxd_modules::DecoderSpec;
use nxd_ops::{BlockFormat, Format};

/// The logits of one prompt over `size` ranks.
fn logits(spec: &DecoderSpec, setup: Setup, size: usize) -> Vec<f32> {
    let tokens: Vec<u32> = (0..23).map(|i| (i * 31 + 5) % 97).collect();
    let rows = [Rows { tokens, start: 0, blocks: vec![3, 1] }];
    let mut ranks = ranks(spec, setup, size);
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.iter_mut().map(|rank| scope.spawn(|| rank.step(&rows))).collect();
        let mut outputs = threads.into_iter().map(|t| t.join().unwrap());
        outputs.next().unwrap()
    })
}

fn agrees(num_heads: usize, num_kv_heads: usize, sizes: (usize, usize), format: Format) {
    all_agree(&spec(num_heads, num_kv_heads, sizes), format);
}

fn all_agree(spec: &DecoderSpec, format: Format) {
    let setup = Setup {
        format,
        activations: Activations::F32,
        kv: KvDtype::F32,
        threads: 1,
        block_size: 16,
        isa: Isa::detect(),
    };
    let one = logits(spec, setup, 1);
    let size = one.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for ranks in [2, 3, 4] {
        let several = logits(spec, setup, ranks);
        assert_eq!(several.len(), one.len());
        for (i, (a, b)) in several.iter().zip(&one).enumerate() {
            let attention = &spec.layers[0].attention;
            let context = format!("{attention:?}, {format}, {ranks} ranks, logit {i}");
            assert!((a - b).abs() <= 2e-4 * size, "{context}: {a} against {b}");
        }
    }
}

#[test]
fn heads_that_do_not_divide_are_padded() {
    agrees(3, 3, (96, 64), Format::F32);
    agrees(9, 3, (288, 64), Format::F32);
}

#[test]
fn kv_heads_fewer_than_ranks_are_replicated() {
    agrees(6, 1, (64, 64), Format::F32);
    agrees(6, 2, (64, 64), Format::F32);
}

#[test]
fn heads_with_a_compressed_row_are_spread_and_padded() {
    for num_heads in [1, 3, 4] {
        all_agree(&latent_spec(num_heads), Format::F32);
        all_agree(&latent_spec(num_heads), Format::Blocks(BlockFormat::Q8_0));
    }
}

#[test]
fn borders_inside_quantisation_blocks_are_neither_refused_nor_requantised() {
    // 3 heads of 32 and 96 inner columns over 2 and 4 ranks cut blocks of 32 and super-blocks of 256.
    agrees(3, 1, (96, 96), Format::Blocks(BlockFormat::Q8_0));
    agrees(3, 1, (96, 160), Format::Blocks(BlockFormat::Q4_1));
    agrees(8, 2, (256, 512), Format::Blocks(BlockFormat::Q4_K));
    agrees(8, 8, (256, 256), Format::Blocks(BlockFormat::Q6_K));
}
