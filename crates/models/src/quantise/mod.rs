//! Quantised copies of a model: `nxd quantize`.
//!
//! [`quantise`] reads a model tensor by tensor and writes it again in fewer bits: as one GGUF file, or as a Hugging Face folder in the layout of
//! compressed-tensors. At no time is more than a piece of a tensor in memory as f32. What stands in a block is decided in `nxd-ops`; which
//! tensor gets which format, in `choice`; how files are written, in [`checkpoint::write`](crate::checkpoint::write).
//!
//! Reading order: this file, `choice`, `rows` (values of a tensor), `gguf` (from GGUF to GGUF), `folder` (folder to folder), `convert` (folder to
//! GGUF).

mod choice;
mod convert;
mod error;
mod folder;
mod gguf;
mod rows;

pub use error::QuantiseError;

use crate::checkpoint::write::{NewTensor, TensorFile, WriteError};
use crate::checkpoint::{Checkpoint, LoadMode};
use nxd_ops::Format;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the formats' own names")]
pub enum Scheme {
    /// GGUF: 8 bits, an f16 scale for 32 values.
    Q8_0,
    /// GGUF: 4 bits, an f16 scale for 32 values.
    Q4_0,
    /// GGUF: 4 bits with fitted scales and minima, 6 bits where errors count most.
    Q4_K,
    /// Folder: signed bytes under a scale for each row.
    Int8,
    /// Folder: `e4m3` floats under a scale for each row.
    Fp8,
}

impl Scheme {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Q8_0 => "q8_0",
            Scheme::Q4_0 => "q4_0",
            Scheme::Q4_K => "q4_k",
            Scheme::Int8 => "int8",
            Scheme::Fp8 => "fp8",
        }
    }
}

/// How a model is quantised.
#[derive(Clone, Copy, Debug)]
pub struct QuantiseOptions {
    /// What weights become.
    pub scheme: Scheme,
    /// Whether the result may take the place of an older one.
    pub replace: bool,
    /// Threads that encode.
    pub threads: usize,
    /// Bytes of tensors in a file of a folder; a folder's weights are spread over as many as this needs.
    pub shard_bytes: u64,
    /// How the model's files are read.
    pub mode: LoadMode,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many tensors have each format, by its name.
    pub tensors: BTreeMap<&'static str, usize>,
    /// Bytes of the tensors that were read.
    pub source_bytes: u64,
    /// Bytes of those that were written.
    pub bytes: u64,
}

impl Report {
    fn add(&mut self, tensor: &NewTensor) -> Result<(), QuantiseError> {
        *self.tensors.entry(tensor.format.name()).or_default() += 1;
        self.bytes = self.bytes.saturating_add(tensor.bytes()? as u64);
        Ok(())
    }
}

/// What goes on while a model is quantised: threads, and who wants to know how far it is.
struct Work<'w> {
    threads: usize,
    /// Gets how many values were written, and of how many.
    progress: &'w mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Work<'_> {
    /// Says what will be written.
    fn plan<'t>(&mut self, tensors: impl Iterator<Item = &'t NewTensor>) {
        let values = |tensor: &NewTensor| tensor.shape.iter().fold(1, |n: u64, &dim| n.saturating_mul(dim as u64));
        self.total = tensors.fold(0, |sum, tensor| sum.saturating_add(values(tensor)));
    }

    fn advance(&mut self, values: usize) {
        self.done = self.done.saturating_add(values as u64);
        (self.progress)(self.done, self.total);
    }

    /// Writes a tensor of a file, encoded from `rows`.
    fn write(&mut self, file: &mut TensorFile, tensor: &NewTensor, rows: &rows::Rows) -> Result<(), QuantiseError> {
        file.tensor(&tensor.name, |out| rows.encode(tensor.format, self, &mut |bytes| Ok(out(bytes)?)))
    }

    /// Writes a tensor of a file, whose `bytes` are given as they are.
    fn copy(&mut self, file: &mut TensorFile, tensor: &NewTensor, bytes: &[u8]) -> Result<(), QuantiseError> {
        // Pieces, so that progress is seen.
        const PIECE: usize = 8 << 20;
        let [rows, cols] = tensor.matrix();
        file.tensor::<QuantiseError>(&tensor.name, |out| bytes.chunks(PIECE).try_for_each(|piece| Ok(out(piece)?)))?;
        self.advance(rows.saturating_mul(cols));
        Ok(())
    }
}

/// Writes the model at `model` to `out`, its weights quantised; `progress` gets how many values were written and of how many.
///
/// # Errors
/// When the model cannot be read, the scheme does not fit its container, a weight has no place in its format, or `out` cannot be written.
/// `out` is then as it was.
pub fn quantise(
    model: &Path,
    out: &Path,
    options: &QuantiseOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, QuantiseError> {
    let checkpoint = Checkpoint::open(model, options.mode)?;
    check_apart(&checkpoint, out)?;
    // Said before what takes long; writers look again.
    if !options.replace && out.symlink_metadata().is_ok() {
        return Err(WriteError::Exists { path: out.to_owned() }.into());
    }
    let mut work = Work { threads: options.threads.max(1), progress, done: 0, total: 0 };
    let source_bytes = checkpoint.tensors().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.bytes() as u64));
    let report = match (options.scheme, checkpoint.gguf().is_some()) {
        (Scheme::Int8, false) => folder::write(model, out, Format::I8, options, &mut work)?,
        (Scheme::Fp8, false) => folder::write(model, out, Format::E4M3, options, &mut work)?,
        (scheme @ (Scheme::Int8 | Scheme::Fp8), true) => {
            let file = checkpoint.path().to_owned();
            return Err(QuantiseError::NeedsFolder { file, scheme: scheme.name() });
        }
        (scheme, true) => gguf::write(&checkpoint, out, scheme, options, &mut work)?,
        (scheme, false) => convert::write(model, out, scheme, options, &mut work)?,
    };
    Ok(Report { source_bytes, ..report })
}

/// Refuses to write over what is read.
fn check_apart(checkpoint: &Checkpoint, out: &Path) -> Result<(), QuantiseError> {
    let real = |path: &Path| path.canonicalize().ok();
    let Some(target) = real(out) else { return Ok(()) };
    let mut sources = checkpoint.files().chain([checkpoint.path()]).filter_map(real);
    match sources.any(|source: PathBuf| source.starts_with(&target)) {
        true => Err(QuantiseError::Same { path: out.to_owned() }),
        false => Ok(()),
    }
}
