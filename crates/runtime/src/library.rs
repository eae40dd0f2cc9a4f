//! Opening a vendor's shared library at run time, with errors that say what to install.
#![allow(unsafe_code, reason = "dlopen and dlsym")]

use std::path::{Path, PathBuf};

use thiserror::Error;

/// A library that could not be opened, or that lacks a symbol.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No such file.
    #[error("{}: no such file; {}", path.display(), install(path))]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// The dynamic loader refused the file.
    #[error("{}: cannot be loaded as a shared library ({reason}); {}", path.display(), install(path))]
    Refused {
        /// What was asked for.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library is another one, or too old.
    #[error("{}: has no symbol `{symbol}`; {}", path.display(), install(path))]
    Symbol {
        /// The library.
        path: PathBuf,
        /// The function that it should export.
        symbol: String,
    },
}

/// Part of a library's file name, and what brings that library.
const PACKAGES: [(&str, &str); 4] = [
    ("libnrt", "install AWS's `aws-neuronx-runtime-lib` (apt or dnf, from the Neuron repository)"),
    ("neuronpjrt", "install AWS's plugin: `pip install 'libneuronxla>=3.0'` from the Neuron repository"),
    ("xla_cuda", "install the CUDA plugin: `pip install 'jax-cuda13-pjrt==0.11.2'`, or `jax-cuda12-pjrt`"),
    ("pjrt_c_api_cpu", "install the CPU plugin: `cargo xtask pjrt`, or `pip install lammps-jax-pjrt-cpu==0.11.2`"),
];

/// What to install so that `path` is there and works.
pub(crate) fn install(path: &Path) -> &'static str {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    PACKAGES.iter().find(|(part, _)| name.contains(part)).map_or(
        "name a PJRT plugin that exports `GetPjrtApi` (`pip install jax-cuda13-pjrt`, `libneuronxla` or \
         `lammps-jax-pjrt-cpu` bring one)",
        |(_, package)| package,
    )
}

/// A shared library that stays mapped until the process ends: plugins keep threads and handlers that outlive any owner.
#[derive(Debug)]
pub(crate) struct Library {
    inner: std::mem::ManuallyDrop<Native>,
    path: PathBuf,
}

#[cfg(unix)]
type Native = libloading::os::unix::Library;
#[cfg(not(unix))]
type Native = libloading::Library;

impl Library {
    /// Maps the library at `path`, or finds a bare file name with the loader's own search.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        // A bare name (`libnrt.so.1`) is for the loader's search path, so only a real path can be seen to be missing.
        if path.components().count() > 1 && !path.is_file() {
            return Err(LoadError::Missing { path: path.to_owned() });
        }
        // SAFETY: the library's initialisers run: whoever names a plugin trusts it with this process, there is no check to make.
        let inner = unsafe { map(path) }
            .map_err(|error| LoadError::Refused { path: path.to_owned(), reason: reason(&error) })?;
        Ok(Self { inner: std::mem::ManuallyDrop::new(inner), path: path.to_owned() })
    }

    /// The symbol's address as a `T`.
    ///
    /// # Safety
    ///
    /// `T` is a function pointer (or a data pointer) of the symbol's real type.
    pub(crate) unsafe fn symbol<T: Copy>(&self, name: &str) -> Result<T, LoadError> {
        // SAFETY: the caller vouches for the type; the library is never unloaded, so the copy stays valid.
        let symbol = unsafe { self.inner.get::<T>(name.as_bytes()) };
        symbol.map(|found| *found).map_err(|_| LoadError::Symbol { path: self.path.clone(), symbol: name.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(unix)]
unsafe fn map(path: &Path) -> Result<Native, libloading::Error> {
    const RTLD_NODELETE: i32 = if cfg!(target_os = "macos") { 0x80 } else { 0x1000 };
    let flags = libloading::os::unix::RTLD_LAZY | libloading::os::unix::RTLD_LOCAL | RTLD_NODELETE;
    // SAFETY: as `open` says.
    unsafe { Native::open(Some(path), flags) }
}

#[cfg(not(unix))]
unsafe fn map(path: &Path) -> Result<Native, libloading::Error> {
    // SAFETY: as `open` says.
    unsafe { Native::new(path) }
}

/// The loader's own words; the crate's `Display` says only that `dlopen` failed.
fn reason(error: &libloading::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
