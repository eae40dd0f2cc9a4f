//! GGUF files, version 3, little-endian.
//!
//! Source: `docs/gguf.md` of ggml.

use super::file::offsets;
use super::{NewTensor, TensorFile, WriteError};
use crate::checkpoint::gguf::{Kind, Value, type_number};
use std::path::Path;

/// What readers assume where the file says nothing.
const ALIGNMENT: u64 = 32;

/// The value of a key.
#[derive(Clone, Debug)]
pub enum Entry {
    /// One that was read from a file, or any single value.
    Value(Value),
    /// A list of texts.
    Strings(Vec<String>),
    /// A list of f32.
    F32s(Vec<f32>),
    /// A list of i32.
    I32s(Vec<i32>),
}

/// Makes the file `path`, which must not exist.
///
/// # Errors
/// When a tensor has a format that GGUF has no type for, or more than four dimensions, or the system refuses.
pub fn create(path: &Path, metadata: &[(String, Entry)], tensors: &[NewTensor]) -> Result<TensorFile, WriteError> {
    TensorFile::create(path, &header(metadata, tensors)?, tensors, ALIGNMENT)
}

fn header(metadata: &[(String, Entry)], tensors: &[NewTensor]) -> Result<Vec<u8>, WriteError> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, entry) in metadata {
        text(&mut out, key);
        put_entry(&mut out, key, entry)?;
    }
    for (tensor, offset) in tensors.iter().zip(offsets(tensors, ALIGNMENT)?.0) {
        if tensor.shape.is_empty() || tensor.shape.len() > 4 {
            let (tensor, shape, format) = (tensor.name.clone(), tensor.shape.clone(), tensor.format);
            return Err(WriteError::Shape { tensor, shape, format });
        }
        let Some(number) = type_number(tensor.format) else {
            let (name, format) = (tensor.name.clone(), tensor.format);
            return Err(WriteError::Format { tensor: name, format, container: "GGUF" });
        };
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        out.extend(tensor.shape.iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
        out.extend(number.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn array_of(out: &mut Vec<u8>, element: Kind, len: usize) {
    out.extend((Kind::Array as u32).to_le_bytes());
    out.extend((element as u32).to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn put_entry(out: &mut Vec<u8>, key: &str, entry: &Entry) -> Result<(), WriteError> {
    match entry {
        Entry::Value(Value::Array(array)) => {
            array_of(out, array.element(), array.len());
            let written = array.values().map(|value| put_scalar(out, &value)).count();
            if written != array.len() {
                let reason = format!("key `{key}`: its file was changed since it was opened");
                return Err(WriteError::Header { reason });
            }
        }
        Entry::Value(value) => {
            out.extend((value.kind() as u32).to_le_bytes());
            put_scalar(out, value);
        }
        Entry::Strings(texts) => {
            array_of(out, Kind::String, texts.len());
            texts.iter().for_each(|one| text(out, one));
        }
        Entry::F32s(values) => {
            array_of(out, Kind::F32, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Entry::I32s(values) => {
            array_of(out, Kind::I32, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    Ok(())
}

/// A value without its type; nothing for an array, which no array holds.
fn put_scalar(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => text(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(_) => {}
    }
}
