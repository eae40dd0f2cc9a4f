//! Which part of a stored tensor a weight is: checkpoints fuse projections, stack experts, and store matrices the other way round.

use super::StoredTensor;
use nxd_ops::{Format, LocalWeight, Role, Sharding, SharedBytes, SourceError, StoredData, StoredWeight, WeightSpec};
use std::ops::Range;
use std::sync::Arc;

/// Where a declared weight lies in a checkpoint.
///
/// The stored tensor is taken as a matrix, all its dimensions but the last as rows; a vector as one value a row. Of this the slab is taken,
/// that is transposed, of the result the blocks of rows are taken, each of these is turned if they are to be, and the rows are ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The tensor's name in the file.
    pub name: String,
    /// One of several weights that are stored one after the other.
    pub slab: Option<Slab>,
    /// Whether the file has `[inputs, outputs]`.
    pub transposed: bool,
    /// Which rows; `None` for all.
    pub rows: Option<RowBlocks>,
    /// Whether each block of rows is stored the other way round: `[len, n]` is then `n` rows of `len` columns of the weight.
    pub turned: bool,
    /// How they are ordered there.
    pub order: RowOrder,
}

/// One of `count` parts of as many rows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Which one.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// Blocks of `len` rows that begin at `first`, `first + stride`, … until there are enough for the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBlocks {
    /// The first row.
    pub first: usize,
    /// Rows of a block.
    pub len: usize,
    /// Rows from one block to the next.
    pub stride: usize,
}

/// The order of a weight's rows in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As declared.
    AsStored,
    /// The rotated values of each head in neighbouring pairs, where declared ones pair the halves: stored row `2 j + h` of a head is row
    /// `h R/2 + j` of the declared one, for the first `R` rows of it. Values of a bias are ordered alike. A score is a sum over a head's values, so queries
    /// and keys that are ordered alike give the same scores.
    ///
    /// Source: `permute` of llama.cpp's `convert_hf_to_gguf.py`, and `rotate_half` of transformers' `modeling_cohere.py`.
    Pairs {
        /// Heads that the rows are divided into.
        heads: usize,
        /// Values of a head that are rotated; `None` for all.
        rotary_dim: Option<usize>,
    },
}

impl TensorRef {
    /// The whole tensor `name`, as it is stored.
    pub fn whole(name: impl Into<String>) -> Self {
        TensorRef {
            name: name.into(),
            slab: None,
            transposed: false,
            rows: None,
            turned: false,
            order: RowOrder::AsStored,
        }
    }

    /// Which row of the slab, or of the tensor if it has none, each of the `count` rows of the weight is; `None` where it has no such rows.
    pub(crate) fn rows_of_slab(&self, count: usize) -> Option<Vec<usize>> {
        let blocks = self.rows.unwrap_or(RowBlocks { first: 0, len: count, stride: count });
        let order = self.order.of(count).ok().filter(|_| blocks.len > 0)?;
        Some(order.into_iter().map(|row| blocks.row(row)).collect())
    }

    /// The shape of what is selected of a tensor of `shape` for the weight of `spec`; `None` where that has no such part.
    pub(super) fn shape(&self, shape: &[usize], spec: &WeightSpec) -> Option<[usize; 2]> {
        let [mut rows, mut cols] = as_matrix(shape, spec)?;
        // GGUF has the matrices of heads as a tensor of three dimensions.
        if shape.len() > 2 && self.slab.is_none() && !matches!(spec.role, Role::Heads(_)) {
            return None;
        }
        if let Some(Slab { index, count }) = self.slab {
            if count == 0 || index >= count || !rows.is_multiple_of(count) {
                return None;
            }
            rows /= count;
        }
        if self.transposed {
            (rows, cols) = (cols, rows);
        }
        match self.rows {
            Some(blocks) if self.turned => {
                blocks.fit(stored_rows(blocks, spec.shape[0], cols)?, rows).then_some([spec.shape[0], blocks.len])
            }
            // As many rows as are declared, if there are so many.
            Some(blocks) => blocks.fit(spec.shape[0], rows).then_some([spec.shape[0], cols]),
            None => Some([rows, cols]),
        }
    }

    /// The weight of `spec`, which is a part of `stored`.
    ///
    /// # Errors
    /// When `stored` has no such part, or its format cannot be taken apart like this.
    pub(crate) fn take(&self, stored: StoredTensor, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        if let (true, Some(blocks)) = (self.turned, self.rows) {
            return self.take_turned(stored, spec, blocks);
        }
        let matrix = as_matrix(&stored.shape, spec).zip(self.shape(&stored.shape, spec));
        let taken = matrix.map(|(matrix, [rows, _])| self.part(&stored, matrix, rows));
        let StoredTensor { origin, format, shape: found, scales, .. } = stored;
        match taken {
            Some(Ok(Part { data, shape, order })) => Ok(StoredWeight { origin, format, shape, data, order, scales }),
            Some(Err(Impossible::Transposed)) => {
                let role = "matrix that is stored transposed";
                Err(SourceError::Format { origin, format: format.to_string(), role })
            }
            Some(Err(Impossible::Shape)) | None => Err(SourceError::Shape { origin, found, expected: declared(spec) }),
        }
    }

    /// How the weight is stored as [`TensorRef::take`] gives it, where the tensor is stored in `format`.
    pub(super) fn format(&self, format: Format) -> Format {
        if self.turned && (format.is_quantised() || format.takes_scales()) { Format::F32 } else { format }
    }

    /// As [`TensorRef::take`], each block of rows the other way round. Of quantised numbers the values are taken, as their groups lie along
    /// rows that then are columns.
    fn take_turned(
        &self,
        stored: StoredTensor,
        spec: &WeightSpec,
        blocks: RowBlocks,
    ) -> Result<StoredWeight, SourceError> {
        let (origin, found) = (stored.origin.clone(), stored.shape.clone());
        let wrong = || SourceError::Shape { origin: origin.clone(), found: found.clone(), expected: declared(spec) };
        if self.shape(&stored.shape, spec) != Some(spec.shape) {
            return Err(wrong());
        }
        let [outputs, len] = spec.shape;
        let format = self.format(stored.format);
        // The rows as they are stored, block after block.
        let cols = stored.shape.last().copied().filter(|&cols| cols > 0).ok_or_else(wrong)?;
        let rows = stored_rows(blocks, outputs, cols).ok_or_else(wrong)?;
        let upright = WeightSpec { shape: [rows, cols], sharding: Sharding::Replicated, ..spec.clone() };
        let reference = TensorRef { turned: false, ..self.clone() };
        let upright = LocalWeight::new(&upright, reference.take(stored, &upright)?, 0)?;
        let bytes: Vec<u8> = if format == upright.format() {
            let mut bytes = vec![0; rows * upright.row_bytes()];
            for (row, bytes) in bytes.chunks_exact_mut(upright.row_bytes()).enumerate() {
                upright.read_row(row, bytes);
            }
            bytes
        } else {
            in_order_of_columns(&upright, cols).into_iter().flat_map(f32::to_le_bytes).collect()
        };
        let size = format.block_bytes();
        let mut data = Vec::with_capacity(bytes.len());
        for block in bytes.chunks_exact(len * cols * size) {
            data.extend_from_slice(&transposed(block, 0..len, cols, size).map_err(|_| wrong())?);
        }
        let data = data.into();
        Ok(StoredWeight { origin, format, shape: [outputs, len], data, order: None, scales: None })
    }

    /// `count` rows of `stored`, which is a matrix of `rows` and `cols`.
    fn part(&self, stored: &StoredTensor, [mut rows, mut cols]: [usize; 2], count: usize) -> Result<Part, Impossible> {
        let (mut data, mut first) = (stored.data.clone(), 0);
        if let Some(Slab { index, count }) = self.slab {
            first = rows / count * index;
        }
        if self.transposed {
            let bytes = stored.data.bytes().filter(|_| stored.scales.is_none() && stored.format.block_len() == 1);
            let bytes = bytes.ok_or(Impossible::Transposed)?;
            let in_slab = rows / self.slab.map_or(1, |slab| slab.count);
            data = transposed(bytes, first..first + in_slab, cols, stored.format.block_bytes())?.into();
            (rows, cols, first) = (cols, in_slab, 0);
        }
        if self.order == RowOrder::AsStored && count == rows {
            return Ok(Part { data, shape: [rows, cols], order: None });
        }
        let blocks = self.rows.unwrap_or(RowBlocks { first: 0, len: count, stride: count });
        // Scales are found by the rows of the whole tensor, so those stay where they are.
        if let (RowOrder::AsStored, Some(data), None) = (self.order, data.bytes(), &stored.scales)
            && blocks.len >= count
        {
            let row_bytes = stored.format.row_bytes(cols).ok_or(Impossible::Shape)?;
            let start = first + blocks.first;
            let data = data.slice(start * row_bytes..(start + count) * row_bytes).ok_or(Impossible::Shape)?;
            return Ok(Part { data: data.into(), shape: [count, cols], order: None });
        }
        let declared = self.order.of(count)?;
        let place = |row: usize| u32::try_from(first + blocks.row(row)).map_err(|_| Impossible::Shape);
        let order = declared.into_iter().map(place).collect::<Result<_, _>>()?;
        Ok(Part { data, shape: [rows, cols], order: Some(order) })
    }
}

/// A part of a tensor, as a [`StoredWeight`] has it.
struct Part {
    data: StoredData,
    shape: [usize; 2],
    order: Option<Arc<[u32]>>,
}

/// Why there is no such part.
enum Impossible {
    Shape,
    Transposed,
}

impl RowBlocks {
    /// The stored row of row `row`.
    fn row(&self, row: usize) -> usize {
        self.first + row / self.len * self.stride + row % self.len
    }

    /// Whether the stored rows of `count` rows are among `rows`, which blocks with others between them leave none of.
    fn fit(&self, count: usize, rows: usize) -> bool {
        if self.len < self.stride && count.checked_div(self.len).and_then(|n| n.checked_mul(self.stride)) != Some(rows)
        {
            return false;
        }
        let last = count.checked_sub(1).filter(|_| self.len > 0).and_then(|last| {
            let block = (last / self.len).checked_mul(self.stride)?;
            self.first.checked_add(block)?.checked_add(last % self.len)
        });
        last.is_some_and(|last| last < rows)
    }
}

impl RowOrder {
    /// For each of `rows` declared rows the stored one.
    fn of(self, rows: usize) -> Result<Vec<usize>, Impossible> {
        let RowOrder::Pairs { heads, rotary_dim } = self else { return Ok((0..rows).collect()) };
        if heads == 0 || !rows.is_multiple_of(heads) {
            return Err(Impossible::Shape);
        }
        let head_dim = rows / heads;
        let rotary_dim = rotary_dim.unwrap_or(head_dim);
        if !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(Impossible::Shape);
        }
        let stored = |row: usize| {
            let (head, within) = (row / head_dim, row % head_dim);
            if within >= rotary_dim {
                return row;
            }
            let (half, j) = (within / (rotary_dim / 2), within % (rotary_dim / 2));
            head * head_dim + 2 * j + half
        };
        Ok((0..rows).map(stored).collect())
    }
}

/// The values of a weight of `cols` columns, each where the weight has it, not where it is stored.
fn in_order_of_columns(weight: &LocalWeight, cols: usize) -> Vec<f32> {
    let values = weight.to_f32();
    let Some(spans) = weight.input() else { return values };
    let mut ordered = vec![0.0; weight.rows() * cols];
    for (stored, row) in values.chunks_exact(weight.cols()).zip(ordered.chunks_exact_mut(cols)) {
        for span in spans {
            row[span.from..span.from + span.len].copy_from_slice(&stored[span.to..span.to + span.len]);
        }
    }
    ordered
}

/// Rows of the blocks that are `rows` rows when each is turned, of a matrix of `cols` columns.
fn stored_rows(blocks: RowBlocks, rows: usize, cols: usize) -> Option<usize> {
    let whole = cols > 0 && rows.is_multiple_of(cols);
    if whole { (rows / cols).checked_mul(blocks.len) } else { None }
}

/// Rows and columns of a tensor; `None` for one without dimensions, and for a vector where a matrix of several rows is wanted.
fn as_matrix(shape: &[usize], spec: &WeightSpec) -> Option<[usize; 2]> {
    let product = |shape: &[usize]| shape.iter().try_fold(1, |product: usize, &n| product.checked_mul(n));
    match (shape, spec.role) {
        ([], _) => None,
        (shape, Role::Vector) => Some([product(shape)?, 1]),
        // GGUF leaves out a single row's dimension.
        (&[cols], Role::Matrix | Role::Router) if spec.shape[0] == 1 => Some([1, cols]),
        ([_], _) => None,
        ([leading @ .., cols], _) => Some([product(leading)?, *cols]),
    }
}

/// The declared shape, as a message shows it.
pub(super) fn declared(spec: &WeightSpec) -> Vec<usize> {
    if spec.role == Role::Vector { vec![spec.shape[0]] } else { spec.shape.to_vec() }
}

/// `rows` of a matrix of `cols` columns, whose values have `size` bytes, the other way round.
fn transposed(data: &[u8], rows: Range<usize>, cols: usize, size: usize) -> Result<SharedBytes, Impossible> {
    let row_bytes = cols * size;
    let source = data.get(rows.start * row_bytes..rows.end * row_bytes).ok_or(Impossible::Shape)?;
    let mut out = vec![0; source.len()];
    // Tiles, so that both sides stay in the nearest cache.
    const TILE: usize = 32;
    let count = rows.len();
    for (row_tile, col_tile) in (0..count).step_by(TILE).flat_map(|r| (0..cols).step_by(TILE).map(move |c| (r, c))) {
        for row in row_tile..(row_tile + TILE).min(count) {
            for col in col_tile..(col_tile + TILE).min(cols) {
                let (from, to) = ((row * cols + col) * size, (col * count + row) * size);
                out[to..to + size].copy_from_slice(&source[from..from + size]);
            }
        }
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_ops::Scales;

    fn spec(shape: [usize; 2], role: Role) -> WeightSpec {
        WeightSpec { name: "w".to_owned(), role, shape, sharding: Sharding::Replicated }
    }

    /// A tensor of bytes that count up.
    fn tensor(shape: &[usize]) -> StoredTensor {
        let data: Vec<u8> = (0..shape.iter().product::<usize>() as u8).collect();
        let (origin, format, shape) = ("file: tensor `t`".to_owned(), Format::E4M3, shape.to_vec());
        StoredTensor { origin, format, shape, data: data.into(), scales: None }
    }

    /// The bytes of the weight, row by row.
    fn taken(reference: &TensorRef, shape: &[usize], of: &WeightSpec) -> Vec<Vec<u8>> {
        let StoredWeight { shape, data, order, .. } = reference.take(tensor(shape), of).unwrap();
        let rows = data.bytes().unwrap().chunks(shape[1]).map(<[u8]>::to_vec).collect::<Vec<_>>();
        order.map_or(rows.clone(), |order| order.iter().map(|&row| rows[row as usize].clone()).collect())
    }

    #[test]
    fn pairs_of_two_heads_are_found() {
        let order = |rows, heads, rotary_dim| RowOrder::Pairs { heads, rotary_dim }.of(rows).ok();
        assert_eq!(order(8, 2, None).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(order(6, 1, None).unwrap(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(order(12, 2, Some(4)).unwrap(), [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
        assert!(order(6, 2, None).is_none() && order(6, 0, None).is_none() && order(6, 1, Some(8)).is_none());
    }

    #[test]
    fn a_part_of_a_fused_projection_is_its_rows() {
        let blocks = |first, len, stride| Some(RowBlocks { first, len, stride });
        let matrix = spec([2, 2], Role::Matrix);
        let rows = |rows| taken(&TensorRef { rows, ..TensorRef::whole("t") }, &[4, 2], &matrix);
        assert_eq!(rows(blocks(2, 2, 2)), [[4, 5], [6, 7]]);
        assert_eq!(rows(blocks(1, 1, 2)), [[2, 3], [6, 7]]);
        let beyond = TensorRef { rows: blocks(3, 2, 2), ..TensorRef::whole("t") };
        assert!(matches!(beyond.take(tensor(&[4, 2]), &matrix), Err(SourceError::Shape { .. })));
    }

    #[test]
    fn an_expert_is_a_slab_and_may_be_stored_the_other_way_round() {
        let slab = Some(Slab { index: 1, count: 2 });
        let matrix = spec([3, 2], Role::Matrix);
        let upright = TensorRef { slab, ..TensorRef::whole("t") };
        assert_eq!(taken(&upright, &[2, 3, 2], &matrix), [[6, 7], [8, 9], [10, 11]]);
        let across = TensorRef { transposed: true, ..upright.clone() };
        assert_eq!(taken(&across, &[2, 2, 3], &matrix), [[6, 9], [7, 10], [8, 11]]);
        let every_second = TensorRef { rows: Some(RowBlocks { first: 1, len: 1, stride: 3 }), ..across };
        assert_eq!(taken(&every_second, &[2, 2, 3], &spec([1, 2], Role::Matrix)), [[7, 10]]);
        assert_eq!(taken(&upright, &[2, 3], &spec([3, 1], Role::Vector)), [[3], [4], [5]]);
    }

    #[test]
    fn heads_may_be_stored_the_other_way_round() {
        // Two heads of two rows for keys and one for values, each of three columns.
        let rows = Some(RowBlocks { first: 0, len: 2, stride: 3 });
        let turned = TensorRef { rows, turned: true, ..TensorRef::whole("t") };
        let keys = spec([6, 2], Role::Heads(3));
        // Bytes below 17 stand for as many parts of 512.
        let local = LocalWeight::new(&keys, turned.take(tensor(&[6, 3]), &keys).unwrap(), 0).unwrap();
        let parts: Vec<f32> = local.to_f32().iter().map(|value| value * 512.0).collect();
        assert_eq!(parts, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 9.0, 12.0, 10.0, 13.0, 11.0, 14.0]);
        for shape in [[5, 2], [9, 2], [6, 3]] {
            let error = turned.take(tensor(&[6, 3]), &spec(shape, Role::Heads(3)));
            assert!(matches!(error, Err(SourceError::Shape { .. })), "{shape:?}");
        }
    }

    #[test]
    fn what_is_quantised_is_turned_as_values() {
        let rows = Some(RowBlocks { first: 1, len: 1, stride: 2 });
        let turned = TensorRef { rows, turned: true, ..TensorRef::whole("t") };
        // 1 and -0.5, under scales of blocks of one row and one column.
        let scales = Scales { rows: 1, cols: 1, values: (1..=8).map(|scale| scale as f32).collect() };
        let bytes = [0x38, 0xb0].repeat(4);
        let stored = StoredTensor { data: bytes.into(), scales: Some(scales), ..tensor(&[4, 2]) };
        let keys = spec([4, 1], Role::Heads(2));
        assert_eq!(turned.format(Format::E4M3), Format::F32);
        let local = LocalWeight::new(&keys, turned.take(stored, &keys).unwrap(), 0).unwrap();
        assert_eq!((local.format(), local.to_f32()), (Format::F32, vec![3.0, -2.0, 7.0, -4.0]));
    }

    #[test]
    fn scales_are_found_by_the_rows_of_the_whole_tensor() {
        let reference = TensorRef { slab: Some(Slab { index: 1, count: 2 }), ..TensorRef::whole("t") };
        let stored = StoredTensor { scales: Some(Scales::of_rows([1.0, 2.0, 3.0, 4.0])), ..tensor(&[4, 2]) };
        let weight = reference.take(stored, &spec([2, 2], Role::Matrix)).unwrap();
        assert_eq!((weight.shape, weight.order.as_deref()), ([4, 2], Some(&[2, 3][..])));
    }
}
