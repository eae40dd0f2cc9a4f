//! The tensor types of GGUF files, supported or not.

use crate::checkpoint::Encoding;
use nxd_ops::{BlockFormat, Format};

/// The last number that is looked at for a format.
const LAST_TYPE: u32 = 41;

/// A tensor type of ggml.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GgmlType {
    pub(super) encoding: Encoding,
    pub(super) block_len: u64,
    pub(super) block_bytes: u64,
}

/// The type behind a number in a file; `None` for numbers that were never given out or were taken back.
///
/// Source: `enum ggml_type` of `ggml.h` and the block structures of `ggml-common.h` in llama.cpp.
pub(super) fn ggml_type(number: u32) -> Option<GgmlType> {
    use BlockFormat::*;
    Some(match number {
        0 => supported(Format::F32),
        1 => supported(Format::F16),
        2 => supported(Format::Blocks(Q4_0)),
        3 => supported(Format::Blocks(Q4_1)),
        6 => supported(Format::Blocks(Q5_0)),
        7 => supported(Format::Blocks(Q5_1)),
        8 => supported(Format::Blocks(Q8_0)),
        9 => other("Q8_1", 32, 36),
        10 => supported(Format::Blocks(Q2_K)),
        11 => supported(Format::Blocks(Q3_K)),
        12 => supported(Format::Blocks(Q4_K)),
        13 => supported(Format::Blocks(Q5_K)),
        14 => supported(Format::Blocks(Q6_K)),
        15 => other("Q8_K", 256, 292),
        16 => other("IQ2_XXS", 256, 66),
        17 => other("IQ2_XS", 256, 74),
        18 => other("IQ3_XXS", 256, 98),
        19 => other("IQ1_S", 256, 50),
        20 => supported(Format::Blocks(IQ4_NL)),
        21 => other("IQ3_S", 256, 110),
        22 => other("IQ2_S", 256, 82),
        23 => supported(Format::Blocks(IQ4_XS)),
        24 => other("I8", 1, 1),
        25 => other("I16", 1, 2),
        26 => other("I32", 1, 4),
        27 => other("I64", 1, 8),
        28 => other("F64", 1, 8),
        29 => other("IQ1_M", 256, 56),
        30 => supported(Format::BF16),
        34 => other("TQ1_0", 256, 54),
        35 => other("TQ2_0", 256, 66),
        39 => supported(Format::Blocks(MXFP4)),
        40 => other("NVFP4", 64, 36),
        41 => other("Q1_0", 128, 18),
        _ => return None,
    })
}

/// The number of a format in a file; `None` where it has none.
pub(in crate::checkpoint) fn type_number(format: Format) -> Option<u32> {
    (0..=LAST_TYPE).find(|&number| ggml_type(number).is_some_and(|t| t.encoding == Encoding::Supported(format)))
}

fn supported(format: Format) -> GgmlType {
    let (block_len, block_bytes) = (format.block_len() as u64, format.block_bytes() as u64);
    GgmlType { encoding: Encoding::Supported(format), block_len, block_bytes }
}

fn other(name: &'static str, block_len: u64, block_bytes: u64) -> GgmlType {
    GgmlType { encoding: Encoding::Other(name), block_len, block_bytes }
}
