//! One rank's part of a stored weight.

use super::manifest::{Role, WeightSpec};
use super::shard::{Dim, Segment, Sharding};
use super::source::{Scales, SharedBytes, SourceError, StoredData, StoredWeight};
use crate::format::Format;
use crate::quant;
use nxd_collectives::Axis;
use std::ops::Range;

/// `len` columns of a layer's input that a cut weight multiplies, and where they lie in the input that the weight expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputSpan {
    /// First column in the rank's own input.
    pub from: usize,
    /// First column in the widened input; columns that no span covers are zero.
    pub to: usize,
    /// How many columns.
    pub len: usize,
}

/// Neighbouring columns of a rank's part that share a scale in every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleRun {
    /// How many columns.
    pub len: usize,
    /// One of the columns of the whole weight that they are.
    col: usize,
}

/// One rank's part of a stored weight, evaluated row by row.
///
/// Rows are cut anywhere. Columns of a block format are cut between blocks only: a block on a border belongs to both ranks, and
/// [`LocalWeight::input`] says how to widen the input with zeros so that each rank adds its own columns and no others. Groups of
/// [`Scales`] are no such blocks: they may be cut anywhere, and a part has as many [runs](LocalWeight::scale_runs) of columns as it meets.
/// Columns that are stored in another order (act order) are so many spans of the input; a part of them has every block that one is in.
#[derive(Clone, Debug)]
pub struct LocalWeight {
    stored: StoredWeight,
    row_bytes: usize,
    rows: Vec<Segment>,
    /// Pieces of a stored row in bytes; zeros are pieces without data.
    pieces: Vec<Segment>,
    num_rows: usize,
    cols: usize,
    input: Option<Vec<InputSpan>>,
    scale_runs: Vec<ScaleRun>,
}

impl LocalWeight {
    /// Checks `stored` against `spec` and cuts it for `rank` (its index along the spec's axis).
    ///
    /// # Errors
    /// When shape, format or length do not fit; the error names file and tensor.
    pub fn new(spec: &WeightSpec, stored: StoredWeight, rank: usize) -> Result<Self, SourceError> {
        let [rows, cols] = spec.shape;
        let [stored_rows, stored_cols] = stored.shape;
        let found = [stored.order.as_ref().map_or(stored_rows, |order| order.len()), stored_cols];
        if found != spec.shape {
            let trim = |shape: [usize; 2]| if spec.role == Role::Vector { vec![shape[0]] } else { shape.to_vec() };
            return Err(SourceError::Shape { origin: stored.origin, found: trim(found), expected: trim(spec.shape) });
        }
        let format = stored.format;
        if spec.role == Role::Vector && format.is_quantised() {
            return Err(SourceError::Format { origin: stored.origin, format: format.to_string(), role: "vector" });
        }
        let Some(row_bytes) = format.row_bytes(cols) else {
            return Err(SourceError::Blocks { origin: stored.origin, cols, block_len: format.block_len(), format });
        };
        let expected = row_bytes.saturating_mul(stored_rows);
        if let Some(found) = stored.data.bytes().map(|bytes| bytes.len()).filter(|&found| found != expected) {
            return Err(SourceError::Length { origin: stored.origin, found, expected });
        }
        check_scales(&stored)?;
        let is_table = matches!(spec.role, Role::Embedding | Role::TiedEmbedding);
        if is_table && stored.data.columns().is_some() {
            let format = format!("{format} in another order of columns");
            return Err(SourceError::Format { origin: stored.origin, format, role: "embedding" });
        }
        let whole = |len| vec![Segment::Range { start: 0, len }];
        let (row_segments, col_segments) = match &spec.sharding {
            Sharding::Replicated => (whole(rows), None),
            Sharding::Split { dim: Dim::Rows, layout, .. } => (layout.part(rank).to_vec(), None),
            Sharding::Split { dim: Dim::Columns, layout, .. } => (whole(rows), Some(layout.part(rank))),
        };
        let num_rows = row_segments.iter().map(|s| s.len()).sum();
        let mut local = LocalWeight {
            pieces: whole(row_bytes),
            stored,
            row_bytes,
            rows: row_segments,
            num_rows,
            cols,
            input: None,
            scale_runs: Vec::new(),
        };
        match col_segments {
            Some(segments) => local.cut_columns(segments),
            None if local.stored.data.columns().is_some() => local.cut_columns(&whole(cols)),
            None => local.add_columns(0, cols),
        }
        Ok(local)
    }

    /// Takes the blocks that columns of `segments` lie in, and notes where the input's columns go.
    fn cut_columns(&mut self, segments: &[Segment]) {
        let format = self.stored.format;
        let (block, block_bytes) = (format.block_len(), format.block_bytes());
        let (mut pieces, spans) = match self.stored.data.columns() {
            Some(columns) => in_other_order(columns, segments, format),
            None => in_order(segments, format),
        };
        if spans.is_empty() {
            // A rank of padding only: one block of zeros keeps every shape positive.
            pieces.push(Segment::Zeros { len: block_bytes });
        }
        let mut cols = 0;
        for piece in &pieces {
            let (start, len) = match *piece {
                Segment::Range { start, len } => (start, len),
                Segment::Zeros { len } => (0, len),
            };
            self.add_columns(start / block_bytes * block, len / block_bytes * block);
            cols += len / block_bytes * block;
        }
        let width: usize = segments.iter().map(|segment| segment.len()).sum();
        let as_is = matches!(spans[..], [InputSpan { from: 0, to: 0, len }] if len == width && len == cols);
        self.pieces = pieces;
        self.cols = cols;
        self.input = if as_is { None } else { Some(spans) };
    }

    /// Notes which scales `len` further columns have, of the whole weight those from `start` on.
    fn add_columns(&mut self, start: usize, len: usize) {
        let group = self.stored.scales.as_ref().map_or(usize::MAX, |scales| scales.cols);
        let (mut col, end) = (start, start + len);
        while col < end {
            let len = (end - col).min(group - col % group);
            match self.scale_runs.last_mut() {
                Some(run) if run.col / group == col / group => run.len += len,
                _ => self.scale_runs.push(ScaleRun { len, col }),
            }
            col += len;
        }
    }

    /// Rows on this rank, padding included.
    pub fn rows(&self) -> usize {
        self.num_rows
    }

    /// Columns on this rank: the width of the (widened) input.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The local rows `rows` of it.
    pub fn of_rows(&self, rows: Range<usize>) -> LocalWeight {
        let (mut segments, mut before) = (Vec::new(), 0);
        for &segment in &self.rows {
            let end = before + segment.len();
            let (from, to) = (rows.start.max(before), rows.end.min(end));
            if from < to {
                segments.push(match segment {
                    Segment::Range { start, .. } => Segment::Range { start: start + from - before, len: to - from },
                    Segment::Zeros { .. } => Segment::Zeros { len: to - from },
                });
            }
            before = end;
        }
        let num_rows = segments.iter().map(|s| s.len()).sum();
        LocalWeight { rows: segments, num_rows, ..self.clone() }
    }

    /// How the numbers are stored.
    pub fn format(&self) -> Format {
        self.stored.format
    }

    /// File and tensor, for messages.
    pub fn origin(&self) -> &str {
        &self.stored.origin
    }

    /// How the rank's input is laid into the widened one; `None` when it is taken as it is.
    pub fn input(&self) -> Option<&[InputSpan]> {
        self.input.as_deref()
    }

    /// The columns that share scales, in order: [`LocalWeight::cols`] together. Without [`Scales`] they are one run.
    pub fn scale_runs(&self) -> &[ScaleRun] {
        &self.scale_runs
    }

    /// The scale of each [run](LocalWeight::scale_runs) of columns in local row `row`; 1 where there are none, and for padding.
    ///
    /// # Panics
    /// When `row` is not below [`LocalWeight::rows`].
    pub fn scales(&self, row: usize) -> impl Iterator<Item = f32> {
        let (scales, stored, cols) = (self.stored.scales.as_ref(), self.stored_index(row), self.stored.shape[1]);
        self.scale_runs.iter().map(move |run| match (scales, stored) {
            (Some(scales), Some(stored)) => scales.at(cols, stored, run.col),
            _ => 1.0,
        })
    }

    /// Bytes of a local row.
    pub fn row_bytes(&self) -> usize {
        self.pieces.iter().map(|p| p.len()).sum()
    }

    /// All local rows where they lie in the file in order, without padding: what can be served in place.
    pub fn in_place(&self) -> Option<SharedBytes> {
        let whole_rows = matches!(self.pieces[..], [Segment::Range { start: 0, len }] if len == self.row_bytes);
        match self.rows[..] {
            [Segment::Range { start, len }] if whole_rows && self.stored.order.is_none() => {
                self.stored.data.bytes()?.slice(start * self.row_bytes..(start + len) * self.row_bytes)
            }
            _ => None,
        }
    }

    /// Copies the bytes of local row `row` to `out`, `[row_bytes]`; padding is zeros, which every format reads as the value 0.
    ///
    /// # Panics
    /// When `row` is not below [`LocalWeight::rows`] or `out` has another length.
    pub fn read_row(&self, row: usize, out: &mut [u8]) {
        let Some(index) = self.stored_index(row) else {
            out.fill(0);
            return;
        };
        let mut at = 0;
        for piece in &self.pieces {
            let target = &mut out[at..at + piece.len()];
            match (*piece, &self.stored.data) {
                (Segment::Range { start, len }, StoredData::Bytes(bytes)) => {
                    target.copy_from_slice(&bytes[index * self.row_bytes + start..][..len]);
                }
                (Segment::Range { start, len }, StoredData::Rows(rows)) => rows.read(index, start..start + len, target),
                (Segment::Zeros { .. }, _) => target.fill(0),
            }
            at += piece.len();
        }
        assert_eq!(at, out.len(), "a row of `{}` has {at} bytes", self.stored.origin);
    }

    /// The values of local row `row` from its `bytes`, as [`LocalWeight::read_row`] copies them.
    ///
    /// # Panics
    /// When `row` is not below [`LocalWeight::rows`], or `bytes` or `values` have another length than a row.
    pub fn decode(&self, row: usize, bytes: &[u8], values: &mut [f32]) {
        quant::decode_row(self.stored.format, bytes, values);
        if self.stored.scales.is_none() {
            return;
        }
        let mut rest = values;
        for (run, scale) in self.scale_runs.iter().zip(self.scales(row)) {
            let of_run;
            (of_run, rest) = rest.split_at_mut(run.len);
            of_run.iter_mut().for_each(|value| *value *= scale);
        }
    }

    /// Says that the stored bytes behind local rows `rows` will not be read for a while ([`SharedBytes::release`]).
    pub fn release(&self, rows: Range<usize>) {
        let stored = rows.filter_map(|row| self.stored_index(row));
        let span = stored.fold(None, |span: Option<(usize, usize)>, index| match span {
            Some((first, last)) => Some((first.min(index), last.max(index))),
            None => Some((index, index)),
        });
        let Some((first, last)) = span else { return };
        match &self.stored.data {
            StoredData::Rows(rows) => rows.release(first..last + 1),
            StoredData::Bytes(bytes) => {
                if let Some(bytes) = bytes.slice(first * self.row_bytes..(last + 1) * self.row_bytes) {
                    bytes.release();
                }
            }
        }
    }

    /// Reads `rows` one after the other, says a little before what is read next, and releases what lies far enough behind.
    pub fn reader(&self, rows: Range<usize>) -> RowReader<'_> {
        let (start, end) = (rows.start * self.row_bytes, rows.end.min(self.num_rows) * self.row_bytes);
        RowReader { weight: self, in_place: self.in_place(), kept: 0..0, unexpected: start..end }
    }

    /// The whole weight as f32, `[rows, cols]` row-major: for vectors, references and tests.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut bytes = vec![0; self.row_bytes()];
        let mut out = vec![0.0; self.rows() * self.cols()];
        for (row, values) in out.chunks_exact_mut(self.cols().max(1)).enumerate() {
            self.read_row(row, &mut bytes);
            self.decode(row, &bytes, values);
        }
        out
    }

    /// Which stored row a local row is; `None` for a row of padding.
    fn stored_index(&self, row: usize) -> Option<usize> {
        let mut left = row;
        for segment in &self.rows {
            if left < segment.len() {
                let Segment::Range { start, .. } = *segment else { return None };
                let index = start + left;
                return Some(self.stored.order.as_ref().map_or(index, |order| order[index] as usize));
            }
            left -= segment.len();
        }
        panic_row(row, self.num_rows)
    }

    /// The axis along which the weight is cut, if any.
    pub fn axis(spec: &WeightSpec) -> Option<Axis> {
        match &spec.sharding {
            Sharding::Replicated => None,
            Sharding::Split { axis, .. } => Some(*axis),
        }
    }
}

/// The pieces of a stored row, whole blocks, that hold the columns of `segments`, and where the rank's input goes among their columns.
fn in_order(segments: &[Segment], format: Format) -> (Vec<Segment>, Vec<InputSpan>) {
    let (block, block_bytes) = (format.block_len(), format.block_bytes());
    let (mut pieces, mut spans) = (Vec::new(), Vec::new());
    let (mut from, mut to) = (0, 0);
    for &segment in segments {
        match segment {
            Segment::Range { start, len } => {
                let Range { start: first, end: last } = blocks_of(start, len, block);
                pieces.push(Segment::Range { start: first * block_bytes, len: (last - first) * block_bytes });
                spans.push(InputSpan { from, to: to + start - first * block, len });
                to += (last - first) * block;
            }
            // Padded columns of the input meet no weight at all.
            Segment::Zeros { .. } => {}
        }
        from += segment.len();
    }
    (pieces, spans)
}

/// As [`in_order`], where stored column `i` is column `columns[i]` of the weight.
fn in_other_order(columns: &[u32], segments: &[Segment], format: Format) -> (Vec<Segment>, Vec<InputSpan>) {
    let (block, block_bytes) = (format.block_len(), format.block_bytes());
    // Where each column of the weight is in the rank's own input.
    let mut own = vec![None; columns.len()];
    let mut from = 0;
    for &segment in segments {
        if let Segment::Range { start, len } = segment {
            (from..).zip(&mut own[start..start + len]).for_each(|(from, own)| *own = Some(from));
        }
        from += segment.len();
    }
    let (mut pieces, mut spans, mut to) = (Vec::new(), Vec::<InputSpan>::new(), 0);
    for (index, of_block) in columns.chunks(block).enumerate() {
        let mut is_met = false;
        for (i, from) in of_block.iter().enumerate().filter_map(|(i, &col)| Some((i, own[col as usize]?))) {
            is_met = true;
            match spans.last_mut() {
                Some(span) if (span.from + span.len, span.to + span.len) == (from, to + i) => span.len += 1,
                _ => spans.push(InputSpan { from, to: to + i, len: 1 }),
            }
        }
        if !is_met {
            continue;
        }
        match pieces.last_mut() {
            Some(Segment::Range { start, len }) if *start + *len == index * block_bytes => *len += block_bytes,
            _ => pieces.push(Segment::Range { start: index * block_bytes, len: block_bytes }),
        }
        to += block;
    }
    (pieces, spans)
}

/// The blocks of a row that the columns `start..start + len` lie in.
fn blocks_of(start: usize, len: usize, block: usize) -> Range<usize> {
    start / block..(start + len).div_ceil(block)
}

impl WeightSpec {
    /// Rows and columns of the part of `rank`, where the weight is stored in `format`: those of its [`LocalWeight`], known without it.
    pub fn local_shape(&self, format: Format, rank: usize) -> [usize; 2] {
        let [rows, cols] = self.shape;
        match &self.sharding {
            Sharding::Replicated => [rows, cols],
            Sharding::Split { dim: Dim::Rows, layout, .. } => [layout.local_len(), cols],
            Sharding::Split { dim: Dim::Columns, layout, .. } => {
                let block = format.block_len();
                let width = |segment: &Segment| match *segment {
                    Segment::Range { start, len } => blocks_of(start, len, block).len() * block,
                    Segment::Zeros { .. } => 0,
                };
                [rows, layout.part(rank).iter().map(width).sum::<usize>().max(block)]
            }
        }
    }
}

/// Checks that the scales of a weight, if it has any, are as many as it needs, are numbers, and are of a kind that its format has.
fn check_scales(stored: &StoredWeight) -> Result<(), SourceError> {
    let Some(scales) = &stored.scales else { return Ok(()) };
    let (origin, format) = (|| stored.origin.clone(), stored.format);
    let unsupported = |scales| Err(SourceError::Scaling { origin: origin(), format, scales });
    if !format.takes_scales() {
        return unsupported("scales of their own");
    }
    let Scales { rows, cols, ref values } = *scales;
    let Some(expected) = scales.needed(stored.shape) else { return unsupported("scales for groups of nothing") };
    if values.len() != expected {
        return Err(SourceError::ScaleCount { origin: origin(), found: values.len(), rows, cols, expected });
    }
    if format == Format::I8 && cols < stored.shape[1] {
        return unsupported("several scales a row");
    }
    // A NaN is in no range.
    match values.iter().position(|scale| !(0.0..Scales::LIMIT).contains(&scale.abs())) {
        Some(index) => Err(SourceError::Scale { origin: origin(), scale: values[index], index }),
        None => Ok(()),
    }
}

/// Stored bytes that are read between two releases: few calls into the system, and little memory.
const RELEASE_BYTES: usize = 4 << 20;
/// Stored bytes that are expected together, for the same reasons.
const EXPECT_BYTES: usize = 512 << 10;

/// Reads the rows of a weight in rising order. A weight that is packed is then never in memory twice.
pub struct RowReader<'w> {
    weight: &'w LocalWeight,
    /// All rows, where they lie as they are wanted.
    in_place: Option<SharedBytes>,
    /// Rows that were read and not released.
    kept: Range<usize>,
    /// Bytes of the rows to be read that nobody was told of yet.
    unexpected: Range<usize>,
}

impl RowReader<'_> {
    /// The bytes of local rows `rows`, where they lie if they lie together, else copied to `copied`, `[rows][row_bytes]`. Rows behind the
    /// last one are zeros.
    ///
    /// # Panics
    /// When `copied` has another length.
    pub fn read<'r>(&'r mut self, rows: Range<usize>, copied: &'r mut [u8]) -> &'r [u8] {
        let weight = self.weight;
        if self.kept.len() * weight.row_bytes >= RELEASE_BYTES || rows.start != self.kept.end {
            weight.release(self.kept.clone());
            self.kept.start = rows.start;
        }
        self.kept.end = rows.end.min(weight.num_rows);
        let bytes = weight.row_bytes();
        if let Some(all) = &self.in_place
            && let Some(lying) = all.get(rows.start * bytes..rows.end * bytes)
        {
            while rows.end * bytes > self.unexpected.start && !self.unexpected.is_empty() {
                let next = self.unexpected.start..self.unexpected.end.min(self.unexpected.start + EXPECT_BYTES);
                self.unexpected.start = next.end;
                all.expect(next);
            }
            return lying;
        }
        assert_eq!(copied.len(), rows.len() * bytes, "room for {} rows", rows.len());
        for (row, copied) in rows.zip(copied.chunks_exact_mut(bytes.max(1))) {
            if row < weight.num_rows { weight.read_row(row, copied) } else { copied.fill(0) }
        }
        copied
    }
}

impl Drop for RowReader<'_> {
    fn drop(&mut self) {
        self.weight.release(self.kept.clone());
    }
}

#[allow(clippy::panic, reason = "an index out of range is a caller's mistake, as for slices")]
fn panic_row(row: usize, rows: usize) -> ! {
    panic!("row {row} of a weight of {rows} rows")
}
