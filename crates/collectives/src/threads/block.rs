//! The bytes that one rank shows to another.

/// A buffer that grows to the longest message it has carried and keeps that size. Aligned for any plain number.
#[derive(Default)]
pub(crate) struct Block {
    words: Vec<u64>,
    len_bytes: usize,
}

impl Block {
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        let words = bytes.len().div_ceil(size_of::<u64>());
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        self.len_bytes = bytes.len();
        bytemuck::cast_slice_mut(&mut self.words)[..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len_bytes]
    }

    pub(crate) fn floats(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.words)[..self.len_bytes / size_of::<f32>()]
    }
}
