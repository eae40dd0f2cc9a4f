//! How a stored weight becomes arguments of a program.
//!
//! One mechanism serves every format: a matrix of numbers, and where they are quantised a grid of factors (and perhaps summands), one for
//! each group of `rows × cols` neighbours. Per tensor, per channel, per block of 32 or of 128 × 128 differ by the group only. The
//! program widens: `value * scale + min` in f32.

use crate::host::HostArray;
use crate::program::Part;
use crate::record::Element;
use half::{bf16, f16};
use nxd_ops::{BlockFormat, Dim, Format, LocalWeight, Role, Sharding, SourceError, WeightSource, WeightSpec, quant};

/// Numbers that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Neighbouring rows.
    pub rows: usize,
    /// Neighbouring columns.
    pub cols: usize,
    /// Whether a summand follows the factor.
    pub mins: bool,
}

/// A weight as a program sees it, alike on every rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightLayout {
    /// Rows on a rank; the length of a vector.
    pub rows: usize,
    /// Columns on a rank, those of a widened input included; 1 for a vector.
    pub cols: usize,
    /// Type of the numbers.
    pub values: Element,
    /// How the numbers are scaled; `None` for plain floats.
    pub group: Option<Group>,
    /// Whether [`Part::Columns`] says which column of the input each column meets.
    pub by_column: bool,
    /// Whether ranks hold different rows of a table, [`Part::FirstRow`] being the first.
    pub by_row: bool,
}

impl WeightLayout {
    /// Dimensions of the grid of scales.
    pub fn grid(&self) -> Option<[usize; 2]> {
        self.group.map(|group| [self.rows.div_ceil(group.rows), self.cols.div_ceil(group.cols)])
    }

    /// Bytes of numbers, scales and minima on one rank.
    pub fn bytes(&self) -> usize {
        let cells = self.grid().map_or(0, |[rows, cols]| rows * cols);
        let grids = self.group.map_or(0, |group| 1 + usize::from(group.mins));
        self.rows * self.cols * self.values.bytes() + 4 * cells * grids
    }
}

/// The widest groups of columns that begin wherever a run does that has a scale of its own, on any rank. The last one may be cut short.
fn runs(ranks: &[LocalWeight]) -> Group {
    let (mut cols, mut widest) = (0, 1);
    for local in ranks {
        let mut lens: Vec<usize> = local.scale_runs().iter().map(|run| run.len).collect();
        widest = lens.pop().map_or(widest, |last| widest.max(last));
        cols = lens.into_iter().fold(cols, gcd);
    }
    Group { rows: 1, cols: if cols == 0 { widest } else { cols }, mins: false }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A weight cut for every rank, ready to be uploaded.
pub struct BoundWeight {
    /// How programs see it.
    pub layout: WeightLayout,
    ranks: Vec<LocalWeight>,
    spec: WeightSpec,
}

impl BoundWeight {
    /// Takes the weight behind `spec` from `source` for `ranks` ranks. Plain f32 numbers are kept as `dtype`, the type they are used in.
    ///
    /// # Errors
    /// When it is missing or does not fit its declaration.
    pub fn new(
        spec: &WeightSpec,
        source: &dyn WeightSource,
        ranks: usize,
        dtype: Element,
    ) -> Result<Self, SourceError> {
        let stored = source.weight(spec)?;
        let cut = |rank| LocalWeight::new(spec, stored.clone(), rank);
        let ranks = (0..ranks).map(cut).collect::<Result<Vec<_>, _>>()?;
        let vector = spec.role == Role::Vector;
        let widest = ranks.iter().map(LocalWeight::cols).max().unwrap_or_default();
        let (values, group) = match stored.format {
            _ if vector => (Element::F32, None),
            Format::F32 => (dtype, None),
            Format::F16 => (Element::F16, None),
            Format::BF16 => (Element::BF16, None),
            Format::I8 => (Element::I8, Some(runs(&ranks))),
            // Every number of one byte is an f16.
            Format::E4M3 | Format::E5M2 => (Element::F16, Some(runs(&ranks))),
            Format::Blocks(block) => {
                (Element::I8, Some(Group { rows: 1, cols: block.group_len(), mins: block.has_min() }))
            }
        };
        let table = matches!(spec.role, Role::Embedding | Role::TiedEmbedding);
        let layout = WeightLayout {
            rows: ranks[0].rows(),
            cols: widest,
            values,
            group,
            by_column: ranks.iter().any(|local| local.input().is_some() || local.cols() != widest),
            by_row: table && matches!(spec.sharding, Sharding::Split { dim: Dim::Rows, .. }),
        };
        Ok(BoundWeight { layout, ranks, spec: spec.clone() })
    }

    /// The parts that programs may ask for.
    pub fn parts(&self) -> Vec<Part> {
        let layout = &self.layout;
        let mins = layout.group.is_some_and(|group| group.mins);
        let all = [
            (Part::Values, true),
            (Part::Scales, layout.group.is_some()),
            (Part::Mins, mins),
            (Part::Columns, layout.by_column),
            (Part::FirstRow, layout.by_row),
        ];
        all.into_iter().filter(|(_, wanted)| *wanted).map(|(part, _)| part).collect()
    }

    /// All parts of one rank, in the order of [`BoundWeight::parts`].
    pub fn arrays(&self, rank: usize) -> Vec<HostArray> {
        let local = &self.ranks[rank];
        if self.spec.role == Role::Vector {
            return vec![HostArray::f32s(&[self.layout.rows], &local.to_f32())];
        }
        let mut arrays = match local.format() {
            Format::Blocks(block) => self.opened(local, block),
            format if format.takes_scales() => vec![self.plain(local, format), self.scales(local)],
            format => vec![self.plain(local, format)],
        };
        if self.layout.by_column {
            arrays.push(self.columns(local));
        }
        if self.layout.by_row {
            arrays.push(HostArray::i32s(&[], &[self.spec.held_rows(rank).start as i32]));
        }
        arrays
    }

    /// The values of plain floats, rows padded to the layout's width.
    fn plain(&self, local: &LocalWeight, format: Format) -> HostArray {
        let WeightLayout { rows, cols, values, .. } = self.layout;
        let row_bytes = cols * values.bytes();
        let mut data = vec![0; rows * row_bytes];
        let mut stored = vec![0; local.row_bytes()];
        let mut wide = vec![0.0; local.cols()];
        for (row, out) in data.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            local.read_row(row, &mut stored);
            match (format, values) {
                (Format::F32 | Format::E4M3 | Format::E5M2, Element::BF16 | Element::F16) => {
                    quant::decode_row(format, &stored, &mut wide);
                    for (out, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(&wide) {
                        *out = match values {
                            Element::F16 => f16::from_f32(value).to_le_bytes(),
                            _ => bf16::from_f32(value).to_le_bytes(),
                        };
                    }
                }
                _ => out[..stored.len()].copy_from_slice(&stored),
            }
        }
        HostArray::of(&[rows, cols], values, &data)
    }

    /// The scales of bytes, each as often as groups meet the run of columns that it belongs to.
    fn scales(&self, local: &LocalWeight) -> HostArray {
        let (rows, group) = (self.layout.rows, self.layout.group.map_or(1, |group| group.cols));
        let width = self.layout.cols.div_ceil(group);
        let mut scales = Vec::with_capacity(rows * width);
        for row in 0..rows {
            let runs = local.scale_runs().iter().zip(local.scales(row));
            scales.extend(runs.flat_map(|(run, scale)| std::iter::repeat_n(scale, run.len.div_ceil(group))));
            // Columns that this rank has not are zeros.
            scales.resize((row + 1) * width, 1.0);
        }
        HostArray::f32s(&[rows, width], &scales)
    }

    /// Integers, scales and minima of blocks.
    fn opened(&self, local: &LocalWeight, block: BlockFormat) -> Vec<HostArray> {
        let WeightLayout { rows, cols, .. } = self.layout;
        let (len, group, width) = (block.block_len(), block.group_len(), cols / block.group_len());
        let mut values = vec![0_i8; rows * cols];
        let (mut scales, mut mins) = (vec![0.0_f32; rows * width], vec![0.0_f32; rows * width]);
        let mut stored = vec![0; local.row_bytes()];
        let mut groups = quant::Groups::default();
        for row in 0..rows {
            local.read_row(row, &mut stored);
            for (i, bytes) in stored.chunks_exact(block.block_bytes()).enumerate() {
                quant::open(block, bytes, &mut groups);
                values[row * cols + i * len..][..len].copy_from_slice(&groups.quants[..len]);
                let (at, count) = (row * width + i * len / group, len / group);
                scales[at..][..count].copy_from_slice(&groups.scales[..count]);
                mins[at..][..count].copy_from_slice(&groups.mins[..count]);
            }
        }
        let mut arrays = vec![
            HostArray::of(&[rows, cols], Element::I8, bytemuck::cast_slice(&values)),
            HostArray::f32s(&[rows, width], &scales),
        ];
        if block.has_min() {
            arrays.push(HostArray::f32s(&[rows, width], &mins));
        }
        arrays
    }

    /// For each column of the weight the column of the rank's input that it meets; one beyond the input meets zero.
    fn columns(&self, local: &LocalWeight) -> HostArray {
        let inputs = self.input_cols();
        let mut columns = vec![inputs as i32; self.layout.cols];
        match local.input() {
            None => columns.iter_mut().take(inputs).enumerate().for_each(|(i, column)| *column = i as i32),
            Some(spans) => {
                for span in spans {
                    for i in 0..span.len {
                        columns[span.to + i] = (span.from + i) as i32;
                    }
                }
            }
        }
        HostArray::i32s(&[self.layout.cols], &columns)
    }

    /// Columns of a rank's own input.
    fn input_cols(&self) -> usize {
        match &self.spec.sharding {
            Sharding::Split { dim: Dim::Columns, layout, .. } => layout.local_len(),
            _ => self.spec.shape[1],
        }
    }
}
