//! Writes GGUF files, good ones and any kind of bad one.

/// A tensor to be written.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: Vec<u8>,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    /// The packed place when not given.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// A file to be written; what is not given is what a good file has.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) num_tensors: Option<u64>,
    pub(crate) num_keys: Option<u64>,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
    /// Put in place of the `n_dims` of the first tensor.
    pub(crate) num_dims: Option<u32>,
}

pub(crate) const F32: u32 = 0;
pub(crate) const Q4_0: u32 = 2;
pub(crate) const Q4_K: u32 = 12;
pub(crate) const IQ2_XXS: u32 = 16;
pub(crate) const I8: u32 = 24;

pub(crate) const U8_TYPE: u32 = 0;
pub(crate) const U16_TYPE: u32 = 2;
pub(crate) const U32_TYPE: u32 = 4;
pub(crate) const I32_TYPE: u32 = 5;
pub(crate) const F32_TYPE: u32 = 6;
pub(crate) const BOOL_TYPE: u32 = 7;
pub(crate) const STRING_TYPE: u32 = 8;
pub(crate) const ARRAY_TYPE: u32 = 9;

pub(crate) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub(crate) fn array(element: u32, count: u64, data: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes(), &count.to_le_bytes()[..], data].concat()
}

impl GgufFile {
    /// No keys and no tensors.
    pub(crate) fn empty() -> Self {
        let (keys, tensors) = (Vec::new(), Vec::new());
        let (magic, version, alignment) = (*b"GGUF", 3, 32);
        GgufFile { magic, version, num_tensors: None, num_keys: None, keys, tensors, alignment, num_dims: None }
    }

    /// A few keys of several types, a matrix, a vector, and a block matrix.
    pub(crate) fn good() -> Self {
        let values = |n: usize| (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
        Self::empty()
            .key("general.architecture", STRING_TYPE, &string("llama"))
            .key("llama.block_count", U32_TYPE, &2u32.to_le_bytes())
            .key("llama.rope.freq_base", F32_TYPE, &1e4f32.to_le_bytes())
            .key("tokenizer.ggml.add_bos_token", BOOL_TYPE, &[1])
            .key("tokenizer.ggml.tokens", ARRAY_TYPE, &array(STRING_TYPE, 2, &[string("a"), string("é")].concat()))
            .key("tokenizer.ggml.token_type", ARRAY_TYPE, &array(I32_TYPE, 2, &[1, 0, 0, 0, 3, 0, 0, 0]))
            .tensor("token_embd.weight", &[3, 2], F32, values(6))
            .tensor("output_norm.weight", &[3], F32, values(3))
            .tensor("blk.0.ffn_up.weight", &[64, 2], Q4_0, (0..72).collect())
    }

    pub(crate) fn key(self, key: impl AsRef<[u8]>, kind: u32, value: &[u8]) -> Self {
        self.raw_key([string(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat())
    }

    /// An entry of the key table as it is.
    pub(crate) fn raw_key(mut self, entry: Vec<u8>) -> Self {
        self.keys.push(entry);
        self
    }

    pub(crate) fn tensor(mut self, name: impl AsRef<[u8]>, dims: &[u64], kind: u32, data: Vec<u8>) -> Self {
        let (name, dims) = (name.as_ref().to_vec(), dims.to_vec());
        self.tensors.push(Tensor { name, dims, kind, offset: None, data });
        self
    }

    /// Gives the last tensor another offset.
    pub(crate) fn at_offset(mut self, offset: u64) -> Self {
        self.tensors.last_mut().unwrap().offset = Some(offset);
        self
    }

    /// Everything before the data section, without padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.num_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.num_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.iter().flatten());
        let mut packed = 0;
        for (index, tensor) in self.tensors.iter().enumerate() {
            out.extend(string(&tensor.name));
            let num_dims = self.num_dims.filter(|_| index == 0).unwrap_or(tensor.dims.len() as u32);
            out.extend(num_dims.to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(packed as u64).to_le_bytes());
            packed += tensor.data.len().next_multiple_of(self.alignment);
        }
        out
    }

    /// The whole file, the last tensor padded as real writers do.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        for tensor in &self.tensors {
            out.extend(&tensor.data);
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }
}
