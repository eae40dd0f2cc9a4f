//! What products keep between calls, so that a warm one allocates nothing: prepared inputs and each member's work area.

use super::ahead::Order;
use super::gated::NEAR;
use super::int8::{Opened, Sums};
use super::int16::{self, Rows};
use super::matrix::{PackedMatrix, Unpacked};
use super::panels::{Layout, Numbers};
use super::product::AREA;
use super::quantise::{Quantised, QuantisedMut, QuantisedSlices, WordsMut};
use super::tile::Tiles;
use super::{PANEL, cell, float, int8};
use crate::isa::Isa;
use crate::prefetch::LINE;
use crate::team::{Member, share_of};
use bytemuck::Pod;
use crossbeam::utils::CachePadded;
use nxd_ops::weight::InputSpan;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Work space of [`linears`](super::linears), reused from call to call. It grows to the largest product and never shrinks.
#[derive(Default)]
pub struct Scratch {
    /// The prepared inputs of the running call; those behind `used` are left from earlier calls.
    pub(super) inputs: Vec<Prepared>,
    pub(super) jobs: Vec<Job>,
    /// How far each member's share is handed out.
    pub(super) turns: Vec<Turns>,
    /// Each member's work area: a dequantised chunk of a panel, and the results of a panel that is not full.
    pub(super) areas: Buffer<PanelRow>,
    /// Each member's results of two products that meet.
    pub(super) near: Buffer<PanelRow>,
    /// Each member's widened rows of a tile.
    pub(super) wide: Buffer<f32>,
    /// Which matrix was read after which.
    pub(super) order: Order,
}

/// Bytes that a [`Scratch`] grows to at most on `threads` threads, where the inputs of a call have up to `prepared` values, rows of gated
/// products are up to `near_rows`, and those of a cut weight are widened to `widened` columns.
pub(crate) fn scratch_bytes(threads: usize, prepared: usize, near_rows: usize, widened: usize) -> usize {
    /// Four bytes of a float; or one of an integer, two of its wide form, and less than one of the factors of its block.
    const PREPARED_BYTES: usize = 4;
    /// Rows of a tile are fewer for every instruction set.
    const TILE_ROWS: usize = 32;
    let near = if near_rows > 0 { near_rows.max(NEAR).saturating_mul(2) } else { 0 };
    let areas = near.saturating_add(AREA).saturating_mul(size_of::<PanelRow>());
    let wide = widened.saturating_mul(TILE_ROWS * size_of::<f32>());
    let of_members = areas.saturating_add(wide).saturating_mul(threads);
    prepared.saturating_mul(PREPARED_BYTES).saturating_add(of_members)
}

impl Scratch {
    /// Empty scratch: the first products make it as large as they need.
    pub fn new() -> Self {
        Self::default()
    }
}

/// One product of a call.
pub(super) struct Job {
    pub(super) out: *mut f32,
    /// From one row of the output to the next.
    pub(super) stride: usize,
    /// Index of its prepared input.
    pub(super) input: usize,
    /// Bytes of the panels of the products before it.
    pub(super) before: usize,
    /// What its panels are read from while they are not packed.
    pub(super) unpacked: Option<Arc<Unpacked>>,
}

impl Job {
    /// Whether none of the `earlier` jobs takes the same input.
    pub(super) fn is_first(&self, earlier: &[Job]) -> bool {
        earlier.iter().all(|job| job.input != self.input)
    }
}

// SAFETY: the members write disjoint panels of what `out` points at, which `linears` borrows while they run.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

/// How far a share is handed out.
#[derive(Default)]
pub(super) struct Turns(CachePadded<AtomicUsize>);

/// Panels that are taken together: as many as a kernel meets at once.
const TOGETHER: usize = 4;

impl Turns {
    /// Nothing is handed out.
    pub(super) fn restart(&mut self) {
        *self.0.get_mut() = 0;
    }

    /// Takes the first part of what is left of a share of `len`, so many quarters of it: large parts cost little, and the last ones are small.
    pub(super) fn take(&self, len: usize, quarters: usize) -> Option<Range<usize>> {
        let mut start = self.0.load(Ordering::Relaxed);
        while start < len {
            let left = len - start;
            let end = start + (left * quarters / 4).next_multiple_of(TOGETHER).clamp(TOGETHER.min(left), left);
            // Relaxed: the number alone is shared; the job's start and end publish the data.
            match self.0.compare_exchange_weak(start, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(start..end),
                Err(now) => start = now,
            }
        }
        None
    }
}

/// 16 values of a panel in one cache line.
pub(super) use crate::floats::Line as PanelRow;
const _: () = assert!(size_of::<PanelRow>() == PANEL * size_of::<f32>());

/// Values between two members' copies of a row, so that no line of what is kept of them is written by both. Of 32 values some arrays have
/// no more than 4 bytes, and two lines of those are enough wherever an array begins. To share lines took quantisation three times as long.
const APART: usize = 2 * LINE / size_of::<f32>() * cell::CELL;

/// The rows of a call as one kind of kernel reads them: tiles of rows, one after the other.
#[derive(Default)]
pub(super) struct Prepared {
    numbers: Numbers,
    cols: usize,
    /// One for each member where there is a single row: preparing it again is cheaper than meeting.
    copies: usize,
    rows: usize,
    /// How the rows are cut.
    tiles: Tiles,
    /// f32 tiles, `[k][rows]` each.
    floats: Buffer<f32>,
    /// The parts of quantised tiles; see [`Quantised`].
    quants: Buffer<i8>,
    scales: Buffer<f32>,
    minus_sums: Buffer<i32>,
    minus_half_sums: Buffer<i32>,
    weighted: Buffer<f32>,
    half_weighted: Buffer<f32>,
    /// Which sums of integers of 8 bits are kept.
    sums: Sums,
    /// Tiles of integers of 16 bits, `[k/2][rows][2]` each, whose scales are among those above.
    words: Buffer<i16>,
}

/// Whether one prepared input serves both.
pub(super) fn same_input(a: &PackedMatrix, b: &PackedMatrix) -> bool {
    a.numbers() == b.numbers() && a.cols() == b.cols() && a.input() == b.input()
}

impl Prepared {
    /// Makes room for `rows` rows of `weight`'s input, which so far [serves](Self::serve) no weight.
    pub(super) fn reserve(&mut self, isa: Isa, weight: &PackedMatrix, rows: usize, copies: usize) {
        (self.numbers, self.cols, self.rows, self.copies) = (weight.numbers(), weight.cols(), rows, copies);
        self.sums = Sums::None;
        let most_rows = match (self.numbers, weight.layout()) {
            (Numbers::F32, _) => float::most_rows(isa),
            (Numbers::Int8, Layout::Cells(cell)) => int8::tile_rows(isa, cell, rows),
            (Numbers::Int8, _) => unreachable!("integers of 8 bits are in cells"),
            (Numbers::Int16, _) => int16::tile_rows(isa, rows),
        };
        self.tiles = Tiles::new(rows, most_rows);
        let values = copies * self.copy_values();
        match self.numbers {
            Numbers::F32 => self.floats.reserve(values),
            Numbers::Int16 => {
                self.words.reserve(values);
                self.scales.reserve(values / cell::CELL);
            }
            Numbers::Int8 => {
                self.quants.reserve(values);
                self.scales.reserve(values / cell::CELL);
                self.minus_sums.reserve(values / cell::CELL);
                self.minus_half_sums.reserve(values / cell::CELL * 2);
                self.weighted.reserve(values / cell::CELL);
                self.half_weighted.reserve(values / cell::CELL * 2);
            }
        }
    }

    /// Keeps what kernels read beside `weight`.
    pub(super) fn serve(&mut self, isa: Isa, weight: &PackedMatrix) {
        if let Layout::Cells(cell) = weight.layout() {
            self.sums = self.sums.max(int8::sums(isa, cell));
        }
    }

    /// How the cells of `weight` are opened for these rows.
    pub(super) fn opened_for(&self, isa: Isa, weight: &PackedMatrix) -> Option<Opened> {
        match weight.layout() {
            Layout::Cells(cell) if self.numbers == Numbers::Int8 => int8::opened_for(isa, cell, self.tiles.most()),
            _ => None,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// How the rows are cut.
    pub(super) fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// From one copy to the next.
    fn copy_values(&self) -> usize {
        let values = self.rows * self.cols;
        if self.copies > 1 { values.next_multiple_of(cell::CELL) + APART } else { values }
    }

    fn values(&self, copy: usize, rows: &Range<usize>) -> Range<usize> {
        assert!(copy < self.copies && rows.end <= self.rows, "rows {rows:?} of copy {copy}");
        let start = copy * self.copy_values();
        start + rows.start * self.cols..start + rows.end * self.cols
    }

    /// The columns `cols` of a tile.
    fn part(&self, copy: usize, rows: &Range<usize>, cols: &Range<usize>) -> Range<usize> {
        let start = self.values(copy, rows).start;
        start + cols.start * rows.len()..start + cols.end * rows.len()
    }

    /// Prepares this member's part of `x`, `[rows, width]`: tiles, or some columns of one where there are more members than tiles, or
    /// everything where each member has its own copy.
    ///
    /// # Safety
    /// Every member calls it once between two meetings, on an input that is reserved for it; `wide` is the member's own; the CPU has
    /// the instructions of `isa`.
    pub(super) unsafe fn fill(
        &self,
        member: &Member<'_>,
        isa: Isa,
        x: &[f32],
        spans: Option<&[InputSpan]>,
        wide: &mut [f32],
    ) {
        let (tiles, width) = (self.tiles(), x.len() / self.rows);
        let own = self.copies > 1;
        let parts = if own { 1 } else { member.threads.div_ceil(tiles.count()) };
        let (copy, mine) = if own { (member.id, 0..tiles.count()) } else { (0, member.share(tiles.count() * parts)) };
        for part in mine {
            let rows = tiles.rows(part / parts);
            let cells = share_of(part % parts, parts, self.cols.div_ceil(cell::CELL));
            let [start, end] = [cells.start, cells.end].map(|border| self.cols.min(border * cell::CELL));
            let cols = start..end;
            let mut input = &x[rows.start * width..rows.end * width];
            if let Some(spans) = spans {
                for (row, wide) in input.chunks_exact(width).zip(wide.chunks_exact_mut(self.cols)) {
                    widen(row, spans, wide);
                }
                input = &wide[..rows.len() * self.cols];
            }
            // SAFETY: the member's own part; the instructions by the caller's duties.
            unsafe { self.lay(isa, copy, &rows, &cols, input) };
        }
    }

    /// Writes the columns `cols` of a tile, whole cells or the last ones, of the rows `input`.
    ///
    /// # Safety
    /// Nobody else uses these columns of the tile; the CPU has the instructions of `isa`.
    unsafe fn lay(&self, isa: Isa, copy: usize, rows: &Range<usize>, cols: &Range<usize>, input: &[f32]) {
        let (values, stride) = (self.part(copy, rows, cols), input.len() / rows.len());
        let input = &input[cols.start..];
        // SAFETY: the columns are the caller's.
        unsafe {
            match self.numbers {
                Numbers::F32 => {
                    // A few steps of all rows at a time, which stay in the nearest cache.
                    const STEPS: usize = 16;
                    let out = self.floats.write(values);
                    for (part, out) in out.chunks_mut(STEPS * rows.len()).enumerate() {
                        for (row, input) in input.chunks(stride).take(rows.len()).enumerate() {
                            let input = &input[part * STEPS..];
                            out[row..].iter_mut().step_by(rows.len()).zip(input).for_each(|(out, &x)| *out = x);
                        }
                    }
                }
                Numbers::Int16 => {
                    let scales = self.scales.write(values.start / cell::CELL..values.end / cell::CELL);
                    let mut tile = WordsMut { rows: rows.len(), words: self.words.write(values), scales };
                    super::quantise::quantise_words(isa, input, stride, &mut tile);
                }
                Numbers::Int8 => {
                    let blocks = values.start / cell::CELL..values.end / cell::CELL;
                    let mut tile = QuantisedMut {
                        rows: rows.len(),
                        sums: self.sums,
                        minus_half_sums: self.minus_half_sums.write(blocks.start * 2..blocks.end * 2),
                        weighted: self.weighted.write(blocks.clone()),
                        half_weighted: self.half_weighted.write(blocks.start * 2..blocks.end * 2),
                        minus_sums: self.minus_sums.write(blocks.clone()),
                        scales: self.scales.write(blocks),
                        quants: self.quants.write(values),
                    };
                    super::quantise::quantise(isa, input, stride, &mut tile);
                }
            }
        }
    }

    /// A tile of f32 rows, `[k][rows]`.
    ///
    /// # Safety
    /// The tile was filled before the last meeting, or by this member.
    pub(super) unsafe fn floats(&self, copy: usize, rows: &Range<usize>) -> &[f32] {
        // SAFETY: nobody writes prepared rows any more.
        unsafe { self.floats.read(self.values(copy, rows)) }
    }

    /// A tile of rows of integers of 16 bits, but for its values of K outside `steps`, which are whole cells.
    ///
    /// # Safety
    /// The tile was filled before the last meeting, or by this member.
    pub(super) unsafe fn words(&self, copy: usize, rows: &Range<usize>, steps: &Range<usize>) -> Rows<'_> {
        let values = self.part(copy, rows, steps);
        // SAFETY: nobody writes prepared rows any more.
        unsafe {
            let scales = self.scales.read(values.start / cell::CELL..values.end / cell::CELL);
            Rows { rows: rows.len(), words: self.words.read(values), scales }
        }
    }

    /// All rows as integers of 8 bits; `None` where the input is prepared otherwise.
    ///
    /// # Safety
    /// They were filled before the last meeting, or by this member.
    pub(super) unsafe fn quantised(&self, copy: usize) -> Option<Quantised<'_>> {
        if self.numbers != Numbers::Int8 {
            return None;
        }
        let values = self.values(copy, &(0..self.rows));
        let blocks = values.start / cell::CELL..values.end / cell::CELL;
        // SAFETY: nobody writes prepared rows any more.
        let slices = unsafe {
            QuantisedSlices {
                minus_half_sums: self.minus_half_sums.read(blocks.start * 2..blocks.end * 2),
                weighted: self.weighted.read(blocks.clone()),
                half_weighted: self.half_weighted.read(blocks.start * 2..blocks.end * 2),
                minus_sums: self.minus_sums.read(blocks.clone()),
                scales: self.scales.read(blocks),
                quants: self.quants.read(values),
            }
        };
        Some(Quantised::new(self.rows, self.cols / cell::CELL, &slices))
    }
}

/// Lays a rank's own columns into the input that its cut weight expects; all others are zero.
fn widen(input: &[f32], spans: &[InputSpan], wide: &mut [f32]) {
    wide.fill(0.0);
    for span in spans {
        wide[span.to..span.to + span.len].copy_from_slice(&input[span.from..span.from + span.len]);
    }
}

/// Memory that members write at once, each its own part; it begins with a cache line. Bounds are checked, overlap is not: the duties are
/// those of [`Disjoint`](crate::team::Disjoint), which cannot be kept between calls.
#[derive(Default)]
pub(super) struct Buffer<T>(Vec<UnsafeCell<PanelRow>>, PhantomData<T>);

// SAFETY: members get `&mut T` and `&T` of an element at different times, by the duties above.
unsafe impl<T: Send + Sync> Sync for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// Elements of a line.
    const EACH: usize = size_of::<PanelRow>() / size_of::<T>();

    /// Makes room for `len` elements.
    pub(super) fn reserve(&mut self, len: usize) {
        let lines = len.div_ceil(Self::EACH);
        if self.0.len() < lines {
            self.0.resize_with(lines, UnsafeCell::default);
        }
    }

    /// Where some elements begin.
    fn start(&self, range: &Range<usize>) -> *mut T {
        assert!(
            range.start <= range.end && range.end <= self.0.len() * Self::EACH,
            "elements {range:?} of {}",
            self.0.len() * Self::EACH
        );
        UnsafeCell::raw_get(self.0.as_ptr()).cast::<T>().wrapping_add(range.start)
    }

    /// # Safety
    /// Nobody else uses these elements meanwhile.
    #[allow(clippy::mut_from_ref, reason = "members share `self`; that their ranges differ is the caller's duty")]
    pub(super) unsafe fn write(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: the elements lie in a row, any bits are values of them, and nobody else uses them, by the caller's duties.
        unsafe { std::slice::from_raw_parts_mut(self.start(&range), range.len()) }
    }

    /// # Safety
    /// Nobody writes these elements meanwhile.
    pub(super) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        // SAFETY: the elements lie in a row, any bits are values of them, and nobody writes them, by the caller's duties.
        unsafe { std::slice::from_raw_parts(self.start(&range), range.len()) }
    }
}

#[cfg(test)]
impl Scratch {
    /// Where the memory lies and how large it is: the same before and after a call that allocates nothing.
    pub(super) fn memory(&self) -> Vec<(usize, usize)> {
        fn of<T>(buffer: &Buffer<T>) -> (usize, usize) {
            (buffer.0.as_ptr().addr(), buffer.0.capacity())
        }
        let lists =
            [(self.inputs.as_ptr().addr(), self.inputs.capacity()), (self.jobs.as_ptr().addr(), self.jobs.capacity())];
        let inputs = self.inputs.iter().flat_map(|i| {
            [
                of(&i.floats),
                of(&i.quants),
                of(&i.scales),
                of(&i.minus_sums),
                of(&i.minus_half_sums),
                of(&i.weighted),
                of(&i.half_weighted),
                of(&i.words),
            ]
        });
        lists.into_iter().chain([of(&self.areas), of(&self.near), of(&self.wide)]).chain(inputs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_handed_out_once_in_order_and_ever_smaller() {
        for len in [0, 1, 3, 4, 5, 30, 1000] {
            let mut turns = Turns::default();
            for quarters in [2, 3] {
                let parts: Vec<_> = std::iter::from_fn(|| turns.take(len, quarters)).collect();
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
                assert!(parts.is_sorted_by(|a, b| a.len() >= b.len()), "{parts:?}");
                let small = if quarters == 2 { TOGETHER } else { 3 * TOGETHER };
                assert!(parts.last().is_none_or(|last| last.len() <= small), "{parts:?}");
                turns.restart();
            }
        }
    }

    #[test]
    fn members_copies_of_a_row_share_no_line_of_any_array() {
        for cols in [1, 32, 576, 8192] {
            let input = Prepared { cols, rows: 1, copies: 3, ..Prepared::default() };
            let row = |copy| input.values(copy, &(0..1));
            for copy in 0..2 {
                // Four bytes of a block are the least that an array has.
                let scales = |value: usize| value / cell::CELL * 4;
                assert!(scales(row(copy + 1).start) - scales(row(copy).end) >= 2 * LINE, "{cols} columns");
            }
            assert!(row(2).end <= input.copies * input.copy_values());
        }
    }

    #[test]
    fn members_that_take_at_once_never_take_the_same() {
        let turns = Turns::default();
        let taken: Vec<usize> = std::thread::scope(|scope| {
            let take = || std::iter::from_fn(|| turns.take(10_000, 2)).flatten().collect::<Vec<_>>();
            let members: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            members.into_iter().flat_map(|member| member.join().unwrap()).collect()
        });
        let mut sorted = taken;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..10_000));
    }
}
