//! A tensor's values row by row, and a tensor encoded from them.

use super::{QuantiseError, Work};
use crate::checkpoint::StoredTensor;
use nxd_ops::quant::{self, EncodeError};
use nxd_ops::{Format, LocalWeight, Role, Sharding, SourceError, StoredWeight, WeightSpec};
use std::panic::resume_unwind;
use std::thread;

/// Values that a thread encodes between two writes.
const PIECE_VALUES: usize = 1 << 20;

/// Stores a row's values as bytes.
type Encode<'e> = dyn Fn(&[f32], &mut [u8]) -> Result<(), EncodeError> + Sync + 'e;

/// The rows of a tensor that is to be written, put together from stored weights.
pub(super) struct Rows {
    parts: Vec<LocalWeight>,
    /// For each row its part and row there; `None` for the rows of the only part.
    order: Option<Vec<(u32, u32)>>,
    rows: usize,
    cols: usize,
    /// Added to every value.
    plus: f32,
}

impl Rows {
    /// The rows of a stored tensor, all dimensions but the last taken as rows.
    pub(super) fn of_tensor(stored: StoredTensor) -> Result<Rows, SourceError> {
        let StoredTensor { origin, format, shape, data, scales } = stored;
        let (cols, leading) = shape.split_last().map_or((1, &[][..]), |(cols, leading)| (*cols, leading));
        let shape = [leading.iter().product(), cols];
        let spec = WeightSpec { name: origin.clone(), role: Role::Matrix, shape, sharding: Sharding::Replicated };
        let stored = StoredWeight { origin, format, shape, data, order: None, scales };
        Ok(Rows::of_parts(vec![LocalWeight::new(&spec, stored, 0)?], None, shape))
    }

    /// A tensor of `shape` whose row `i` is the row `order[i]`: which part, and its row there. `None` for the rows of the only part.
    pub(super) fn of_parts(parts: Vec<LocalWeight>, order: Option<Vec<(u32, u32)>>, [rows, cols]: [usize; 2]) -> Rows {
        Rows { parts, order, rows, cols, plus: 0.0 }
    }

    /// The same, with `plus` added to every value.
    pub(super) fn plus(self, plus: f32) -> Rows {
        Rows { plus, ..self }
    }

    /// The values of row `row`.
    fn read(&self, row: usize, bytes: &mut Vec<u8>, decoded: &mut Vec<f32>, values: &mut [f32]) {
        let (part, row) = match &self.order {
            Some(order) => (order[row].0 as usize, order[row].1 as usize),
            None => (0, row),
        };
        let part = &self.parts[part];
        bytes.resize(part.row_bytes(), 0);
        part.read_row(row, bytes);
        match part.input() {
            None => part.decode(row, bytes, values),
            // Columns in the order of their groups are put back into their own.
            Some(spans) => {
                decoded.resize(part.cols(), 0.0);
                part.decode(row, bytes, decoded);
                values.fill(0.0);
                for span in spans {
                    values[span.from..span.from + span.len].copy_from_slice(&decoded[span.to..span.to + span.len]);
                }
            }
        }
        if self.plus != 0.0 {
            values.iter_mut().for_each(|value| *value += self.plus);
        }
    }

    /// Encodes all rows as `format` and gives the bytes to `out`, piece by piece.
    pub(super) fn encode(
        &self,
        format: Format,
        work: &mut Work<'_>,
        out: &mut dyn FnMut(&[u8]) -> Result<(), QuantiseError>,
    ) -> Result<(), QuantiseError> {
        let row_bytes = format.row_bytes(self.cols).ok_or_else(|| SourceError::Blocks {
            origin: self.origin(0).to_owned(),
            cols: self.cols,
            block_len: format.block_len(),
            format,
        })?;
        self.each(row_bytes, work, &|values, bytes| quant::encode_row(format, values, bytes), out)
    }

    /// Encodes all rows as bytes under a scale each, a number that `stored` holds, gives the bytes to `out`, and the scales in the end.
    pub(super) fn encode_scaled(
        &self,
        format: Format,
        stored: Format,
        work: &mut Work<'_>,
        out: &mut dyn FnMut(&[u8]) -> Result<(), QuantiseError>,
    ) -> Result<Vec<f32>, QuantiseError> {
        let mut scales = Vec::with_capacity(self.rows);
        let encode = |values: &[f32], bytes: &mut [u8]| {
            let (scale, bytes) = bytes.split_at_mut(4);
            let row_scale = quant::row_scale(format, values, stored)?;
            scale.copy_from_slice(&row_scale.to_le_bytes());
            quant::encode_scaled(format, values, row_scale, bytes)
        };
        let mut together = Vec::new();
        self.each(4 + self.cols, work, &encode, &mut |rows| {
            together.clear();
            for row in rows.chunks_exact(4 + self.cols) {
                let (scale, bytes) = row.split_at(4);
                scales.extend(scale.as_chunks().0.iter().map(|&scale| f32::from_le_bytes(scale)));
                together.extend_from_slice(bytes);
            }
            out(&together)
        })?;
        Ok(scales)
    }

    /// Encodes the rows to `row_bytes` each, on several threads, and gives them to `out` in their order.
    fn each(
        &self,
        row_bytes: usize,
        work: &mut Work<'_>,
        encode: &Encode<'_>,
        out: &mut dyn FnMut(&[u8]) -> Result<(), QuantiseError>,
    ) -> Result<(), QuantiseError> {
        let of_thread = (PIECE_VALUES / self.cols.max(1)).clamp(1, self.rows.div_ceil(work.threads).max(1));
        let at_once = of_thread.saturating_mul(work.threads).min(self.rows);
        let mut buffer = vec![0; at_once.saturating_mul(row_bytes)];
        for first in (0..self.rows).step_by(at_once.max(1)) {
            let count = at_once.min(self.rows - first);
            let buffer = &mut buffer[..count * row_bytes];
            let piece = |first: usize, bytes: &mut [u8]| self.piece(first, row_bytes, bytes, encode);
            thread::scope(|scope| {
                let mut pieces = (first..).step_by(of_thread).zip(buffer.chunks_mut(of_thread * row_bytes));
                let here = pieces.next();
                let there: Vec<_> = pieces.map(|(first, bytes)| scope.spawn(move || piece(first, bytes))).collect();
                let here = here.map_or(Ok(()), |(first, bytes)| piece(first, bytes));
                let there = there.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
                // All are waited for, and the first failure counts.
                there.fold(here, Result::and)
            })?;
            out(buffer)?;
            self.release(first, count);
            work.advance(count.saturating_mul(self.cols));
        }
        Ok(())
    }

    fn piece(&self, first: usize, row_bytes: usize, out: &mut [u8], encode: &Encode<'_>) -> Result<(), QuantiseError> {
        let (mut bytes, mut decoded, mut values) = (Vec::new(), Vec::new(), vec![0.0; self.cols]);
        for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes.max(1))) {
            self.read(row, &mut bytes, &mut decoded, &mut values);
            let failed = |source| QuantiseError::Value { origin: self.origin(row).to_owned(), row, source };
            encode(&values, out).map_err(failed)?;
        }
        Ok(())
    }

    /// Says that rows will not be read again.
    fn release(&self, first: usize, count: usize) {
        match (&self.order, &self.parts[..]) {
            (None, [part]) => part.release(first..first + count),
            // Rows of several parts may lie anywhere; they are given up with the last.
            _ if first + count == self.rows => self.parts.iter().for_each(|part| part.release(0..part.rows())),
            _ => {}
        }
    }

    /// File and tensor of a row.
    fn origin(&self, row: usize) -> &str {
        let part = self.order.as_ref().and_then(|order| order.get(row)).map_or(0, |place| place.0 as usize);
        self.parts.get(part).map_or("", LocalWeight::origin)
    }
}
