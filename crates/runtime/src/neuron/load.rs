//! Finding and opening libnrt, and what it can be asked before it is started.
#![allow(unsafe_code, reason = "foreign functions")]

use std::ffi::{OsString, c_int};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::abi::{Api, RawInstance, RawVersion, check, text};
use super::error::NeuronError;
use super::target::Instance;
use crate::library::{Library, LoadError};

/// The environment variable that names libnrt's file.
pub const PATH_VARIABLE: &str = "NXD_LIBNRT";

/// Where libnrt is looked for: the loader's own search, then where AWS's package puts it.
const PLACES: [&str; 2] = ["libnrt.so.1", "/opt/aws/neuron/lib/libnrt.so.1"];

/// An opened libnrt, not started yet.
#[derive(Clone, Debug)]
pub struct Nrt {
    pub(super) api: Arc<Api>,
}

impl Nrt {
    /// Opens the library that [`PATH_VARIABLE`] names, else the installed one.
    ///
    /// # Errors
    ///
    /// There is none, or it lacks a function; the text says what to install.
    pub fn find() -> Result<Self, NeuronError> {
        Self::find_in(std::env::var_os(PATH_VARIABLE), &PLACES)
    }

    /// Opens the library at `path`.
    ///
    /// # Errors
    ///
    /// There is none, or it is no libnrt, or it lacks a function; the text says what to install.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NeuronError> {
        Ok(Self { api: Arc::new(Api::resolve(Library::open(path.as_ref())?)?) })
    }

    fn find_in(named: Option<OsString>, places: &[&str]) -> Result<Self, NeuronError> {
        if let Some(path) = named.filter(|path| !path.is_empty()) {
            return Self::open(PathBuf::from(path));
        }
        let mut tried = Vec::new();
        for place in places {
            match Library::open(Path::new(place)) {
                // A library that is there but lacks a function is the answer: searching on would hide it.
                Ok(library) => return Ok(Self { api: Arc::new(Api::resolve(library)?) }),
                Err(LoadError::Missing { path }) => tried.push(format!("{}: no such file", path.display())),
                Err(LoadError::Refused { path, reason }) => tried.push(format!("{} ({reason})", path.display())),
                Err(other) => return Err(other.into()),
            }
        }
        Err(NeuronError::LibraryNotFound { tried: tried.join(", ") })
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        self.api.path()
    }

    /// The library's version.
    ///
    /// # Errors
    ///
    /// libnrt's status.
    pub fn version(&self) -> Result<Version, NeuronError> {
        let mut raw = RawVersion { numbers: [0; 4], detail: [0; 128], git_hash: [0; 64] };
        // SAFETY: the struct is libnrt's `nrt_version_t`, and the size given bounds what is written.
        let code = unsafe { (self.api.get_version)(&raw mut raw, size_of::<RawVersion>()) };
        check("nrt_get_version", code, || "the library".to_owned())?;
        Ok(Version { numbers: raw.numbers, detail: text(&raw.detail), git_hash: text(&raw.git_hash) })
    }

    /// The machine that the library runs on.
    ///
    /// # Errors
    ///
    /// libnrt's status; a machine without a Neuron device has one.
    pub fn instance(&self) -> Result<Instance, NeuronError> {
        let mut raw = RawInstance::default();
        // SAFETY: the struct is libnrt's `nrt_instance_info_t`, and the size given bounds what is written.
        let code = unsafe { (self.api.get_instance_info)(&raw mut raw, size_of::<RawInstance>()) };
        check("nrt_get_instance_info", code, || "this machine".to_owned())?;
        let (architecture, revision) = (text(&raw.architecture), text(&raw.revision));
        Ok(Instance { family: raw.family, size: raw.size, architecture, revision })
    }

    /// Logical cores of the machine, whoever uses them.
    ///
    /// # Errors
    ///
    /// libnrt's status.
    pub fn total_cores(&self) -> Result<u32, NeuronError> {
        count("nrt_get_total_vnc_count", self.api.get_total_count)
    }

    /// Logical cores that the environment leaves to this process.
    ///
    /// # Errors
    ///
    /// libnrt's status.
    pub fn visible_cores(&self) -> Result<u32, NeuronError> {
        count("nrt_get_visible_vnc_count", self.api.get_visible_count)
    }
}

fn count(name: &'static str, function: unsafe extern "C" fn(*mut u32) -> c_int) -> Result<u32, NeuronError> {
    let mut cores = 0;
    // SAFETY: the function writes one u32 and may be called before `nrt_init`.
    check(name, unsafe { function(&raw mut cores) }, || "this machine".to_owned())?;
    Ok(cores)
}

/// A version of libnrt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major, minor, patch, maintenance.
    pub numbers: [u64; 4],
    /// More of it in libnrt's words.
    pub detail: String,
    /// The commit that it was built from.
    pub git_hash: String,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, maintenance] = self.numbers;
        write!(out, "{major}.{minor}.{patch}.{maintenance}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_nowhere_names_every_place_and_the_package() {
        let places = ["libnrt-that-is-not-installed.so.1", "/nowhere/libnrt.so.1"];
        let error = Nrt::find_in(None, &places).unwrap_err().to_string();
        for part in [places[0], places[1], "no such file", "aws-neuronx-runtime-lib", "NXD_LIBNRT"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_named_library_is_the_only_place() {
        let error = Nrt::find_in(Some("/nowhere/libnrt.so.1".into()), &[]).unwrap_err();
        assert!(matches!(error, NeuronError::Load(LoadError::Missing { .. })), "{error:?}");
        assert!(error.to_string().contains("aws-neuronx-runtime-lib"), "{error}");
    }
}
