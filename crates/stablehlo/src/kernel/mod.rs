//! Custom kernels: implementations that take the place of a [`nxd_ops::Kernel`]'s composition on a target.
//!
//! A kernel is registered under its name for a target; a program recorded for that target then holds a custom call, and one
//! recorded for any other target holds the composition. Handlers are given to the plugin before the first program is compiled
//! ([`Kernels::install`]); NKI kernels are compiled when a program that was recorded with them is ([`Kernels::ready`]).
//!
//! Reading order: this file, `ptx`, `nki` (out-of-process compiler, and what it answered before).

mod nki;
mod ptx;

pub use nki::{NATIVE, NkiCompiler, NkiError, NkiKernel, PYTHON_VARIABLE, descriptions};
pub use ptx::{Launch, PtxKernel, ptx_float};

use crate::program::Program;
use crate::record::{CallConfig, CustomCall, Recorder, Type, Value};
use crate::target::Target;
use nxd_ops::Attribute;
use nxd_runtime::pjrt::{FfiHandler, PjrtError, Plugin, Traits};
use std::sync::Arc;

/// How a kernel is implemented on a target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Implementation {
    /// A typed handler that the plugin calls, on targets with [`Target::platform_ffi`].
    Ffi(FfiHandler),
    /// PTX text, on `cuda`.
    Ptx(PtxKernel),
    /// A function of Neuron's kernel language, on `neuron`.
    Nki(NkiKernel),
}

impl Implementation {
    /// What it is, and whether `target` can use it.
    fn fits(&self, target: &Target) -> (&'static str, bool) {
        match self {
            Implementation::Ffi(_) => ("a typed handler", target.platform_ffi.is_some()),
            Implementation::Ptx(_) => ("PTX", target.name == Target::CUDA.name),
            Implementation::Nki(_) => ("an NKI function", target.name == Target::NEURON.name),
        }
    }
}

/// What a kernel is called with.
#[derive(Clone, Copy, Debug)]
pub struct Signature<'a> {
    /// Types of the operands: the inputs, then the weights.
    pub operands: &'a [Type],
    /// Types of the results.
    pub results: &'a [Type],
    /// The kernel's attributes.
    pub attributes: &'a [(&'static str, Attribute)],
}

/// A kernel that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Two implementations of one kernel for one target.
    #[error("kernel `{kernel}` is registered for {target} already")]
    Taken {
        /// The kernel.
        kernel: String,
        /// The target.
        target: &'static str,
    },
    /// An implementation that the target cannot use.
    #[error(
        "kernel `{kernel}` has {kind}, which {target} cannot use; typed handlers are for cpu and cuda, PTX is for cuda, \
         NKI functions are for neuron"
    )]
    Unfit {
        /// The kernel.
        kernel: String,
        /// What implements it.
        kind: &'static str,
        /// The target.
        target: &'static str,
    },
    /// A name that cannot stand in a program.
    #[error("`{kernel}` is not a kernel's name: use letters, digits, `_`, `.` and `$`, no digit first")]
    Name {
        /// The name.
        kernel: String,
    },
}

/// The kernels of a process, by name and target.
#[derive(Clone, Debug, Default)]
pub struct Kernels {
    registered: Vec<(String, &'static str, Implementation)>,
    nki: Option<Arc<NkiCompiler>>,
}

impl Kernels {
    /// No kernels: everything is composed.
    pub fn new() -> Self {
        Kernels::default()
    }

    /// Registers the implementation of kernel `name` for `target`.
    ///
    /// # Errors
    /// When there is one already, or the target cannot use it.
    pub fn register(&mut self, name: &str, target: &Target, implementation: Implementation) -> Result<(), KernelError> {
        let kernel = || name.to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.$".contains(c);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain) {
            return Err(KernelError::Name { kernel: kernel() });
        }
        if self.has(name, target) {
            return Err(KernelError::Taken { kernel: kernel(), target: target.name });
        }
        let (kind, fits) = implementation.fits(target);
        if !fits {
            return Err(KernelError::Unfit { kernel: kernel(), kind, target: target.name });
        }
        self.registered.push((kernel(), target.name, implementation));
        Ok(())
    }

    /// Compiles NKI kernels with `compiler`. Without one they are described only, and programs with them cannot run.
    pub fn set_nki(&mut self, compiler: NkiCompiler) {
        self.nki = Some(Arc::new(compiler));
    }

    /// Whether kernel `name` has an implementation for `target`.
    pub fn has(&self, name: &str, target: &Target) -> bool {
        self.implementation(name, target).is_some()
    }

    fn implementation(&self, name: &str, target: &Target) -> Option<&Implementation> {
        let mut all = self.registered.iter();
        all.find(|(known, of, _)| known == name && *of == target.name).map(|(_, _, implementation)| implementation)
    }

    fn nki_kernel(&self, name: &str) -> Option<&NkiKernel> {
        match self.implementation(name, &Target::NEURON)? {
            Implementation::Nki(kernel) => Some(kernel),
            _ => None,
        }
    }

    /// Gives the handlers for `target` to its plugin, which keeps them for ever.
    ///
    /// # Errors
    /// When the plugin refuses one.
    pub fn install(&self, plugin: &Plugin, target: &Target) -> Result<(), PjrtError> {
        let Some(platform) = target.platform_ffi else { return Ok(()) };
        for (name, _, implementation) in self.registered.iter().filter(|(_, of, _)| *of == target.name) {
            if let Implementation::Ffi(handler) = implementation {
                plugin.register_handler(name, platform, *handler, Traits::default())?;
            }
        }
        Ok(())
    }

    /// Records a call of kernel `name`; `None` when it has no implementation for `target`.
    pub fn lower(
        &self,
        rec: &mut Recorder,
        target: &Target,
        name: &str,
        attributes: &[(&'static str, Attribute)],
        operands: &[&Value],
        results: &[Type],
    ) -> Option<Vec<Value>> {
        let types: Vec<Type> = operands.iter().map(|operand| operand.ty().clone()).collect();
        let signature = Signature { operands: &types, results, attributes };
        let call = match self.implementation(name, target)? {
            Implementation::Ffi(_) => typed_call(name, attributes),
            Implementation::Ptx(kernel) => ptx::call(&kernel(&signature), operands.len(), results.len()),
            Implementation::Nki(kernel) => kernel.call(name, &signature),
        };
        Some(rec.custom_call(&call, operands, results))
    }

    /// The program as a compiler takes it: its NKI kernels compiled. Needs no compiler when there are none.
    ///
    /// # Errors
    /// When a kernel cannot be compiled.
    pub fn ready(&self, program: Program) -> Result<Program, NkiError> {
        nki::ready(self, program)
    }
}

fn typed_call(name: &str, attributes: &[(&'static str, Attribute)]) -> CustomCall {
    let config = attributes.iter().map(|(name, value)| ((*name).to_owned(), mlir(value))).collect();
    CustomCall { name: name.to_owned(), config: CallConfig::Typed(config), aliases: Vec::new(), row_major: true }
}

/// An attribute as MLIR writes it; floats by their bits, so that nothing rounds.
fn mlir(attribute: &Attribute) -> String {
    match attribute {
        Attribute::Float(value) => format!("0x{:08X} : f32", value.to_bits()),
        Attribute::Int(value) => format!("{value} : i64"),
        Attribute::Text(text) => crate::record::quoted(text),
    }
}

#[cfg(test)]
mod tests;
