//! NKI kernels, Neuron's own: a Python function that its compiler makes part of a program.
//!
//! A program is recorded without the compiler: the call [`NATIVE`] then holds a description, readable as base64 of JSON, and that is
//! what golden texts show. [`Kernels::ready`](super::Kernels::ready) puts what the compiler answers in its place. The compiler
//! is Python and not ours to link, so it is a child process with a deadline, and its answers are kept on disk.
//!
//! Reading order: this file, `compiler` and `compile_nki.py`, `child`, `store`.

mod base64;
mod child;
mod compiler;
mod error;
mod store;

pub use compiler::{NkiCompiler, PYTHON_VARIABLE};
pub use error::NkiError;

use super::{Kernels, Signature};
use crate::program::Program;
use crate::record::{CallConfig, CustomCall, Op, Type};
use nxd_ops::Attribute;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The custom call that runs an NKI kernel.
pub const NATIVE: &str = "AwsNeuronCustomNativeKernel";

/// The longest source of a kernel.
const SOURCE_BYTES: u64 = 4 << 20;
/// What the base64 of every description begins with; no compiled kernel does.
const DESCRIBED: &str = "eyJueGRfbmtpX3JlcXVlc3Qi";

/// A kernel's source and the function in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NkiKernel {
    source: Cow<'static, str>,
    entry: String,
}

impl NkiKernel {
    /// The function `entry` of a source that the program brings.
    pub fn text(source: &'static str, entry: &str) -> Self {
        NkiKernel { source: Cow::Borrowed(source), entry: entry.to_owned() }
    }

    /// The function `entry` of a file.
    ///
    /// # Errors
    /// When the file cannot be read, is not text, or is longer than 4 MiB.
    pub fn file(path: &Path, entry: &str) -> io::Result<Self> {
        let mut source = String::new();
        let read = File::open(path)?.take(SOURCE_BYTES + 1).read_to_string(&mut source)?;
        if read as u64 > SOURCE_BYTES {
            return Err(io::Error::other(format!("a kernel's source has at most {SOURCE_BYTES} bytes")));
        }
        Ok(NkiKernel { source: Cow::Owned(source), entry: entry.to_owned() })
    }

    /// The call of the kernel, as a description.
    pub(super) fn call(&self, kernel: &str, signature: &Signature<'_>) -> CustomCall {
        let attribute = |(name, value): &(&'static str, Attribute)| {
            let value = match value {
                // The shortest decimal that is this f32, not all the digits of its double.
                Attribute::Float(value) => Json::from(value.to_string().parse::<f64>().unwrap_or(f64::NAN)),
                Attribute::Int(value) => Json::from(*value),
                Attribute::Text(text) => Json::from(text.as_str()),
            };
            ((*name).to_owned(), value)
        };
        let description = Description {
            nxd_nki_request: 1,
            kernel: kernel.to_owned(),
            entry: self.entry.clone(),
            source_sha256: self.hash(),
            inputs: signature.operands.iter().map(Tensor::of).collect(),
            outputs: signature.results.iter().map(Tensor::of).collect(),
            attributes: signature.attributes.iter().map(attribute).collect(),
        };
        let json = serde_json::to_string(&description).expect("texts and numbers are JSON");
        let config = CallConfig::Text(base64::encode(json.as_bytes()));
        CustomCall { name: NATIVE.to_owned(), config, aliases: Vec::new(), row_major: true }
    }

    fn hash(&self) -> String {
        store::hash(&[self.source.as_bytes()])
    }
}

/// What a call that is not compiled yet holds. The first field is what tells it from one that is.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    nxd_nki_request: u32,
    kernel: String,
    entry: String,
    source_sha256: String,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    attributes: Map<String, Json>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tensor {
    shape: Vec<usize>,
    dtype: String,
}

impl Tensor {
    fn of(ty: &Type) -> Self {
        Tensor { shape: ty.dims.to_vec(), dtype: ty.element.mlir().to_owned() }
    }
}

/// The configuration of a call that is described only: base64 and what it says.
fn described(op: &Op) -> Option<(&str, Description)> {
    if op.call.as_deref() != Some(NATIVE) {
        return None;
    }
    let config = op.text.split_once("backend_config = \"")?.1.split_once('"')?.0;
    let json = config.starts_with(DESCRIBED).then(|| base64::decode(config))??;
    Some((config, serde_json::from_slice(&json).ok()?))
}

/// The kernels that a program describes and that are not compiled, as readable JSON in the order of their calls.
pub fn descriptions(program: &Program) -> Vec<String> {
    let json = |description: &Description| serde_json::to_string(description).expect("it was JSON before");
    program.ops.iter().filter_map(described).map(|(_, description)| json(&description)).collect()
}

/// Puts compiled kernels in the place of descriptions.
pub(super) fn ready(kernels: &Kernels, mut program: Program) -> Result<Program, NkiError> {
    let mut compiled: BTreeMap<String, String> = BTreeMap::new();
    for op in &mut program.ops {
        let Some((config, description)) = described(op) else { continue };
        let config = config.to_owned();
        if !compiled.contains_key(&config) {
            let Some(compiler) = &kernels.nki else {
                return Err(NkiError::Described { kernel: description.kernel });
            };
            let known = kernels.nki_kernel(&description.kernel);
            let Some(kernel) = known.filter(|kernel| kernel.hash() == description.source_sha256) else {
                return Err(NkiError::Unknown { kernel: description.kernel });
            };
            compiled.insert(config.clone(), compiler.compile(kernel, &description)?);
        }
        op.text = op.text.replace(&config, &compiled[&config]);
    }
    for (config, result) in &compiled {
        program.text = program.text.replace(config, result);
    }
    Ok(program)
}

#[cfg(test)]
mod tests;
