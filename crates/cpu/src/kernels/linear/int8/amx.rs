//! AMX: the integer sums of up to 16 rows by 16 outputs over a group of K are one instruction, which takes two tiles and adds to a third.
//!
//! A tile of a row's integers is 16 rows of 32 bytes, as they were quantised; one of weights is the units of a cell, opened to signed
//! bytes unless that is what they are. Sums go through memory to vectors, which scale and add them as everywhere. For a cell of 16 rows
//! products take 16 cycles, loads 13, stores 16, and vectors 24, or 32 with minima (where `vpdpbusd` would need 128 more operations). What
//! may overlap is what a core holds at once, of which it has half where another thread shares it: so nothing waits for what came just
//! before it. Tiles are loaded two groups ahead, each product is followed by the adding of older sums, and stores come last: a cell takes
//! 46 cycles alone in a loop, where loads, products and stores of two groups around the adding took 57.

use super::{Cells, Opened, Tiled};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::avx512::{factor, half, offset, pair};
use crate::kernels::linear::cell::forms::{Form, by_form};
use crate::kernels::linear::cell::{CELL, Cell, UNIT};
use crate::kernels::linear::panels::SCALES;
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell as Shared;
use std::mem::MaybeUninit;

/// Bytes of an opened cell's integers.
const QUANTS: usize = CELL * PANEL;

/// Bytes of a factor behind them: cells of signed bytes with f16 scales are taken as they are packed.
const NONE: usize = 0;
const HALF: usize = 2;
const SINGLE: usize = 4;

/// Opens cells: signed integers, `[8][16][4]`, then f32 scales, `[groups][16]`, and f32 minima, `[groups][16]`, where a cell has them.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn open<'a>(cell: Cell, cells: &[u8], opened: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: by the caller's duties.
    unsafe { by_form!(cell, open_as(cells, opened)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn open_as<'a, F: Form>(cells: &[u8], opened: &'a mut [u8]) -> &'a [u8] {
    let form = const { F::CELL };
    let block_bytes = const { Opened::Tiles.block_bytes(F::CELL) };
    let opened = &mut opened[..cells.len() / form.block_bytes() * block_bytes];
    let less = _mm512_set1_epi8((offset::<F>() as u8).cast_signed());
    for (block, cells) in cells.chunks_exact(form.block_bytes()).zip(opened.chunks_exact_mut(block_bytes)) {
        for (place, cell) in cells.chunks_exact_mut(block_bytes / form.block).enumerate() {
            let (quants, factors) = cell.split_at_mut(QUANTS);
            let lines = block[place * form.quant_bytes()..][..form.quant_bytes()].as_ptr();
            // SAFETY: a cell's lines and a block's factors; units and 16 factors each are stored within the opened cell.
            unsafe {
                for i in 0..4 {
                    let first = form.first_of(i);
                    for (units, unit) in pair::<F>(lines, i).into_iter().zip([first, first + 4 / form.groups]) {
                        let to = quants[unit * UNIT..][..UNIT].as_mut_ptr();
                        _mm512_storeu_si512(to.cast(), _mm512_sub_epi8(units, less));
                    }
                }
                let kinds = if form.has_factors() { &[false, true][..1 + usize::from(form.min)] } else { &[] };
                for (kind, &min) in kinds.iter().enumerate() {
                    let half = half::<F>(block.as_ptr(), min);
                    for group in 0..form.groups {
                        let to = factors[(kind * form.groups + group) * SCALES..][..SCALES].as_mut_ptr();
                        let own = factor::<F>(block.as_ptr(), half, place * form.groups + group, min);
                        _mm512_storeu_ps(to.cast(), own);
                    }
                }
            }
        }
    }
    opened
}

/// # Safety
/// AMX-INT8, and AVX-512 F, BW, DQ, VL and VNNI are present and permitted; the lengths were checked by `int8::multiply`, whose duties hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    let cell = cells.cell;
    // SAFETY: by the caller's duties.
    unsafe {
        match (cell.has_factors(), cell.groups, cell.min) {
            (false, ..) => by_rows::<1, NONE, false>(cells, tiles, first),
            (true, 1, false) if cells.opened.is_none() => by_rows::<1, HALF, false>(cells, tiles, first),
            (true, 1, false) => by_rows::<1, SINGLE, false>(cells, tiles, first),
            (true, 1, true) => by_rows::<1, SINGLE, true>(cells, tiles, first),
            (true, _, false) => by_rows::<2, SINGLE, false>(cells, tiles, first),
            (true, _, true) => by_rows::<2, SINGLE, true>(cells, tiles, first),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn by_rows<const GROUPS: usize, const FACTOR: usize, const MIN: bool>(
    cells: Cells<'_>,
    tiles: Tiled<'_>,
    first: bool,
) {
    /// The function whose first parameter is the number of rows.
    macro_rules! of {
        ($($rows:literal)*) => {
            match tiles.quantised.first().rows {
                $($rows => multiply_rows::<$rows, GROUPS, FACTOR, MIN>(cells, tiles, first),)*
                rows => unreachable!("{rows} rows of a tile"),
            }
        };
    }
    // SAFETY: by the caller's duties.
    unsafe { of!(5 6 7 8 9 10 11 12 13 14 15 16) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_rows<const ROWS: usize, const GROUPS: usize, const FACTOR: usize, const MIN: bool>(
    cells: Cells<'_>,
    tiles: Tiled<'_>,
    first: bool,
) {
    // SAFETY: by the caller's duties.
    unsafe { configure(ROWS, GROUPS) };
    let (mut cells, mut out) = (cells, tiles.out);
    for n in 0..tiles.quantised.count() {
        let (tile, below) = (tiles.quantised.tile(n), out.below(ROWS));
        for panel in 0..cells.panels {
            let next = match n + 1 < tiles.quantised.count() {
                true => Some(below.panel(panel)),
                false => (panel + 1 < cells.panels).then_some(out.panel(panel + 1)),
            };
            let out = (out.panel(panel), next);
            // SAFETY: by the caller's duties; the tiles are configured.
            unsafe { multiply_panel::<ROWS, GROUPS, FACTOR, MIN>(cells.panel(panel), tile, out, first) };
        }
        (cells, out) = (cells.after(1), below);
    }
}

/// The sums of a group, `[rows][16]`.
#[repr(align(64))]
struct Sums([[i32; PANEL]; 16]);

/// Loads a group: the integers at `$x`, a row's 32 bytes behind the one before, and the units at `$w`.
macro_rules! load {
    ($rows:tt, $units:tt, $x:expr, $w:expr) => {
        asm!(
            concat!("tileloadd ", $rows, ", [{x} + {x_stride}]"),
            concat!("tileloadd ", $units, ", [{w} + {w_stride}]"),
            x = in(reg) $x,
            x_stride = in(reg) CELL,
            w = in(reg) $w,
            w_stride = in(reg) UNIT,
            out($rows) _,
            out($units) _,
            options(nostack, readonly)
        )
    };
}

/// Has the sums of a loaded group computed in tile `$sums`.
macro_rules! multiply {
    ($sums:tt, $rows:tt, $units:tt) => {
        asm!(
            concat!("tilezero ", $sums),
            concat!("tdpbssd ", $sums, ", ", $rows, ", ", $units),
            out($sums) _,
            options(nostack, nomem)
        )
    };
}

/// Stores what [`multiply`] computed in tile `$sums`. The compiler has no use for tiles, so they stay as they are in between.
macro_rules! store {
    ($sums:tt, $to:expr) => {
        asm!(
            concat!("tilestored [{to} + {stride}], ", $sums),
            to = in(reg) $to.as_mut_ptr(),
            stride = in(reg) UNIT,
            options(nostack)
        )
    };
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_panel<const ROWS: usize, const GROUPS: usize, const FACTOR: usize, const MIN: bool>(
    cells: Cells<'_>,
    tile: Quantised<'_>,
    (out, next): (Target, Option<Target>),
    first: bool,
) {
    let mut acc = [_mm512_setzero_ps(); ROWS];
    // Filling them first is 2 to 3 % of a product.
    let mut sums = [const { MaybeUninit::<Sums>::uninit() }; 2];
    let bytes = QUANTS + (1 + usize::from(MIN)) * GROUPS * PANEL * FACTOR;
    let groups = cells.blocks * cells.cell.block * GROUPS;
    let weighted = if GROUPS == 1 { tile.weighted } else { tile.half_weighted };
    // SAFETY: the rows of `out`, each used here alone; blocks, integers, scales and sums are as many as `int8::multiply` checked; tiles are
    // configured for these rows and groups; sums are read once a tile was stored there.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_ps(out.row(row, 0).as_ptr());
            }
        }
        let opened = |group: usize| cells.bytes.as_ptr().add(group / GROUPS * bytes);
        let x = |group: usize| tile.quants.add(group / GROUPS * ROWS * CELL + group % GROUPS * (CELL / GROUPS));
        let w = |group: usize| opened(group).add(group % GROUPS * (QUANTS / GROUPS));
        macro_rules! add {
            ($group:expr, $sums:expr) => {{
                let factors = opened($group).add(QUANTS + $group % GROUPS * PANEL * FACTOR);
                let scales = tile.scales.add($group / GROUPS * ROWS);
                let own = match FACTOR {
                    NONE => _mm512_setzero_ps(),
                    HALF => _mm512_cvtph_ps(_mm256_loadu_si256(factors.cast())),
                    _ => _mm512_loadu_ps(factors.cast()),
                };
                let min = if MIN { _mm512_loadu_ps(factors.add(GROUPS * SCALES).cast()) } else { _mm512_setzero_ps() };
                for (row, acc) in acc.iter_mut().enumerate() {
                    let mut scale = _mm512_set1_ps(*scales.add(row));
                    if FACTOR != NONE {
                        scale = _mm512_mul_ps(own, scale);
                    }
                    let sum = _mm512_load_si512((&raw const (*$sums.as_ptr()).0[row]).cast());
                    *acc = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum), *acc);
                    if MIN {
                        *acc = _mm512_fmadd_ps(min, _mm512_set1_ps(*weighted.add($group * ROWS + row)), *acc);
                    }
                    in_order!(zmm_reg, acc);
                }
            }};
        }
        // What the next two groups need comes before their stores, and what is asked for before all of it.
        let (mut lines, mut rows_asked) = (cells.ahead.by_lines(), 0);
        let (below, rows_at_once) = next.map_or((out, 0), |next| (next, (2 * ROWS).div_ceil(groups)));
        macro_rules! begin {
            ($group:expr, $between:block, $after:block) => {
                lines.ask(2 / GROUPS);
                below.ask(rows_asked..ROWS.min(rows_asked + rows_at_once), 1);
                rows_asked = ROWS.min(rows_asked + rows_at_once);
                multiply!("tmm0", "tmm4", "tmm6");
                $between
                multiply!("tmm1", "tmm5", "tmm7");
                $after
                if $group + 2 < groups {
                    load!("tmm4", "tmm6", x($group + 2), w($group + 2));
                }
                if $group + 3 < groups {
                    load!("tmm5", "tmm7", x($group + 3), w($group + 3));
                }
                store!("tmm0", sums[0]);
                store!("tmm1", sums[1]);
            };
        }
        load!("tmm4", "tmm6", x(0), w(0));
        let even = groups / 2 * 2;
        if even > 0 {
            load!("tmm5", "tmm7", x(1), w(1));
            begin!(0, {}, {});
            let mut group = 2;
            while group < even {
                begin!(group, { add!(group - 2, sums[0]) }, { add!(group - 1, sums[1]) });
                group += 2;
            }
            add!(even - 2, sums[0]);
            add!(even - 1, sums[1]);
        }
        if even < groups {
            multiply!("tmm0", "tmm4", "tmm6");
            store!("tmm0", sums[0]);
            add!(even, sums[0]);
        }
        if FACTOR == NONE
            && let Some(scales) = cells.scales
        {
            let scale = _mm512_loadu_ps(scales.as_ptr().cast());
            for acc in &mut acc {
                *acc = _mm512_mul_ps(*acc, scale);
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(out.row(row, 0).as_mut_ptr(), *acc);
        }
    }
}

/// What `ldtilecfg` reads (Intel's manual, volume 1, chapter 18).
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    bytes: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Rows and groups that this thread's tiles are configured for; zeros while they are released.
    static SHAPE: Shared<(usize, usize)> = const { Shared::new((0, 0)) };
}

/// Configures this thread's tiles for `rows` rows of cells of `groups` groups, unless they are: 0.1 µs.
///
/// # Safety
/// AMX is present and permitted.
unsafe fn configure(rows: usize, groups: usize) {
    if SHAPE.replace((rows, groups)) == (rows, groups) {
        return;
    }
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
    let (sums, of_rows) = ([(0, rows), (1, rows)], [(4, rows), (5, rows)]);
    let units = [6, 7].map(|tile| (tile, 8 / groups));
    for (of, bytes) in [(sums, UNIT), (of_rows, CELL / groups), (units, UNIT)] {
        for (tile, rows) in of {
            (config.bytes[tile], config.rows[tile]) = (bytes as u16, rows as u8);
        }
    }
    // SAFETY: a valid configuration: at most 16 rows of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Leaves no tiles behind, which each switch of threads would save.
///
/// # Safety
/// AMX is present and permitted.
pub(super) unsafe fn release() {
    if SHAPE.replace((0, 0)) != (0, 0) {
        // SAFETY: by the caller's duties.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
