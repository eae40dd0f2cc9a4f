//! Rows of a file laid across: 16 rows become the lanes of what is packed.
//!
//! All of it is one step, done several times. Number the elements of some vectors by the bits of vector and lane. Zipping each vector of
//! the first half with its partner in the second half turns these bits by one place: the first bit of the vector becomes the last one of
//! the lane. Where vectors are as many as lanes, as many steps as a lane has bits exchange the two.

use super::PANEL;
use crate::prefetch::{Cache, LINE, ask};
use std::array;
use vector::{Vector, load, store, zip_halves, zip_words};

/// Bytes of a vector.
const BYTES: usize = 16;
/// Bytes of a vector of each row.
const TILE: usize = PANEL * BYTES;

/// What is read after 16 rows, and asked for meanwhile. They begin at 16 places, and end too soon for a processor to foresee more.
#[derive(Clone, Copy)]
pub(super) struct Next(*const u8);

impl Next {
    /// What lies behind `bytes`. It need not be there.
    pub(super) fn behind(bytes: &[u8]) -> Self {
        Next(bytes.as_ptr_range().end)
    }

    /// Asks for the part `index`, of `len` bytes.
    #[inline(always)]
    pub(super) fn ask(self, index: usize, len: usize) {
        for at in (index * len..(index + 1) * len).step_by(LINE) {
            ask(self.0.wrapping_add(at), Cache::Second);
        }
    }
}

/// The 16 rows of `rows`, `[16][row_bytes]`.
#[inline(always)]
pub(super) fn rows(rows: &[u8]) -> [&[u8]; PANEL] {
    let row_bytes = rows.len() / PANEL;
    array::from_fn(|j| &rows[j * row_bytes..][..row_bytes])
}

/// Lays words of 4 bytes across: row `j` becomes column `j` of `panel`, `[steps][16]`.
pub(super) fn words(rows: &[&[u8]; PANEL], panel: &mut [u8], next: Next) {
    let tiles = panel.len() / TILE;
    for tile in 0..tiles {
        next.ask(tile, TILE);
        words_at(rows, tile * BYTES, &mut panel[tile * TILE..][..TILE]);
    }
    words_at(rows, tiles * BYTES, &mut panel[tiles * TILE..]);
}

/// Lays words of 4 bytes across: those of each row from `at` on become column `j` of `panel`, `[steps][16]`.
#[inline(always)]
pub(super) fn words_at(rows: &[&[u8]; PANEL], at: usize, panel: &mut [u8]) {
    const STEP: usize = 4 * PANEL;
    let rows = rows.map(|row| &row[at..][..panel.len() / PANEL]);
    let (tiles, rest) = panel.as_chunks_mut::<TILE>();
    let done = tiles.len() * BYTES;
    for (tile, out) in tiles.iter_mut().enumerate() {
        for quarter in 0..4 {
            let four: [Vector; 4] = array::from_fn(|j| load(part(rows[4 * quarter + j], tile)));
            for (step, vector) in turned(turned(four, zip_words), zip_words).into_iter().enumerate() {
                store(vector, part_mut(&mut out[step * STEP..][..STEP], quarter));
            }
        }
    }
    one_by_one(rows.map(|row| row[done..].as_chunks::<4>().0), rest.as_chunks_mut::<4>().0);
}

/// Lays halves, of 2 bytes, across: row `j` becomes column `j` of `panel`, `[steps][16]`.
pub(super) fn halves(rows: &[&[u8]; PANEL], panel: &mut [u8], next: Next) {
    const STEP: usize = 2 * PANEL;
    let rows = rows.map(|row| &row[..panel.len() / PANEL]);
    let (tiles, rest) = panel.as_chunks_mut::<TILE>();
    let done = tiles.len() * BYTES;
    for (tile, out) in tiles.iter_mut().enumerate() {
        next.ask(tile, TILE);
        for half in 0..2 {
            let eight: [Vector; 8] = array::from_fn(|j| load(part(rows[8 * half + j], tile)));
            let eight = turned(turned(turned(eight, zip_halves), zip_halves), zip_halves);
            for (step, vector) in eight.into_iter().enumerate() {
                store(vector, part_mut(&mut out[step * STEP..][..STEP], half));
            }
        }
    }
    one_by_one(rows.map(|row| row[done..].as_chunks::<2>().0), rest.as_chunks_mut::<2>().0);
}

/// Lays bytes across: row `j` becomes column `j` of `panel`, `[steps][16]`.
pub(super) fn bytes(rows: &[&[u8]; PANEL], panel: &mut [u8]) {
    one_by_one(rows.map(|row| &row[..panel.len() / PANEL]), panel);
}

/// What is left of rows, too short for vectors.
fn one_by_one<T: Copy>(rows: [&[T]; PANEL], panel: &mut [T]) {
    for (k, step) in panel.chunks_exact_mut(PANEL).enumerate() {
        for (j, row) in rows.iter().enumerate() {
            step[j] = row[k];
        }
    }
}

/// One step.
#[inline(always)]
fn turned<const N: usize>(vectors: [Vector; N], zip: impl Fn(Vector, Vector) -> [Vector; 2]) -> [Vector; N] {
    let mut turned = vectors;
    for i in 0..N / 2 {
        [turned[2 * i], turned[2 * i + 1]] = zip(vectors[i], vectors[i + N / 2]);
    }
    turned
}

#[inline(always)]
fn part(bytes: &[u8], index: usize) -> &[u8; BYTES] {
    &bytes.as_chunks().0[index]
}

#[inline(always)]
fn part_mut(bytes: &mut [u8], index: usize) -> &mut [u8; BYTES] {
    &mut bytes.as_chunks_mut().0[index]
}

/// Vectors of 16 bytes, which every processor of these kinds has.
#[cfg(target_arch = "x86_64")]
mod vector {
    use std::arch::x86_64::*;

    pub(super) type Vector = __m128i;

    #[inline(always)]
    pub(super) fn load(from: &[u8; 16]) -> Vector {
        // SAFETY: SSE2 is part of x86-64, and 16 bytes are read.
        unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store(vector: Vector, to: &mut [u8; 16]) {
        // SAFETY: SSE2 is part of x86-64, and 16 bytes are written.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    pub(super) fn zip_halves(a: Vector, b: Vector) -> [Vector; 2] {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { [_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)] }
    }

    #[inline(always)]
    pub(super) fn zip_words(a: Vector, b: Vector) -> [Vector; 2] {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { [_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)] }
    }
}

/// As above.
#[cfg(target_arch = "aarch64")]
mod vector {
    use std::arch::aarch64::*;

    pub(super) type Vector = uint16x8_t;

    #[inline(always)]
    pub(super) fn load(from: &[u8; 16]) -> Vector {
        // SAFETY: NEON is part of AArch64, and 16 bytes are read.
        unsafe { vreinterpretq_u16_u8(vld1q_u8(from.as_ptr())) }
    }

    #[inline(always)]
    pub(super) fn store(vector: Vector, to: &mut [u8; 16]) {
        // SAFETY: NEON is part of AArch64, and 16 bytes are written.
        unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_u16(vector)) }
    }

    #[inline(always)]
    pub(super) fn zip_halves(a: Vector, b: Vector) -> [Vector; 2] {
        // SAFETY: NEON is part of AArch64.
        unsafe { [vzip1q_u16(a, b), vzip2q_u16(a, b)] }
    }

    #[inline(always)]
    pub(super) fn zip_words(a: Vector, b: Vector) -> [Vector; 2] {
        // SAFETY: NEON is part of AArch64.
        unsafe {
            let [a, b] = [a, b].map(|vector| vreinterpretq_u32_u16(vector));
            [vreinterpretq_u16_u32(vzip1q_u32(a, b)), vreinterpretq_u16_u32(vzip2q_u32(a, b))]
        }
    }
}

/// The same in plain numbers.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod vector {
    pub(super) type Vector = [u8; 16];

    pub(super) fn load(from: &[u8; 16]) -> Vector {
        *from
    }

    pub(super) fn store(vector: Vector, to: &mut [u8; 16]) {
        *to = vector;
    }

    pub(super) fn zip_halves(a: Vector, b: Vector) -> [Vector; 2] {
        zip::<2>(a, b)
    }

    pub(super) fn zip_words(a: Vector, b: Vector) -> [Vector; 2] {
        zip::<4>(a, b)
    }

    fn zip<const LEN: usize>(a: Vector, b: Vector) -> [Vector; 2] {
        let of = |byte: usize| {
            let (element, byte) = (byte / LEN, byte % LEN);
            [a, b][element % 2][element / 2 * LEN + byte]
        };
        [std::array::from_fn(of), std::array::from_fn(|byte| of(byte + 16))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_become_columns_whatever_their_length(
            k in 1usize..40,
            at in 0usize..3,
            seed in prop::collection::vec(any::<u8>(), 16 * 43 * 4),
        ) {
            let mut rows = [&seed[..]; PANEL];
            rows.iter_mut().zip(seed.chunks_exact(43 * 4)).for_each(|(to, row)| *to = row);
            let next = Next::behind(&seed);
            let columns = |at: usize, len: usize| -> Vec<u8> {
                (0..k).flat_map(|i| rows.map(|row| &row[at + len * i..][..len]).concat()).collect()
            };
            let mut panel = vec![0; k * PANEL];
            bytes(&rows, &mut panel);
            prop_assert_eq!(&panel, &columns(0, 1));
            let mut panel = vec![0; k * PANEL * 2];
            halves(&rows, &mut panel, next);
            prop_assert_eq!(&panel, &columns(0, 2));
            let mut panel = vec![0; k * PANEL * 4];
            words(&rows, &mut panel, next);
            prop_assert_eq!(&panel, &columns(0, 4));
            words_at(&rows, at, &mut panel);
            prop_assert_eq!(&panel, &columns(at, 4));
        }
    }
}
