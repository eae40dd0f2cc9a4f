//! Checkpoints as data: GGUF files and safetensors folders, opened, checked and listed.
//!
//! [`Checkpoint::open`] maps the files and reads their tables; no weight is touched. [`Checkpoint::tensor`] gives a tensor's bytes
//! where they lie in the file, in whatever alignment they have there, or a copy of them where files are not mapped. [`NamedWeights`] shows a checkpoint to a device under the names
//! that a model declares.
//!
//! A file may hold anything: every mistake in it is a [`CheckpointError`] that names file and tensor.

mod error;
mod folder;
pub mod gguf;
mod map;
mod names;
mod part;
pub mod safetensors;
pub mod write;

pub use error::CheckpointError;
pub use map::LoadMode;
pub use names::NamedWeights;
pub use part::{RowBlocks, RowOrder, Slab, TensorRef};

use folder::Target;
use gguf::Gguf;
use map::FileBytes;
use nxd_ops::{BlockFormat, Format, Scales, SharedBytes, StoredData, quant};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Values of the longest vector that [`Checkpoint::vector`] reads.
const MAX_VECTOR: usize = 1 << 20;

/// How a stored tensor's numbers are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A format that can be computed with.
    Supported(Format),
    /// Any other, by its name in the file format.
    Other(&'static str),
}

impl Encoding {
    /// The name in listings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::Supported(format) => format.name(),
            Encoding::Other(name) => name,
        }
    }
}

/// An entry of a checkpoint's tensor table.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// How the numbers are encoded.
    pub encoding: Encoding,
    /// The shape, rows first, as Hugging Face writes it: `[rows, cols]`, or `[n]` for a vector.
    pub shape: Vec<usize>,
    /// Index of the file, and the bytes in it.
    file: usize,
    range: Range<usize>,
}

impl TensorInfo {
    /// Bytes that the tensor takes.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// A tensor's bytes as they are stored.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// File and tensor, for messages, such as ``model.gguf: tensor `output.weight` ``.
    pub origin: String,
    /// How its numbers are stored.
    pub format: Format,
    /// The shape, rows first.
    pub shape: Vec<usize>,
    /// The data, bytes of any alignment.
    pub data: StoredData,
    /// What its numbers are multiplied with; `None` where they are the values, and for blocks.
    pub scales: Option<Scales>,
}

/// An opened checkpoint. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Checkpoint(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    files: Vec<FileBytes>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    gguf: Option<Gguf>,
}

impl Checkpoint {
    /// Opens a folder in Hugging Face layout, a folder with one GGUF file (or the parts of one), a `.gguf` or a `.safetensors` file.
    ///
    /// # Errors
    /// When there is no checkpoint at `path`, or several, or one that is not well formed.
    pub fn open(path: &Path, mode: LoadMode) -> Result<Checkpoint, CheckpointError> {
        let (path, files, tensors, gguf) = match folder::find(path)? {
            Target::Gguf(path) => {
                let opened = gguf::open(&path, mode)?;
                (path, opened.files, opened.tensors, Some(opened.gguf))
            }
            Target::Single(path) => {
                let opened = safetensors::open(&path, mode)?;
                (path, opened.files, opened.tensors, None)
            }
            Target::Index(path) => {
                let opened = safetensors::open_sharded(&path, mode)?;
                (path, opened.files, opened.tensors, None)
            }
        };
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Checkpoint(Arc::new(Opened { path, files, tensors, index, gguf })))
    }

    /// The file that was opened: the index of a sharded checkpoint, any part of a split one.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The folder that the file lies in; configuration and tokenizer of the Hugging Face layout are there.
    pub fn dir(&self) -> &Path {
        self.path().parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.files.iter().map(FileBytes::path)
    }

    /// Whether the tensors' bytes lie in the system's page cache, so that a device which holds them has no copy.
    pub fn is_mapped(&self) -> bool {
        self.0.files.iter().all(FileBytes::is_mapped)
    }

    /// What a GGUF checkpoint says beside its tensors.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.0.gguf.as_ref()
    }

    /// The table of tensors, in the order of files and data.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.tensors.iter()
    }

    /// A tensor's entry in the table.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.index.get(name).map(|&at| &self.0.tensors[at])
    }

    /// A tensor's bytes.
    ///
    /// # Errors
    /// When there is no such tensor, its encoding is not supported, or its file was cut since it was opened.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor, CheckpointError> {
        let info = self.entry(name)?;
        let format = self.format(info)?;
        let data = self.bytes(info)?;
        Ok(StoredTensor {
            origin: self.origin(info),
            format,
            shape: info.shape.clone(),
            data: data.into(),
            scales: None,
        })
    }

    /// The bytes behind an entry, whatever they mean.
    pub(crate) fn bytes(&self, info: &TensorInfo) -> Result<SharedBytes, CheckpointError> {
        self.0.files[info.file].bytes(info.range.clone())
    }

    /// A tensor's entry, which is to be there.
    pub(crate) fn entry(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.info(name).ok_or_else(|| {
            let (file, hint) = (self.name(), names::hint(name, &self.0.tensors));
            CheckpointError::MissingTensor { file, tensor: name.to_owned(), hint }
        })
    }

    /// The format of a tensor, which is to be one that can be computed with.
    fn format(&self, info: &TensorInfo) -> Result<Format, CheckpointError> {
        let Encoding::Supported(format) = info.encoding else {
            let (origin, supported) = (self.origin(info), supported_formats());
            return Err(CheckpointError::Format { origin, format: info.encoding.name(), supported });
        };
        Ok(format)
    }

    /// The values of a small vector, such as `rope_freqs.weight`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`], and when the tensor is not a vector, is long, or its values are quantised.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.tensor(name)?;
        let [len @ 1..=MAX_VECTOR] = tensor.shape[..] else {
            return Err(CheckpointError::Vector { origin: tensor.origin, found: tensor.shape, limit: MAX_VECTOR });
        };
        if tensor.format.is_quantised() {
            let supported = "F32, F16, BF16 for a vector".to_owned();
            return Err(CheckpointError::Format { origin: tensor.origin, format: tensor.format.name(), supported });
        }
        let mut values = vec![0.0; len];
        if let Some(data) = tensor.data.bytes() {
            quant::decode_row(tensor.format, data, &mut values);
        }
        Ok(values)
    }

    /// The name in messages about the checkpoint as a whole.
    pub(crate) fn name(&self) -> String {
        map::file_name(self.path())
    }

    pub(crate) fn origin(&self, info: &TensorInfo) -> String {
        format!("{}: tensor `{}`", self.0.files[info.file].name(), info.name)
    }
}

fn supported_formats() -> String {
    let blocks = BlockFormat::ALL.map(Format::Blocks);
    let names: Vec<&str> = [Format::F32, Format::F16, Format::BF16].iter().chain(&blocks).map(|f| f.name()).collect();
    names.join(", ")
}

/// A number of a file as an index into its bytes.
fn file_index(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}
