//! The header of one safetensors file.
//!
//! An entry is parsed by the `safetensors` crate. The rules that it has for the table as a whole are checked here once more, because
//! its errors do not say which tensor is meant, it keeps the last of two tensors of one name, and it needs several times the memory. A
//! property test holds the two against each other.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use crate::checkpoint::{Encoding, TensorInfo};
use nxd_ops::Format;
use safetensors::tensor::{Dtype, TensorInfo as HeaderEntry};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::fmt;

/// Headers of real files are below 1 MB. The format's own limit of 100 MB would let a file make us take six times as much memory.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Bytes that are not a usable safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// Fewer bytes than the header length takes.
    #[error("header length missing: the file has {file_bytes} bytes, a safetensors file starts with 8 bytes of length")]
    NoLength {
        /// Bytes of the file.
        file_bytes: usize,
    },
    /// The header would go beyond the end of the file.
    #[error(
        "header length {found} exceeds the {left} bytes that follow it; is this a safetensors file, completely downloaded?"
    )]
    HeaderLength {
        /// The length.
        found: u64,
        /// Bytes behind it.
        left: u64,
    },
    /// The header is greater than any real one.
    #[error("header length {found} exceeds the limit of {limit} bytes")]
    HeaderLimit {
        /// The length.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The header is not UTF-8.
    #[error("invalid header: not UTF-8 at offset {offset}")]
    Utf8 {
        /// The first wrong byte in the file.
        offset: usize,
    },
    /// The header is not the JSON object that it should be.
    #[error("invalid header: {reason}")]
    Syntax {
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A tensor that is there twice.
    #[error("duplicate tensor `{tensor}`")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// Shape and dtype do not give the size of the data.
    #[error("tensor `{tensor}`: shape {shape:?} of {dtype} needs {needed} bytes, data_offsets give {found}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its dtype.
        dtype: String,
        /// Bytes by shape and dtype.
        needed: usize,
        /// Bytes by offsets.
        found: usize,
    },
    /// The size does not fit into 64 bits, or is not a whole number of bytes.
    #[error("tensor `{tensor}`: the size of shape {shape:?} of {dtype} overflows or is not a whole number of bytes")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its dtype.
        dtype: String,
    },
    /// Data that ends before it begins.
    #[error("tensor `{tensor}`: data_offsets {begin} to {end} are reversed")]
    Reversed {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: usize,
        /// Byte behind the last.
        end: usize,
    },
    /// Tensors that overlap or leave a hole.
    #[error(
        "tensor `{tensor}`: data_offsets begin at {found}, expected {expected}: tensors must follow one another without gap or overlap"
    )]
    Packing {
        /// The tensor.
        tensor: String,
        /// Where it begins.
        found: usize,
        /// Where the tensor before it ends.
        expected: usize,
    },
    /// The data section is shorter than the header says.
    #[error("truncated: the tensors end at byte {needed}, the file has {found}; is the download incomplete?")]
    Truncated {
        /// End of the last tensor in the file.
        needed: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The file goes on behind the last tensor.
    #[error("{extra} bytes follow the last tensor, which the format forbids")]
    Trailing {
        /// How many.
        extra: u64,
    },
}

/// The tensors of a file of `file_bytes` bytes that begins with `head`, in the order of their data.
pub(super) fn parse(head: &[u8], file_bytes: usize, number: usize) -> Result<Vec<TensorInfo>, SafetensorsError> {
    let (header, data_start) = header_text(head, file_bytes)?;
    let Header(mut entries) =
        serde_json::from_str(header).map_err(|e| SafetensorsError::Syntax { reason: e.to_string() })?;
    check_names(&entries)?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    check_layout(&entries, data_start, file_bytes)?;
    let tensor = |(name, entry): (String, HeaderEntry)| {
        let (begin, end) = entry.data_offsets;
        // Neither overflows: both were compared with the length of the file.
        let range = data_start.saturating_add(begin)..data_start.saturating_add(end);
        TensorInfo { name, encoding: encoding(entry.dtype), shape: entry.shape, file: number, range }
    };
    Ok(entries.into_iter().map(tensor).collect())
}

/// The header as text, and where the data starts.
fn header_text(head: &[u8], file_bytes: usize) -> Result<(&str, usize), SafetensorsError> {
    let Some((length, rest)) = head.split_first_chunk() else {
        return Err(SafetensorsError::NoLength { file_bytes });
    };
    let (found, left) = (u64::from_le_bytes(*length), file_bytes.saturating_sub(length.len()) as u64);
    if found <= left && found > MAX_HEADER_BYTES {
        return Err(SafetensorsError::HeaderLimit { found, limit: MAX_HEADER_BYTES });
    }
    // More than the head has: an error for a whole file, and for a part of one a reason to read on.
    let header = usize::try_from(found).ok().and_then(|len| rest.get(..len));
    let Some(header) = header else {
        return Err(SafetensorsError::HeaderLength { found, left });
    };
    let data_start = length.len().saturating_add(header.len());
    match std::str::from_utf8(header) {
        Ok(text) => Ok((text, data_start)),
        Err(e) => Err(SafetensorsError::Utf8 { offset: length.len().saturating_add(e.valid_up_to()) }),
    }
}

/// Fails when a name comes twice, where a map would keep the last.
fn check_names(entries: &[(String, HeaderEntry)]) -> Result<(), SafetensorsError> {
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let twice = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b);
    twice.map_or(Ok(()), |(name, _)| Err(SafetensorsError::Duplicate { tensor: (*name).to_owned() }))
}

/// Fails unless the tensors, sorted by offset, cover the data section exactly.
fn check_layout(
    entries: &[(String, HeaderEntry)],
    data_start: usize,
    file_bytes: usize,
) -> Result<(), SafetensorsError> {
    let mut expected = 0;
    for (tensor, HeaderEntry { dtype, shape, data_offsets }) in entries {
        let (begin, end) = *data_offsets;
        let tensor = || tensor.clone();
        let Some(found) = end.checked_sub(begin) else {
            return Err(SafetensorsError::Reversed { tensor: tensor(), begin, end });
        };
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bitsize()));
        let dtype = || dtype.to_string();
        let Some(needed) = bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8) else {
            return Err(SafetensorsError::Overflow { tensor: tensor(), shape: shape.clone(), dtype: dtype() });
        };
        if needed != found {
            let shape = shape.clone();
            return Err(SafetensorsError::Size { tensor: tensor(), shape, dtype: dtype(), needed, found });
        }
        if begin != expected {
            return Err(SafetensorsError::Packing { tensor: tensor(), found: begin, expected });
        }
        expected = end;
    }
    let (needed, found) = ((data_start as u64).saturating_add(expected as u64), file_bytes as u64);
    match found.checked_sub(needed) {
        Some(0) => Ok(()),
        Some(extra) => Err(SafetensorsError::Trailing { extra }),
        None => Err(SafetensorsError::Truncated { needed, found }),
    }
}

fn encoding(dtype: Dtype) -> Encoding {
    Encoding::Other(match dtype {
        Dtype::F32 => return Encoding::Supported(Format::F32),
        Dtype::F16 => return Encoding::Supported(Format::F16),
        Dtype::BF16 => return Encoding::Supported(Format::BF16),
        Dtype::BOOL => "BOOL",
        Dtype::F4 => "F4",
        Dtype::F6_E2M3 => "F6_E2M3",
        Dtype::F6_E3M2 => "F6_E3M2",
        Dtype::U8 => "U8",
        Dtype::I8 => "I8",
        Dtype::F8_E5M2 => "F8_E5M2",
        Dtype::F8_E4M3 => "F8_E4M3",
        Dtype::F8_E8M0 => "F8_E8M0",
        Dtype::F8_E4M3FNUZ => "F8_E4M3FNUZ",
        Dtype::F8_E5M2FNUZ => "F8_E5M2FNUZ",
        Dtype::I16 => "I16",
        Dtype::U16 => "U16",
        Dtype::I32 => "I32",
        Dtype::U32 => "U32",
        Dtype::C64 => "C64",
        Dtype::F64 => "F64",
        Dtype::I64 => "I64",
        Dtype::U64 => "U64",
        _ => "a dtype of a newer format",
    })
}

/// A header's tensors as written.
struct Header(Vec<(String, HeaderEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut entries, mut has_metadata) = (Vec::new(), false);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::duplicate_field("__metadata__"));
                }
                map.next_value::<Option<HashMap<String, String>>>()
                    .map_err(|e| A::Error::custom(format_args!("`__metadata__` must map strings to strings: {e}")))?;
                continue;
            }
            let entry = map.next_value().map_err(|e| A::Error::custom(format_args!("tensor `{name}`: {e}")))?;
            entries.push((name, entry));
        }
        Ok(Header(entries))
    }
}
