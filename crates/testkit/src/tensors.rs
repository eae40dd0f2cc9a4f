//! Golden tensors.

use serde_json::Value;
use std::path::Path;

/// A safetensors file: its header, and the bytes behind it.
pub struct Tensors {
    header: Value,
    data: Vec<u8>,
}

impl Tensors {
    /// Reads a file.
    ///
    /// # Panics
    /// When it cannot be read or has no header.
    pub fn read(path: &Path) -> Self {
        let mut file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let header_len = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        let data = file.split_off(8 + header_len);
        Tensors { header: serde_json::from_slice(&file[8..]).unwrap(), data }
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != "__metadata__")
    }

    /// The dimensions of a tensor.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let shape = self.header[name]["shape"].as_array().unwrap_or_else(|| panic!("no tensor `{name}`"));
        shape.iter().map(|len| len.as_u64().unwrap() as usize).collect()
    }

    /// The bytes of a tensor.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn bytes(&self, name: &str) -> &[u8] {
        let offsets = &self.header[name]["data_offsets"];
        let end = |i: usize| offsets[i].as_u64().unwrap_or_else(|| panic!("no tensor `{name}`")) as usize;
        &self.data[end(0)..end(1)]
    }

    /// The values of a tensor of f32.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}
