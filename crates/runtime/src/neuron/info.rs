//! What a loaded model takes and gives, copied out of libnrt's memory and checked on the way.
#![allow(unsafe_code, reason = "foreign memory")]

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ptr;

use super::abi::{Handle, RawModel, RawTensorInfo, RawTensorInfos, check};
use super::error::NeuronError;
use super::runtime::Core;

/// More tensors than a NEFF can have: a larger count is garbage, and following it would leave libnrt's memory.
const MOST_TENSORS: u64 = 65_536;
/// Likewise, dimensions of a tensor.
const MOST_DIMENSIONS: u32 = 32;

/// Whether a model reads a tensor or writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Read.
    Input,
    /// Written.
    Output,
}

impl Usage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// libnrt's element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 8-bit float, 3 exponent bits.
    Fp8E3,
    /// 8-bit float, 4 exponent bits.
    Fp8E4,
    /// 8-bit float, 5 exponent bits.
    Fp8E5,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
    /// Single, rounded for the matrix engine.
    Fp32r,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// A number that this table lacks.
    Unknown(u32),
}

impl Dtype {
    /// The type of libnrt's number.
    pub fn from_code(code: u32) -> Self {
        match code {
            0xD => Self::Fp8E3,
            0xE => Self::Fp8E4,
            0xF => Self::Fp8E5,
            0x7 => Self::F16,
            0x6 => Self::Bf16,
            0xA => Self::F32,
            0xB => Self::Fp32r,
            0x3 => Self::U8,
            0x5 => Self::U16,
            0x9 => Self::U32,
            0x1 => Self::U64,
            0x2 => Self::I8,
            0x4 => Self::I16,
            0x8 => Self::I32,
            0xC => Self::I64,
            other => Self::Unknown(other),
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> Option<usize> {
        match self {
            Self::Fp8E3 | Self::Fp8E4 | Self::Fp8E5 | Self::U8 | Self::I8 => Some(1),
            Self::F16 | Self::Bf16 | Self::U16 | Self::I16 => Some(2),
            Self::F32 | Self::Fp32r | Self::U32 | Self::I32 => Some(4),
            Self::U64 | Self::I64 => Some(8),
            Self::Unknown(_) => None,
        }
    }
}

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name that sets use for it.
    pub name: String,
    /// Read or written.
    pub usage: Usage,
    /// Its length in bytes; what a set's tensor must have.
    pub bytes: usize,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u32>,
}

/// libnrt's description of a model, given back when it goes.
struct Described<'a> {
    core: &'a Core,
    raw: *mut RawTensorInfos,
}

impl Drop for Described<'_> {
    fn drop(&mut self) {
        let _lock = self.core.lock();
        // SAFETY: libnrt made it, and it is freed once.
        let code = unsafe { (self.core.api().free_model_tensor_info)(self.raw) };
        if let Err(error) = check("nrt_free_model_tensor_info", code, || self.core.describe()) {
            tracing::warn!(%error, "the description of a model's tensors could not be freed");
        }
    }
}

/// Asks libnrt for the tensors of `model`.
pub(super) fn read(core: &Core, model: &Handle<RawModel>, name: &str) -> Result<Vec<TensorInfo>, NeuronError> {
    const FUNCTION: &str = "nrt_get_model_tensor_info";
    let subject = || format!("model `{name}`");
    let mut raw = ptr::null_mut();
    let lock = core.lock();
    // SAFETY: the model is live, the place for the pointer is ours.
    let code = unsafe { (core.api().get_model_tensor_info)(model.pointer(), &raw mut raw) };
    drop(lock);
    check(FUNCTION, code, subject)?;
    if raw.is_null() {
        return Err(NeuronError::Answer { function: FUNCTION, subject: subject(), found: "a null pointer".to_owned() });
    }
    let described = Described { core, raw };
    // SAFETY: libnrt's array begins with the count and lives until `described` goes.
    unsafe { copy(described.raw) }.map_err(|what| NeuronError::TensorInfo { model: name.to_owned(), what })
}

/// # Safety
///
/// `array` points to a count followed by as many infos, if the count is one that [`MOST_TENSORS`] allows; each shape
/// pointer is null or points to as many numbers as the info says, if [`MOST_DIMENSIONS`] allows.
unsafe fn copy(array: *const RawTensorInfos) -> Result<Vec<TensorInfo>, String> {
    // SAFETY: the caller's promise.
    let count = unsafe { (*array).count };
    if count > MOST_TENSORS {
        return Err(format!("libnrt counts {count} tensors, more than the {MOST_TENSORS} that are believed"));
    }
    // SAFETY: a place within the allocation that the caller promises; no reference to a longer array is made.
    let first = unsafe { (&raw const (*array).first).cast::<RawTensorInfo>() };
    let (mut infos, mut names) = (Vec::new(), BTreeSet::new());
    for index in 0..count as usize {
        // SAFETY: `index` is less than the count.
        let info = unsafe { copy_one(&*first.add(index), index) }?;
        if !names.insert((info.usage.name(), info.name.clone())) {
            return Err(format!("{} `{}` is there twice", info.usage.name(), info.name));
        }
        infos.push(info);
    }
    Ok(infos)
}

/// # Safety
///
/// As for [`copy`].
unsafe fn copy_one(raw: &RawTensorInfo, index: usize) -> Result<TensorInfo, String> {
    let name = CStr::from_bytes_until_nul(&raw.name)
        .map_err(|_| format!("the name of tensor {index} does not end within its {} bytes", raw.name.len()))?;
    let name = name.to_str().map_err(|_| format!("the name of tensor {index} is not UTF-8"))?;
    if name.is_empty() {
        return Err(format!("tensor {index} has no name"));
    }
    let usage = match raw.usage {
        0 => Usage::Input,
        1 => Usage::Output,
        other => return Err(format!("tensor `{name}` has usage {other}, expected 0 or 1")),
    };
    if raw.bytes == 0 || raw.bytes > isize::MAX as usize {
        return Err(format!("tensor `{name}` has {} bytes", raw.bytes));
    }
    if raw.dimensions > MOST_DIMENSIONS {
        return Err(format!(
            "tensor `{name}` has {} dimensions, at most {MOST_DIMENSIONS} are believed",
            raw.dimensions
        ));
    }
    if raw.shape.is_null() && raw.dimensions > 0 {
        return Err(format!("tensor `{name}` has {} dimensions and no shape", raw.dimensions));
    }
    // SAFETY: the pointer is not null and the length bounded; the caller promises as many numbers behind it.
    let shape = (0..raw.dimensions as usize).map(|axis| unsafe { raw.shape.add(axis).read() }).collect();
    Ok(TensorInfo { name: name.to_owned(), usage, bytes: raw.bytes, dtype: Dtype::from_code(raw.dtype), shape })
}
