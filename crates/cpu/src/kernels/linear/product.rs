//! One member's part of one product: tiles of rows times panels of weights.

use super::PANEL;
use super::ahead::{AHEAD, Ahead, FLOATS_AHEAD, WORDS_AHEAD};
use super::cell::{CELL, Cell};
use super::dequantise::dequantise;
use super::float::{self, Element, Runs, Weights};
use super::int8::{self, Cells, Opened, Tiled};
use super::int16::{self, Words};
use super::matrix::{PackedMatrix, Unpacked};
use super::panels::{Layout, Numbers, Packer, SCALES};
use super::quantise::Quantised;
use super::scratch::{PanelRow, Prepared};
use super::tile::Target;
use crate::isa::Isa;
use std::ops::Range;

/// Rows whose tiles pass over a panel before the next panel: their part of the input stays in the second-level cache.
pub(super) const PASS: usize = 256;

/// Panel rows that a member works with: a dequantised chunk of a panel (or an opened one, which [`Product::chunk`] keeps as small), and
/// the results of a panel that is not full. Behind them is a panel that is not packed yet, where there is one.
pub(super) const AREA: usize = float::CHUNK + PASS;

/// Where results go: those of row `row` and panel `panel` are at `start`, a row's `stride` values from the next one's.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: *mut f32,
    pub(super) stride: usize,
    pub(super) row: usize,
    pub(super) panel: usize,
    /// Panels before this one have room for all their outputs.
    pub(super) full: usize,
}

impl Place {
    /// # Safety
    /// The place has this row and panel.
    unsafe fn at(&self, row: usize, panel: usize) -> *mut f32 {
        // SAFETY: by the caller's duties.
        unsafe { self.start.add((row - self.row) * self.stride + (panel - self.panel) * PANEL) }
    }
}

/// Neighbouring panels, of a share that ends before `last`.
pub(super) struct Part {
    pub(super) panels: Range<usize>,
    pub(super) last: usize,
}

/// One member's part of one product.
pub(super) struct Product<'a> {
    pub(super) isa: Isa,
    pub(super) weight: &'a PackedMatrix,
    pub(super) input: &'a Prepared,
    pub(super) quantised: Option<Quantised<'a>>,
    /// The whole output, `[rows, N]`, and how far its rows are apart.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) copy: usize,
    /// Where panels come from that are not packed.
    pub(super) unpacked: Option<&'a Unpacked>,
}

/// `len` values of K from `start` on, of `count` neighbouring panels, for so many tiles; the share's last panel is before `last`.
struct Piece {
    tiles: usize,
    panel: usize,
    count: usize,
    last: usize,
    start: usize,
    len: usize,
}

/// The weights of a piece as a kernel takes them.
#[derive(Clone, Copy)]
enum Taken<'a> {
    Floats(Weights<'a>),
    Runs(Weights<'a>, Runs<'a>),
    Cells(Cells<'a>),
    Words(Words<'a>),
}

impl Taken<'_> {
    /// The same for a tile that comes so many tiles later.
    fn after(self, tiles: usize) -> Self {
        match self {
            Taken::Floats(weights) => Taken::Floats(weights.after(tiles)),
            Taken::Runs(weights, runs) => Taken::Runs(weights.after(tiles), runs),
            Taken::Cells(cells) => Taken::Cells(cells.after(tiles)),
            Taken::Words(words) => Taken::Words(words.after(tiles)),
        }
    }
}

impl Product<'_> {
    /// The passes that begin in `rows`, of `part`.
    ///
    /// # Safety
    /// As [`Product::pass`].
    pub(super) unsafe fn run(&self, rows: &Range<usize>, part: &Part, place: Place, area: &mut [PanelRow]) {
        for pass in self.passes().filter(|pass| rows.contains(&self.rows(pass).start)) {
            // SAFETY: by the caller's duties.
            unsafe { self.pass(&pass, part, place, area) };
        }
    }

    /// Its output, where results go unless they meet others first.
    pub(super) fn place(&self) -> Place {
        let n = self.weight.rows();
        Place { start: self.out, stride: self.stride, row: 0, panel: 0, full: n / PANEL }
    }

    /// The tiles, in groups whose part of the input stays in the second-level cache.
    pub(super) fn passes(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        self.input.tiles().passes(PASS)
    }

    /// The rows of the tiles `pass`.
    pub(super) fn rows(&self, pass: &Range<usize>) -> Range<usize> {
        let tiles = self.input.tiles();
        tiles.rows(pass.start).start..tiles.rows(pass.end - 1).end
    }

    /// The rows of the tiles `pass`, of `part`.
    ///
    /// # Safety
    /// `place` has these rows of `part` and nobody else uses them; the input is filled; the CPU has the instructions of `isa`.
    unsafe fn pass(&self, pass: &Range<usize>, part: &Part, place: Place, area: &mut [PanelRow]) {
        let panels = &part.panels;
        let (opened, area) = area.split_at_mut(float::CHUNK);
        let (ragged, passing) = area.split_at_mut(PASS);
        let mut packer = self.unpacked.map(|unpacked| Packer::new(self.weight.form(), &unpacked.weight, panels));
        let (tiles, k) = (self.input.tiles(), self.weight.cols());
        let (chunk, whole) = (self.chunk(), self.is_whole(pass));
        let of_full = panels.end.min(place.full);
        let first_row = tiles.rows(pass.start).start;
        let mut start = 0;
        while start < k {
            let end = if whole { k } else { self.chunk_end(start, chunk) };
            let mut panel = panels.start;
            while panel < panels.end {
                let count = self.panels_at_once(of_full.saturating_sub(panel));
                let bytes = count * self.weight.panel_bytes();
                let packed = match &mut packer {
                    None => &self.weight.data()[panel * self.weight.panel_bytes()..][..bytes],
                    Some(packer) => {
                        let passing = &mut bytemuck::cast_slice_mut(passing)[..bytes];
                        packer.pack(panel, passing);
                        passing
                    }
                };
                let ragged = ragged.as_mut_ptr();
                // SAFETY: the columns are this member's, and results of a panel that is not full go to its own area.
                let target = |rows: &Range<usize>| unsafe {
                    if panel < place.full {
                        Target::new(place.at(rows.start, panel), place.stride)
                    } else {
                        Target::new(ragged.add(rows.start - first_row).cast(), PANEL)
                    }
                };
                let mut from = start;
                while from < end {
                    let len = self.chunk_end(from, chunk) - from;
                    let piece = Piece { tiles: pass.len(), panel, count, last: part.last, start: from, len };
                    // SAFETY: the instructions by the caller's duties.
                    let mut taken = unsafe { self.take(&piece, packed, opened) };
                    for alike in tiles.alike(pass) {
                        let count = alike.len();
                        // SAFETY: by the caller's duties, and those of the targets.
                        unsafe { self.multiply(&piece, taken, alike, target) };
                        taken = taken.after(count);
                    }
                    from += len;
                }
                panel += count;
            }
            start = end;
        }
        if panels.contains(&place.full) {
            for (row, sums) in self.rows(pass).zip(&*ragged) {
                let real = self.weight.rows() % PANEL;
                // SAFETY: the real columns of the last panel, which is this member's.
                unsafe { place.at(row, place.full).copy_from_nonoverlapping(sums.0.as_ptr(), real) };
            }
        }
    }

    /// Whether all chunks of a panel are done before the next panel, so that it is packed once, or read from end to end by the tiles `pass`:
    /// the results of few stay near meanwhile.
    fn is_whole(&self, pass: &Range<usize>) -> bool {
        let tiled = self.isa == Isa::Amx && self.weight.numbers() == Numbers::Int8;
        self.unpacked.is_some() || pass.len() < int8::MANY_TILES && (tiled || self.opened_for().is_some())
    }

    /// How cells are opened, if they are.
    fn opened_for(&self) -> Option<Opened> {
        self.input.opened_for(self.isa, self.weight)
    }

    /// Steps of K that all tiles of a pass meet before the next ones: what is read of a panel for them stays in the first-level cache.
    fn chunk(&self) -> usize {
        let alone = self.unpacked.is_some() || self.input.tiles().count() == 1;
        // As even as can be.
        let each = |all: usize, most: usize| all.div_ceil(all.div_ceil(most));
        let (cols, cells) = (self.weight.cols(), self.weight.cols() / CELL);
        match (self.weight.layout(), self.weight.numbers()) {
            (Layout::Cells(cell), Numbers::F32) => float::CHUNK / (cell.block * CELL) * (cell.block * CELL),
            _ if alone && self.opened_for().is_none() => cols,
            (Layout::Float(element), _) => each(cols, float::chunk(self.isa, element)),
            (Layout::Cells(cell), _) => {
                each(cells, int8::chunk(self.isa, cell) / CELL).next_multiple_of(cell.block) * CELL
            }
            (Layout::Words(_), _) => each(cells, int16::chunk(self.isa) / CELL) * CELL,
        }
    }

    /// Where the chunk of K that begins at `start` ends.
    fn chunk_end(&self, start: usize, chunk: usize) -> usize {
        let most = chunk.min(self.weight.cols() - start);
        match self.weight.layout() {
            Layout::Float(element) if element.is_scaled() => float::end_of_runs(self.weight.runs(), start, most),
            _ => start + most,
        }
    }

    /// How many panels a tile meets in one call, where `left` full ones are left.
    fn panels_at_once(&self, left: usize) -> usize {
        let or_one = |some: usize| if some <= left { some } else { 1 };
        match (self.weight.layout(), self.weight.numbers()) {
            _ if self.unpacked.is_some() => 1,
            (Layout::Float(_), _) => or_one(float::panels_at_once(self.isa, self.input.rows())),
            (Layout::Words(_), _) => match self.input.tiles().count() {
                1 => left.max(1),
                tiles => left.min(int16::panels_of_tiles(self.isa, tiles)).max(1),
            },
            (Layout::Cells(_), Numbers::Int8) if self.opened_for().is_none() => {
                let most = if self.input.tiles().count() == 1 { left } else { int8::panels_at_once(self.isa) };
                left.min(most).max(1)
            }
            _ => 1,
        }
    }

    /// The weights of a piece of which the panels are `packed`.
    ///
    /// # Safety
    /// The CPU has the instructions of `isa`.
    unsafe fn take<'t>(&'t self, piece: &Piece, panels: &'t [u8], opened: &'t mut [PanelRow]) -> Taken<'t> {
        let panel_bytes = self.weight.panel_bytes();
        let (scales, numbers) = (panels, &panels[self.weight.form().scale_bytes..]);
        // Several panels are taken whole.
        let cells = |cell: Cell| {
            let before = (piece.count - 1) * panel_bytes;
            &numbers[piece.start / CELL * cell.bytes()..][..before + piece.len / CELL * cell.bytes()]
        };
        let left = match self.unpacked {
            None => (piece.last - piece.panel).saturating_sub(piece.count) * panel_bytes,
            Some(_) => 0,
        };
        // Several tiles ask for the next panel. Nobody asks for another member's.
        let ahead = |bytes: &[u8], distance: usize, step: usize, steps: usize| match (left, piece.tiles) {
            (0, 1) if piece.count == 1 => Ahead::nothing(bytes),
            (_, 1) => Ahead::of_one(bytes, distance.min(left + (piece.count - 1) * panel_bytes), step),
            (0, _) => Ahead::nothing(bytes),
            (_, tiles) => Ahead::of_many(bytes, piece.count * panel_bytes, step, steps, tiles),
        };
        let last = piece.start + piece.len == self.weight.cols();
        match (self.weight.layout(), self.weight.numbers()) {
            (Layout::Words(element), _) => {
                let bytes = &numbers[piece.start * PANEL * element.bytes()..];
                Taken::Words(Words {
                    bytes,
                    panel_bytes,
                    panels: piece.count,
                    left,
                    several: piece.tiles > 1,
                    ahead: ahead(bytes, WORDS_AHEAD, int16::PAIR, piece.len / 2),
                    scales: last.then_some(scales),
                })
            }
            (Layout::Float(element), _) => {
                let bytes = &numbers[piece.start * PANEL * element.bytes()..];
                let ahead = ahead(bytes, FLOATS_AHEAD, PANEL * element.bytes(), piece.len);
                let weights =
                    Weights { bytes, element, panel_bytes, panels: piece.count, ahead, scales: None, sums: false };
                if element.is_scaled() {
                    Taken::Runs(weights, Runs { ends: self.weight.runs(), start: piece.start, scales })
                } else {
                    Taken::Floats(weights)
                }
            }
            (Layout::Cells(cell), Numbers::F32) => {
                let values = &mut opened[..piece.len];
                let scales = if cell.has_factors() { &[0.0; PANEL] } else { bytemuck::from_bytes(&scales[..SCALES]) };
                // SAFETY: by the caller's duties.
                unsafe { dequantise(self.isa, cell, scales, cells(cell), bytemuck::cast_slice_mut(values)) };
                let (bytes, element) = (bytemuck::cast_slice(values), Element::F32);
                Taken::Floats(Weights {
                    bytes,
                    element,
                    panel_bytes: bytes.len(),
                    panels: 1,
                    ahead: Ahead::nothing(bytes),
                    scales: None,
                    sums: false,
                })
            }
            (Layout::Cells(cell), _) => {
                let packed = cells(cell);
                let ahead = ahead(packed, AHEAD, cell.bytes(), piece.len / CELL);
                let opened_for = self.opened_for();
                let bytes = match opened_for {
                    None => packed,
                    // SAFETY: by the caller's duties.
                    Some(_) => unsafe { int8::open(self.isa, cell, packed, bytemuck::cast_slice_mut(opened)) },
                };
                Taken::Cells(Cells {
                    cell,
                    bytes,
                    blocks: piece.len / (CELL * cell.block),
                    panels: piece.count,
                    panel_bytes,
                    scales: (last && !cell.has_factors()).then_some(scales),
                    left,
                    opened: opened_for,
                    ahead,
                })
            }
        }
    }

    /// Multiplies tiles of as many rows each; the results of some rows go to their `target`.
    ///
    /// # Safety
    /// A target has its rows and as many panels as the piece, and those of other rows are above and below; the input is filled; the CPU has
    /// the instructions of `isa`.
    unsafe fn multiply(
        &self,
        piece: &Piece,
        taken: Taken<'_>,
        alike: Range<usize>,
        target: impl Fn(&Range<usize>) -> Target,
    ) {
        let (first, cols) = (piece.start == 0, piece.start..piece.start + piece.len);
        let tiles = self.input.tiles();
        // SAFETY: by the caller's duties.
        unsafe {
            if let Taken::Cells(cells) = taken {
                let quantised = self.quantised.as_ref().expect("cells are multiplied with a quantised input");
                let rows = tiles.rows(alike.start);
                let quantised = quantised.alike(&rows, alike.len(), piece.start / CELL, piece.len / CELL);
                return int8::multiply(self.isa, cells, Tiled { quantised, out: target(&rows) }, first);
            }
            let floats = |rows: &Range<usize>| {
                &self.input.floats(self.copy, rows)[cols.start * rows.len()..cols.end * rows.len()]
            };
            let mut taken = taken;
            for tile in alike.clone() {
                let (rows, out) = (tiles.rows(tile), target(&tiles.rows(tile)));
                if tile + 1 < alike.end {
                    out.below(rows.len()).ask(0..rows.len(), piece.count);
                }
                match taken {
                    Taken::Floats(weights) => {
                        float::multiply(self.isa, weights, floats(&rows), rows.len(), out, first);
                    }
                    Taken::Runs(weights, runs) => {
                        float::multiply_runs(self.isa, weights, runs, floats(&rows), rows.len(), out);
                    }
                    Taken::Words(weights) => {
                        int16::multiply(self.isa, weights, self.input.words(self.copy, &rows, &cols), out, first);
                    }
                    Taken::Cells(_) => unreachable!("they were multiplied above"),
                }
                taken = taken.after(1);
            }
        }
    }
}
