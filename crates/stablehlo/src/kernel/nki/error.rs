//! What can go wrong with NKI kernels.

use nxd_runtime::neuron::Target;
use std::io;
use std::path::PathBuf;

/// An NKI kernel that cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NkiError {
    /// There is no compiler to ask.
    #[error(
        "kernel `{kernel}` is described only, and not compiled; give the kernels an NKI compiler, or compose the kernel"
    )]
    Described {
        /// The kernel.
        kernel: String,
    },
    /// The program holds a description that these kernels do not know.
    #[error(
        "the program calls NKI kernel `{kernel}`, which is not registered with this source; record the program again"
    )]
    Unknown {
        /// The kernel.
        kernel: String,
    },
    /// The interpreter does not start.
    #[error("cannot run `{program}` to compile NKI kernels; install Python 3, or name it in `NXD_NKI_PYTHON`")]
    Interpreter {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The interpreter has no compiler.
    #[error(
        "`{program}` cannot compile NKI kernels: {found}; install AWS's packages `nki` and `neuronx-cc` for it, or name another interpreter in `NXD_NKI_PYTHON`"
    )]
    Missing {
        /// The interpreter.
        program: String,
        /// What is missing.
        found: String,
    },
    /// The compiler refuses the kernel.
    #[error("NKI kernel `{kernel}` does not compile for {target}: {found}")]
    Refused {
        /// The kernel.
        kernel: String,
        /// The instance family.
        target: Target,
        /// What the compiler says.
        found: String,
    },
    /// The answer cannot be read.
    #[error("`{program}` was asked to compile an NKI kernel and answered with {found} ({ending})")]
    Garbage {
        /// The interpreter.
        program: String,
        /// What it answered.
        found: String,
        /// How it ended, and what it printed besides.
        ending: String,
    },
    /// There was no answer.
    #[error("`{program}` has not compiled an NKI kernel within {seconds} s and was stopped")]
    Slow {
        /// The interpreter.
        program: String,
        /// The deadline.
        seconds: f64,
    },
    /// The store cannot be written.
    #[error("{}: compiled NKI kernels cannot be kept here", folder.display())]
    Store {
        /// The store.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
