//! GGUF files, versions 2 and 3, little-endian.
//!
//! Nothing in the file is trusted: counts and lengths are compared with what is left of the file before anything is allocated,
//! arithmetic is checked, and the tensor table must describe the data section exactly, without gap or overlap. Bytes behind the last
//! tensor are ignored with a warning, as llama.cpp does without one.
//!
//! Source: `docs/gguf.md` of ggml, and `gguf.cpp` of llama.cpp for what it refuses.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

mod error;
mod metadata;
mod reader;
mod split;
mod types;

pub use error::GgufError;
pub use metadata::{Array, Kind, Metadata, MetadataError, Value};
pub use split::{SplitError, siblings};

pub(super) use split::open;
pub(super) use types::type_number;

use super::{TensorInfo, file_index};
use nxd_ops::SharedBytes;
use reader::Reader;
use std::collections::HashMap;
use types::{GgmlType, ggml_type};

const MAX_TENSORS: u64 = 65_536;
const MAX_NAME_BYTES: u64 = 255;
const MAX_ALIGNMENT: u32 = 65_536;
const DEFAULT_ALIGNMENT: u32 = 32;

/// What a GGUF checkpoint says beside its tensors. That of a split one is in its first part.
#[derive(Clone, Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
}

/// An entry of the tensor table.
struct Entry {
    name: String,
    /// As stored: the length of a row first.
    dims: Vec<u64>,
    kind: GgmlType,
    /// From the start of the data section.
    offset: u64,
}

impl Gguf {
    /// The version of the file format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value table.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads header, metadata and tensor table of a file of `file_bytes` bytes named `file`, which begins with `head` and is number
    /// `number` of its checkpoint.
    fn parse(
        head: &SharedBytes,
        file_bytes: usize,
        file: &str,
        number: usize,
    ) -> Result<(Gguf, Vec<TensorInfo>), GgufError> {
        let mut reader = Reader::of_head(head, file_bytes);
        let version = read_version(&mut reader)?;
        // The smallest entry: an empty name, n_dims, one dimension, type and offset.
        let num_tensors = reader.count("tensor", 32, MAX_TENSORS)?;
        let num_keys = Metadata::count(&mut reader)?;
        let metadata = Metadata::read(&mut reader, head, num_keys, file)?;
        let alignment = u64::from(alignment(&metadata)?);
        let entries = read_entries(&mut reader, num_tensors)?;
        let data_start = (reader.at() as u64).next_multiple_of(alignment);
        let (tensors, end) = lay_out(entries, data_start, alignment, file_bytes, number)?;
        // Writers pad the last tensor, too.
        let trailing = (file_bytes as u64).saturating_sub(end.next_multiple_of(alignment));
        if trailing > 0 {
            tracing::warn!("{file}: {trailing} bytes behind the last tensor are ignored");
        }
        Ok((Gguf { version, metadata }, tensors))
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32, GgufError> {
    if reader.left() == 0 {
        return Err(GgufError::Empty);
    }
    let magic: [u8; 4] = reader.array(format_args!("magic"))?;
    match &magic {
        b"GGUF" => {}
        b"GGML" | b"ggml" | b"lmgg" | b"ggmf" | b"fmgg" | b"ggjt" | b"tjgg" | b"ggla" | b"algg" => {
            return Err(GgufError::OldFormat { magic: magic.escape_ascii().to_string() });
        }
        _ => return Err(GgufError::Magic { found: format!("`{}`", magic.escape_ascii()) }),
    }
    let found = reader.u32(format_args!("the version"))?;
    let reason = match found {
        2 | 3 => return Ok(found),
        0 => "there is no such version",
        1 => "GGUF v1 is no longer supported, convert the model again",
        _ if (1..=255).contains(&found.swap_bytes()) => "byte-swapped: big-endian GGUF is not supported",
        _ => "newer than the supported 3",
    };
    Err(GgufError::Version { found, reason })
}

fn alignment(metadata: &Metadata) -> Result<u32, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(found)) if found.is_power_of_two() && found <= MAX_ALIGNMENT => Ok(found),
        Some(&Value::U32(found)) => Err(GgufError::Alignment { found, limit: MAX_ALIGNMENT }),
        Some(value) => Err(GgufError::AlignmentType { found: value.to_string() }),
    }
}

fn read_entries(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Entry>, GgufError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for index in 0..count {
        let name = reader.string(MAX_NAME_BYTES, format_args!("tensor name at index {index}"))?.to_owned();
        if name.is_empty() {
            return Err(GgufError::EmptyTensorName { index });
        }
        let second = entries.len();
        if let Some(first) = places.insert(name.clone(), second) {
            return Err(GgufError::DuplicateTensor { name, first, second });
        }
        let num_dims = reader.u32(format_args!("n_dims of tensor `{name}`"))?;
        if !(1..=4).contains(&num_dims) {
            return Err(GgufError::Dims { tensor: name, found: num_dims });
        }
        let dims = (0..num_dims)
            .map(|_| reader.u64(format_args!("the shape of tensor `{name}`")))
            .collect::<Result<Vec<u64>, _>>()?;
        let number = reader.u32(format_args!("the type of tensor `{name}`"))?;
        let offset = reader.u64(format_args!("the offset of tensor `{name}`"))?;
        let Some(kind) = ggml_type(number) else {
            return Err(GgufError::TensorType { tensor: name, found: number });
        };
        entries.push(Entry { name, dims, kind, offset });
    }
    Ok(entries)
}

/// Gives each tensor its place in the file; also the end of the last one.
fn lay_out(
    entries: Vec<Entry>,
    data_start: u64,
    alignment: u64,
    file_bytes: usize,
    number: usize,
) -> Result<(Vec<TensorInfo>, u64), GgufError> {
    let mut ranges = Vec::with_capacity(entries.len());
    let mut file_end = data_start;
    for entry in &entries {
        let size = byte_size(entry)?;
        let Entry { offset, .. } = *entry;
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Unaligned { tensor: entry.name.clone(), offset, alignment });
        }
        let start = data_start.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(size));
        // The aligned end is computed below, so it must not overflow either.
        let padded = end.and_then(|end| end.checked_add(alignment));
        let (Some(start), Some(end), Some(_)) = (start, end, padded) else {
            return Err(overflow(entry, "end of data"));
        };
        file_end = file_end.max(end);
        ranges.push((start, end));
    }
    let mut expected = data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    for (entry, &(start, end)) in entries.iter().zip(&ranges) {
        if end > file_bytes as u64 {
            let percent = (file_bytes as u128).saturating_mul(100).checked_div(file_end.into());
            let percent = percent.and_then(|percent| u64::try_from(percent).ok()).unwrap_or(0);
            return Err(GgufError::PastEnd { tensor: entry.name.clone(), start, end, file_bytes, percent });
        }
        if start != expected {
            let relative = |at: u64| at.saturating_sub(data_start);
            let (found, expected) = (relative(start), relative(expected));
            return Err(GgufError::Packing { tensor: entry.name.clone(), found, expected });
        }
        expected = end.next_multiple_of(alignment);
    }
    for (entry, (start, end)) in entries.into_iter().zip(ranges) {
        let (Some(start), Some(end)) = (file_index(start), file_index(end)) else {
            return Err(overflow(&entry, "end of data"));
        };
        let Some(shape) = entry.dims.iter().rev().map(|&dim| file_index(dim)).collect::<Option<Vec<usize>>>() else {
            return Err(overflow(&entry, "element count"));
        };
        tensors.push(TensorInfo {
            name: entry.name,
            encoding: entry.kind.encoding,
            shape,
            file: number,
            range: start..end,
        });
    }
    Ok((tensors, file_end))
}

/// Bytes of a tensor's data.
fn byte_size(entry: &Entry) -> Result<u64, GgufError> {
    let Entry { name, dims, kind, .. } = entry;
    if dims.contains(&0) {
        return Err(GgufError::ZeroDim { tensor: name.clone(), dims: dims.clone() });
    }
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    // As signed numbers, because that is how other programs count elements.
    let Some(elements) = elements.filter(|&n| i64::try_from(n).is_ok()) else {
        return Err(overflow(entry, "element count"));
    };
    let ne0 = dims.first().copied().unwrap_or(0);
    if !ne0.is_multiple_of(kind.block_len) {
        let (tensor, format, block_len) = (name.clone(), kind.encoding.name(), kind.block_len);
        return Err(GgufError::Blocks { tensor, format, ne0, block_len });
    }
    let blocks = elements.checked_div(kind.block_len).unwrap_or(0);
    blocks.checked_mul(kind.block_bytes).ok_or_else(|| overflow(entry, "byte count"))
}

fn overflow(entry: &Entry, what: &'static str) -> GgufError {
    GgufError::Overflow { tensor: entry.name.clone(), dims: entry.dims.clone(), what }
}
