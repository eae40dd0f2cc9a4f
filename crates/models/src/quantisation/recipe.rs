//! Which tensors of a checkpoint are a quantised weight together, and what they become.

use super::packed::{Integers, Packing, ScaleGrid, ScaleType};
use super::rows::{Grouped, Mxfp4, Order, Zeros, sorted};
use super::scheme::{Scheme, Strategy, WeightArgs};
use crate::checkpoint::{Checkpoint, CheckpointError, StoredTensor, TensorInfo};
use nxd_ops::{BlockFormat, Format, Scales, SharedBytes, SourceError, StoredData, StoredRows};
use std::sync::Arc;

/// A quantised weight, found in the table of tensors. Its data is not read.
#[derive(Clone, Debug)]
pub(crate) struct Recipe<'c> {
    /// The format that it is given in.
    pub(crate) format: Format,
    /// Its shape, rows first.
    pub(crate) shape: Vec<usize>,
    /// Whether rows are outputs, however the family stores its matrices where they are not quantised.
    pub(crate) is_upright: bool,
    /// The tensors that it is made of, the numbers first.
    pub(crate) tensors: Vec<&'c TensorInfo>,
    kind: Kind<'c>,
}

#[derive(Clone, Debug)]
enum Kind<'c> {
    /// Bytes under scales of groups of so many rows and columns.
    Scaled { scales: &'c TensorInfo, rows: usize, cols: usize },
    /// Small integers under scales and zero points of groups.
    Grouped(Parts<'c>),
    /// Codes under powers of two.
    Mxfp4 { exponents: &'c TensorInfo },
}

/// The parts of integers in groups.
#[derive(Clone, Debug)]
struct Parts<'c> {
    bits: u32,
    group: usize,
    packing: Packing,
    transposed: bool,
    scales: &'c TensorInfo,
    /// How zero points are packed, and what is added to each; `None` for the middle of the range.
    zeros: Option<(&'c TensorInfo, Packing, i16)>,
    group_index: Option<&'c TensorInfo>,
}

/// A checkpoint in which recipes are looked for.
#[derive(Clone, Copy)]
pub(super) struct Search<'c> {
    pub(super) checkpoint: &'c Checkpoint,
    pub(super) scheme: Option<&'c Scheme>,
}

impl<'c> Search<'c> {
    /// The recipe of the weight that would be called `name` if it were not quantised; `None` where it is not.
    pub(super) fn recipe(&self, name: &str) -> Result<Option<Recipe<'c>>, SourceError> {
        let base = name.strip_suffix(".weight").unwrap_or(name);
        let has = |suffix: &str| self.checkpoint.info(&format!("{base}{suffix}"));
        if let Some(codes) = has("_blocks") {
            return self.mxfp4(base, codes).map(Some);
        }
        if base == name {
            return Ok(None);
        }
        let plain = has(".weight");
        match (self.scheme, has(".qweight"), has(".weight_packed")) {
            (Some(&Scheme::Gptq { bits, group, zero_offset }), Some(words), _) => {
                self.gptq(base, words, bits, group, zero_offset).map(Some)
            }
            (Some(Scheme::Awq { group }), Some(words), _) => self.awq(base, words, *group).map(Some),
            (Some(Scheme::CompressedTensors(args)), _, Some(words)) => self.pack_quantized(base, words, args).map(Some),
            (_, Some(words), _) | (_, _, Some(words)) => Err(self.unexplained(words)),
            (Some(scheme), None, None) if plain.is_none() => Err(self.missing(base, scheme)),
            _ => match plain.map(|plain| (plain, byte_format(plain))) {
                Some((plain, Some(format))) => self.bytes(base, plain, format).map(Some),
                _ => Ok(None),
            },
        }
    }

    /// The tensor `base` + `suffix`, which must be there.
    fn side(&self, base: &str, suffix: &str) -> Result<&'c TensorInfo, SourceError> {
        let name = format!("{base}{suffix}");
        self.checkpoint.entry(&name).map_err(|error| self.failed(error, &name))
    }

    fn failed(&self, error: CheckpointError, tensor: &str) -> SourceError {
        match error {
            CheckpointError::MissingTensor { file, tensor, hint } => SourceError::Missing { file, tensor, hint },
            error => {
                let (file, hint) = (self.checkpoint.name(), format!(" ({error})"));
                SourceError::Missing { file, tensor: tensor.to_owned(), hint }
            }
        }
    }

    fn wrong(&self, info: &TensorInfo, found: impl Into<String>, expected: impl Into<String>) -> SourceError {
        SourceError::Quantised { origin: self.checkpoint.origin(info), found: found.into(), expected: expected.into() }
    }

    fn unexplained(&self, words: &TensorInfo) -> SourceError {
        let says = match self.scheme {
            Some(scheme) => format!("holds packed integers, and config.json says `{scheme}`"),
            None => "holds packed integers, and config.json has no `quantization_config`".to_owned(),
        };
        self.wrong(words, says, "gptq or awq for `qweight`, compressed-tensors for `weight_packed`")
    }

    /// Neither a dense weight nor the scheme's own.
    fn missing(&self, base: &str, scheme: &Scheme) -> SourceError {
        let suffix = match scheme {
            Scheme::Gptq { .. } | Scheme::Awq { .. } => ".qweight",
            Scheme::CompressedTensors(args) if args.iter().any(|args| args.bits == 4) => ".weight_packed",
            _ => ".weight",
        };
        let found = self.side(base, suffix).map(|info| self.unexplained(info));
        found.unwrap_or_else(|missing| missing)
    }

    /// Fails unless a tensor has this dtype and shape.
    fn check(&self, info: &TensorInfo, dtype: &str, shape: &[usize]) -> Result<(), SourceError> {
        if info.encoding.name() == dtype && info.shape == shape {
            return Ok(());
        }
        self.wrong_shape(info, dtype, shape)
    }

    fn wrong_shape<T>(&self, info: &TensorInfo, dtype: &str, shape: &[usize]) -> Result<T, SourceError> {
        let found = format!("is {:?} of {}", info.shape, info.encoding.name());
        Err(self.wrong(info, found, format!("{shape:?} of {dtype}")))
    }

    /// Rows and columns of a tensor of words.
    fn words(&self, info: &TensorInfo) -> Result<[usize; 2], SourceError> {
        match info.shape[..] {
            [rows, cols] if info.encoding.name() == "I32" && rows > 0 && cols > 0 => Ok([rows, cols]),
            _ => Err(self.wrong(info, format!("is {:?} of {}", info.shape, info.encoding.name()), "a matrix of I32")),
        }
    }

    fn gptq(
        &self,
        base: &str,
        words: &'c TensorInfo,
        bits: u32,
        group: Option<usize>,
        zero_offset: i16,
    ) -> Result<Recipe<'c>, SourceError> {
        let ([down, rows], per) = (self.words(words)?, 32 / bits as usize);
        let cols = down.saturating_mul(per);
        let group_index = self.checkpoint.info(&format!("{base}.g_idx"));
        let zeros = self.side(base, ".qzeros")?;
        let parts = Parts {
            bits,
            group: group.unwrap_or(cols),
            packing: Packing::Down,
            transposed: true,
            scales: self.side(base, ".scales")?,
            zeros: Some((zeros, Packing::Across, zero_offset)),
            group_index,
        };
        let groups = cols.div_ceil(parts.group);
        self.check(zeros, "I32", &[groups, rows.div_ceil(per)])?;
        self.grouped(words, [rows, cols], parts)
    }

    fn awq(&self, base: &str, words: &'c TensorInfo, group: Option<usize>) -> Result<Recipe<'c>, SourceError> {
        let [cols, across] = self.words(words)?;
        let zeros = self.side(base, ".qzeros")?;
        let parts = Parts {
            bits: 4,
            group: group.unwrap_or(cols),
            packing: Packing::EvenFirst,
            transposed: true,
            scales: self.side(base, ".scales")?,
            zeros: Some((zeros, Packing::EvenFirst, 0)),
            group_index: None,
        };
        self.check(zeros, "I32", &[cols.div_ceil(parts.group), across])?;
        self.grouped(words, [across.saturating_mul(8), cols], parts)
    }

    fn pack_quantized(
        &self,
        base: &str,
        words: &'c TensorInfo,
        args: &[WeightArgs],
    ) -> Result<Recipe<'c>, SourceError> {
        let [rows, across] = self.words(words)?;
        let shape = self.side(base, ".weight_shape")?;
        let cols = self.columns(shape, rows)?;
        let bits = [4, 8].into_iter().find(|bits| cols.div_ceil(32 / *bits as usize) == across);
        let scales = self.side(base, ".weight_scale")?;
        let fits = |args: &&WeightArgs| {
            Some(args.bits) == bits && !args.is_float && groups_of(args, cols) == per_row(scales, rows)
        };
        let Some(args) = args.iter().find(fits) else {
            let found = format!("is {:?} for {cols} columns under scales {:?}", words.shape, scales.shape);
            return Err(self.wrong(words, found, format!("what config.json says: {}", list(args))));
        };
        let zeros = match args.symmetric {
            true => None,
            false => Some((self.side(base, ".weight_zero_point")?, Packing::Down, 0)),
        };
        let group = group_of(args, cols);
        if let Some((zeros, ..)) = zeros {
            self.check(zeros, "I32", &[rows.div_ceil(32 / args.bits as usize), cols.div_ceil(group)])?;
        }
        let group_index = self.checkpoint.info(&format!("{base}.weight_g_idx"));
        let (bits, packing) = (args.bits, Packing::Across);
        let parts = Parts { bits, group, packing, transposed: false, scales, zeros, group_index };
        let mut recipe = self.grouped(words, [rows, cols], parts)?;
        recipe.tensors.push(shape);
        Ok(recipe)
    }

    /// The columns that a `weight_shape` tells, whose rows must be `rows`.
    fn columns(&self, info: &TensorInfo, rows: usize) -> Result<usize, SourceError> {
        let bytes = match info.shape[..] {
            [2] => self.checkpoint.bytes(info).map_err(|error| self.failed(error, &info.name))?,
            _ => return self.wrong_shape(info, "I64", &[2]),
        };
        let values: Vec<usize> = match info.encoding.name() {
            "I64" => {
                bytes.as_chunks::<8>().0.iter().filter_map(|v| usize::try_from(i64::from_le_bytes(*v)).ok()).collect()
            }
            "I32" => {
                bytes.as_chunks::<4>().0.iter().filter_map(|v| usize::try_from(i32::from_le_bytes(*v)).ok()).collect()
            }
            _ => return self.wrong_shape(info, "I64", &[2]),
        };
        match values[..] {
            [found, cols] if found == rows && (1..=1 << 28).contains(&cols) => Ok(cols),
            _ => Err(self.wrong(info, format!("holds {values:?}"), format!("{rows} rows and a number of columns"))),
        }
    }

    /// Checks what all integers in groups have.
    fn grouped(
        &self,
        words: &'c TensorInfo,
        [rows, cols]: [usize; 2],
        parts: Parts<'c>,
    ) -> Result<Recipe<'c>, SourceError> {
        let groups = cols.div_ceil(parts.group);
        let scales = parts.scales;
        let expected = if parts.transposed { [groups, rows] } else { [rows, groups] };
        if ScaleType::of(scales.encoding.name()).is_none() || scales.shape != expected {
            return self.wrong_shape(scales, "F32, F16 or BF16", &expected);
        }
        if let Some(index) = parts.group_index {
            self.check(index, "I32", &[cols])?;
        }
        let tensors = [Some(words), Some(scales), parts.zeros.as_ref().map(|zeros| zeros.0), parts.group_index];
        Ok(Recipe {
            format: Grouped::format(parts.bits, parts.group, cols),
            shape: vec![rows, cols],
            is_upright: true,
            tensors: tensors.into_iter().flatten().collect(),
            kind: Kind::Grouped(parts),
        })
    }

    fn mxfp4(&self, base: &str, codes: &'c TensorInfo) -> Result<Recipe<'c>, SourceError> {
        let exponents = self.side(base, "_scales")?;
        let (Some((&16, grid)), "U8") = (codes.shape.split_last(), codes.encoding.name()) else {
            let found = format!("is {:?} of {}", codes.shape, codes.encoding.name());
            return Err(self.wrong(codes, found, "U8 of […, rows, blocks, 16]"));
        };
        let Some((&blocks, leading)) = grid.split_last().filter(|(_, leading)| !leading.is_empty()) else {
            return Err(self.wrong(codes, format!("is {:?}", codes.shape), "U8 of […, rows, blocks, 16]"));
        };
        if !matches!(exponents.encoding.name(), "U8" | "F8_E8M0") || exponents.shape != grid {
            return self.wrong_shape(exponents, "U8", grid);
        }
        let shape = leading.iter().copied().chain([blocks.saturating_mul(32)]).collect();
        let (format, tensors) = (Format::Blocks(BlockFormat::MXFP4), vec![codes, exponents]);
        Ok(Recipe { format, shape, is_upright: true, tensors, kind: Kind::Mxfp4 { exponents } })
    }

    /// A weight of bytes: signed integers or small floats.
    fn bytes(&self, base: &str, bytes: &'c TensorInfo, format: Format) -> Result<Recipe<'c>, SourceError> {
        let [rows, cols] = match bytes.shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => [rows, cols],
            _ => return Err(self.wrong(bytes, format!("is {:?}", bytes.shape), "a matrix")),
        };
        // Inverse means that the quantiser divided by it; all are multiplied with here.
        let names = [".weight_scale_inv", ".weight_scale", ".scale"];
        let scales = names.into_iter().find_map(|suffix| self.checkpoint.info(&format!("{base}{suffix}")));
        let scales = match scales {
            Some(scales) => scales,
            None => self.side(base, ".weight_scale")?,
        };
        if ScaleType::of(scales.encoding.name()).is_none() {
            return Err(self.wrong(scales, format!("is of {}", scales.encoding.name()), "F32, F16, BF16 or F8_E8M0"));
        }
        let zeros = self.checkpoint.info(&format!("{base}.weight_zero_point"));
        let Some((group_rows, group_cols)) = self.groups_of_bytes(scales, [rows, cols]) else {
            let expected = match self.scheme {
                Some(scheme) => format!("one scale, one a row, or as config.json says: {scheme}"),
                None => "one scale, or one a row".to_owned(),
            };
            return Err(self.wrong(
                scales,
                format!("is {:?} for a weight of [{rows}, {cols}]", scales.shape),
                expected,
            ));
        };
        if format == Format::I8 && group_rows == 1 && (zeros.is_some() || group_cols < cols) {
            let group = group_cols.min(cols);
            if let Some(zeros) = zeros {
                self.check(zeros, "I8", &[rows, cols.div_ceil(group)])?;
            }
            let zeros = zeros.map(|zeros| (zeros, Packing::Bytes, 0));
            let (bits, packing) = (8, Packing::Bytes);
            let parts = Parts { bits, group, packing, transposed: false, scales, zeros, group_index: None };
            let expected = [rows, cols.div_ceil(group)];
            if scales.shape != expected {
                return self.wrong_shape(scales, "F32, F16 or BF16", &expected);
            }
            return self.grouped(bytes, [rows, cols], parts);
        }
        if let Some(zeros) = zeros {
            return Err(self.wrong(zeros, "is there", "no zero points beside floats or a single scale"));
        }
        let kind = Kind::Scaled { scales, rows: group_rows, cols: group_cols };
        Ok(Recipe { format, shape: vec![rows, cols], is_upright: true, tensors: vec![bytes, scales], kind })
    }

    /// Rows and columns that share a scale; `None` where that cannot be.
    fn groups_of_bytes(&self, scales: &TensorInfo, [rows, cols]: [usize; 2]) -> Option<(usize, usize)> {
        let blocks = match self.scheme {
            Some(Scheme::Fp8 { block: Some(block) }) => vec![*block],
            Some(Scheme::CompressedTensors(args)) => args.iter().filter_map(block_of).collect(),
            _ => Vec::new(),
        };
        let grid = |[block_rows, block_cols]: &[usize; 2]| {
            scales.shape == [rows.div_ceil(*block_rows), cols.div_ceil(*block_cols)]
        };
        if let Some([rows, cols]) = blocks.into_iter().find(grid) {
            return Some((rows, cols));
        }
        match scales.shape[..] {
            [] | [1] | [1, 1] => Some((usize::MAX, usize::MAX)),
            [n] | [n, 1] if n == rows => Some((1, usize::MAX)),
            _ => None,
        }
    }
}

impl Recipe<'_> {
    /// Reads the tensors, as far as rows are not made later.
    pub(super) fn tensor(&self, search: Search<'_>) -> Result<StoredTensor, SourceError> {
        let bytes = |info: &TensorInfo| search.checkpoint.bytes(info).map_err(|error| search.failed(error, &info.name));
        let origin = search.checkpoint.origin(self.tensors[0]);
        let data = bytes(self.tensors[0])?;
        let rows = self.shape[..self.shape.len() - 1].iter().product();
        let cols = self.shape[self.shape.len() - 1];
        let (data, scales) = match &self.kind {
            Kind::Scaled { scales, rows, cols } => {
                let values = scale_type(scales).all(&bytes(scales)?).collect();
                (data.into(), Some(Scales { rows: *rows, cols: *cols, values }))
            }
            Kind::Mxfp4 { exponents } => {
                let made = Mxfp4 { codes: data, exponents: bytes(exponents)?, rows, blocks: cols / 32 };
                (made_of(made), None)
            }
            Kind::Grouped(parts) => {
                let grouped = self.grouped(search, parts, data, [rows, cols])?;
                (made_of(grouped), None)
            }
        };
        Ok(StoredTensor { origin, format: self.format, shape: self.shape.clone(), data, scales })
    }

    fn grouped(
        &self,
        search: Search<'_>,
        parts: &Parts<'_>,
        data: SharedBytes,
        [rows, cols]: [usize; 2],
    ) -> Result<Grouped, SourceError> {
        let bytes = |info: &TensorInfo| search.checkpoint.bytes(info).map_err(|error| search.failed(error, &info.name));
        let Parts { bits, group, packing, transposed, .. } = *parts;
        let integers = |info: &TensorInfo, data, packing, transposed| Integers {
            data,
            width: info.shape.last().copied().unwrap_or(0),
            bits,
            packing,
            transposed,
        };
        let scales = bytes(parts.scales)?;
        let kind = scale_type(parts.scales);
        let bad = |scale: &f32| !(0.0..Scales::LIMIT).contains(&scale.abs());
        if let Some((index, scale)) = kind.all(&scales).enumerate().find(|(_, scale)| bad(scale)) {
            return Err(SourceError::Scale { origin: search.checkpoint.origin(parts.scales), scale, index });
        }
        let zeros = match parts.zeros {
            Some((info, packing, plus)) => Zeros::Of(integers(info, bytes(info)?, packing, transposed), plus),
            None => Zeros::Constant(1 << (bits - 1)),
        };
        let order = match parts.group_index {
            Some(info) => self.order(search, info, &bytes(info)?, group)?,
            None => Order::Neighbours,
        };
        if self.format == Format::F32 {
            tracing::warn!(weight = %self.tensors[0].name, group, cols, "groups are no whole blocks: widened to f32");
        }
        Ok(Grouped {
            integers: integers(self.tensors[0], data, packing, transposed),
            scales: ScaleGrid { data: scales, kind, width: parts.scales.shape[1], transposed },
            zeros,
            rows,
            group,
            order,
            format: self.format,
        })
    }

    /// The order of columns that their groups imply.
    fn order(&self, search: Search<'_>, info: &TensorInfo, bytes: &[u8], group: usize) -> Result<Order, SourceError> {
        let index: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|index| i32::from_le_bytes(*index)).collect();
        // What was never filled in means that nothing is out of order.
        if index.contains(&-1) || index.iter().all(|&index| index == 0) {
            return Ok(Order::Neighbours);
        }
        let groups = index.len().div_ceil(group);
        let index: Result<Vec<u32>, i32> = index
            .into_iter()
            .map(|index| u32::try_from(index).ok().filter(|&i| (i as usize) < groups).ok_or(index))
            .collect();
        let index =
            index.map_err(|index| search.wrong(info, format!("holds {index}"), format!("groups below {groups}")))?;
        match (self.format, sorted(&index, group)) {
            (_, Ok(Order::Neighbours)) => Ok(Order::Neighbours),
            (Format::Blocks(_), Ok(order)) => Ok(order),
            (Format::Blocks(_), Err((of, count))) => {
                let found = format!("puts {count} columns into group {of}");
                Err(search.wrong(info, found, format!("{group} in each")))
            }
            _ => Ok(Order::Listed(index.into())),
        }
    }
}

/// The format of a dense-looking weight whose numbers need scales.
fn byte_format(info: &TensorInfo) -> Option<Format> {
    [Format::I8, Format::E4M3, Format::E5M2].into_iter().find(|format| format.name() == info.encoding.name())
}

fn scale_type(info: &TensorInfo) -> ScaleType {
    ScaleType::of(info.encoding.name()).unwrap_or(ScaleType::Floats(Format::F32))
}

fn made_of(rows: impl StoredRows + 'static) -> StoredData {
    StoredData::Rows(Arc::new(rows))
}

fn group_of(args: &WeightArgs, cols: usize) -> usize {
    match args.strategy {
        Strategy::Group(group) => group,
        _ => cols,
    }
}

/// Scales of a row, for integers.
fn groups_of(args: &WeightArgs, cols: usize) -> Option<usize> {
    match args.strategy {
        Strategy::Group(group) => Some(cols.div_ceil(group)),
        Strategy::Channel => Some(1),
        Strategy::Tensor | Strategy::Block(_) => None,
    }
}

fn per_row(scales: &TensorInfo, rows: usize) -> Option<usize> {
    match scales.shape[..] {
        [found, groups] if found == rows => Some(groups),
        _ => None,
    }
}

/// Rows and columns that share a scale.
fn block_of(args: &WeightArgs) -> Option<[usize; 2]> {
    match args.strategy {
        Strategy::Block(block) => Some(block),
        Strategy::Group(group) => Some([1, group]),
        Strategy::Tensor | Strategy::Channel => None,
    }
}

fn list(args: &[WeightArgs]) -> String {
    args.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}
