//! How the numbers of a weight are stored: plain floats, bytes under scales of their own, or blocks of quantised values as GGUF files have
//! them.

use std::fmt;

/// The storage format of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes.
    F16,
    /// The upper half of a single, 2 bytes.
    BF16,
    /// Signed bytes, to be multiplied with a scale of their tensor or row ([`Scales`](crate::weight::Scales)).
    I8,
    /// Floats of one byte, 4 bits of it an exponent, to be multiplied with a scale of their tensor, row or block. There are no infinities;
    /// the largest magnitude is 448, and what lies behind it is NaN (`e4m3fn`).
    E4M3,
    /// Floats of one byte, the upper half of an f16, to be multiplied with a scale of their tensor, row or block.
    E5M2,
    /// Blocks of quantised values along a row.
    Blocks(BlockFormat),
}

/// A block format: those of GGUF files, and `INT4`, `INT4_128` and `INT8`, in which integers under group scales and zero points are read from
/// checkpoints that keep the three in tensors of their own. A block holds [`BlockFormat::block_len`] neighbouring values of one row.
///
/// The three begin with an f32 scale and, as 16 bits, the zero point with its sign turned over; a value is `scale * (q - zero)`, exact in f32
/// where the scale has at most 16 bits. Then come unsigned integers of 4 bits, those of value `k` under those of value `k + 16` of each 32,
/// or signed ones of 8.
///
/// Source: the block structures of `ggml-common.h` in llama.cpp; OCP Microscaling Formats (MX) v1.0, section 5.3.3, for MXFP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs, reason = "the formats' own names")]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    INT4,
    INT4_128,
    INT8,
}

impl BlockFormat {
    /// Every block format, in the order of the declaration.
    pub const ALL: [BlockFormat; 16] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2_K,
        BlockFormat::Q3_K,
        BlockFormat::Q4_K,
        BlockFormat::Q5_K,
        BlockFormat::Q6_K,
        BlockFormat::IQ4_NL,
        BlockFormat::IQ4_XS,
        BlockFormat::MXFP4,
        BlockFormat::INT4,
        BlockFormat::INT4_128,
        BlockFormat::INT8,
    ];

    /// (name, values a block, bytes a block, values a scale, whether a minimum is added)
    const fn facts(self) -> (&'static str, usize, usize, usize, bool) {
        match self {
            BlockFormat::Q4_0 => ("Q4_0", 32, 18, 32, false),
            BlockFormat::Q4_1 => ("Q4_1", 32, 20, 32, true),
            BlockFormat::Q5_0 => ("Q5_0", 32, 22, 32, false),
            BlockFormat::Q5_1 => ("Q5_1", 32, 24, 32, true),
            BlockFormat::Q8_0 => ("Q8_0", 32, 34, 32, false),
            BlockFormat::Q2_K => ("Q2_K", 256, 84, 16, true),
            BlockFormat::Q3_K => ("Q3_K", 256, 110, 16, false),
            BlockFormat::Q4_K => ("Q4_K", 256, 144, 32, true),
            BlockFormat::Q5_K => ("Q5_K", 256, 176, 32, true),
            BlockFormat::Q6_K => ("Q6_K", 256, 210, 16, false),
            BlockFormat::IQ4_NL => ("IQ4_NL", 32, 18, 32, false),
            BlockFormat::IQ4_XS => ("IQ4_XS", 256, 136, 32, false),
            BlockFormat::MXFP4 => ("MXFP4", 32, 17, 32, false),
            BlockFormat::INT4 => ("INT4", 32, 22, 32, true),
            BlockFormat::INT4_128 => ("INT4_128", 128, 70, 32, true),
            BlockFormat::INT8 => ("INT8", 32, 38, 32, true),
        }
    }

    /// The name used in GGUF tools, where they have the format.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// Values a block.
    pub const fn block_len(self) -> usize {
        self.facts().1
    }

    /// Bytes a block.
    pub const fn block_bytes(self) -> usize {
        self.facts().2
    }

    /// Values that are taken to share one scale (and minimum), though more may: 16 or 32.
    pub const fn group_len(self) -> usize {
        self.facts().3
    }

    /// Whether a group's values are `scale * q + min` rather than `scale * q`.
    pub const fn has_min(self) -> bool {
        self.facts().4
    }
}

impl Format {
    /// Every format, in the order of the declaration.
    pub fn all() -> impl Iterator<Item = Format> {
        let plain = [Format::F32, Format::F16, Format::BF16, Format::I8, Format::E4M3, Format::E5M2];
        plain.into_iter().chain(BlockFormat::ALL.map(Format::Blocks))
    }

    /// The name that `nxd inspect` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::I8 => "I8",
            Format::E4M3 => "F8_E4M3",
            Format::E5M2 => "F8_E5M2",
            Format::Blocks(block) => block.name(),
        }
    }

    /// Values that must stay together in a row: 1 unless they lie in blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Format::Blocks(block) => block.block_len(),
            _ => 1,
        }
    }

    /// Bytes of [`Format::block_len`] values.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::I8 | Format::E4M3 | Format::E5M2 => 1,
            Format::Blocks(block) => block.block_bytes(),
        }
    }

    /// Bytes of a row of `cols` values; `None` when `cols` is not a whole number of blocks or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the values are integers under scales, which may meet integers.
    pub const fn is_quantised(self) -> bool {
        matches!(self, Format::Blocks(_) | Format::I8)
    }

    /// Whether the numbers are bytes that [`Scales`](crate::weight::Scales) may belong to.
    pub const fn takes_scales(self) -> bool {
        matches!(self, Format::I8 | Format::E4M3 | Format::E5M2)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
