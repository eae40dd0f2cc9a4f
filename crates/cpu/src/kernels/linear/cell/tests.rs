//! What is packed is what the file's blocks hold, for any bytes of every format.

use super::*;
use nxd_ops::quant::Groups;
use proptest::prelude::*;

/// The same number, or not a number both: a block's half-precision numbers may be anything.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

proptest! {
    #[test]
    fn a_packed_panel_opens_to_the_integers_scales_and_minima_of_its_rows(
        format in prop::sample::select(BlockFormat::ALL.to_vec()),
        blocks in 1usize..4,
        seed in prop::collection::vec(any::<u8>(), 16 * 3 * 210),
    ) {
        let (cell, rows) = (Cell::of(format), &seed[..PANEL * blocks * format.block_bytes()]);
        let mut panel = vec![0; blocks * cell.block_bytes()];
        cell.pack_panel(rows, &mut panel, Next::behind(rows));
        for (j, row) in rows.chunks_exact(blocks * format.block_bytes()).enumerate() {
            for (stored, packed) in row.chunks_exact(format.block_bytes()).zip(panel.chunks_exact(cell.block_bytes())) {
                let mut groups = Groups::default();
                quant::open(format, stored, &mut groups);
                for index in 0..cell.block {
                    let opened = cell.open(packed, index);
                    let quants = opened.quants.map(|of_outputs| of_outputs[j]);
                    prop_assert_eq!(&quants[..], &groups.quants[index * CELL..][..CELL], "{:?}", format);
                    for group in 0..cell.groups {
                        let stored = index * cell.groups + group;
                        prop_assert!(same(opened.scales[group][j], groups.scales[stored]), "{:?}", format);
                        prop_assert!(same(opened.mins[group][j], groups.mins[stored]), "{:?}", format);
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_panel_of_int8_opens_to_the_bytes_of_its_rows_and_zeros(
        cols in 1usize..100,
        seed in prop::collection::vec(any::<u8>(), 16 * 100),
    ) {
        let rows = &seed[..PANEL * cols];
        let mut panel = vec![7; cols.div_ceil(CELL) * Cell::I8.block_bytes()];
        Cell::I8.pack_panel(rows, &mut panel, Next::behind(rows));
        for (j, row) in rows.chunks_exact(cols).enumerate() {
            for (k, packed) in panel.chunks_exact(Cell::I8.block_bytes()).enumerate() {
                let opened = Cell::I8.open(packed, 0);
                prop_assert_eq!(opened.scales[0][j].to_bits(), 1.0_f32.to_bits());
                for (k, quants) in (k * CELL..).zip(opened.quants) {
                    prop_assert_eq!(quants[j], row.get(k).map_or(0, |byte| byte.cast_signed()));
                }
            }
        }
    }
}

#[test]
fn a_cell_is_as_small_as_the_file_but_for_scales_of_few_bits() {
    for format in BlockFormat::ALL {
        let cell = Cell::of(format);
        assert_eq!(cell.block_bytes() % 32, 0, "{}: halves of a line must not straddle two", format.name());
        assert_eq!(cell.block_bytes() % cell.block, 0, "{}: each cell has the same share", format.name());
        let file = format.block_bytes() * PANEL;
        let few = match format {
            BlockFormat::Q2_K => 16 * PANEL,
            BlockFormat::Q3_K | BlockFormat::Q4_K | BlockFormat::Q5_K => 4 * PANEL,
            BlockFormat::IQ4_XS => 2 * PANEL,
            // An exponent takes 16 bits rather than 8.
            BlockFormat::MXFP4 => PANEL,
            _ => 0,
        };
        assert_eq!(cell.block_bytes(), file + few, "{}", format.name());
    }
}
