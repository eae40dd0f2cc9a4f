//! NKI's compiler, asked through a child process.

use super::{DESCRIBED, Description, NkiError, NkiKernel, base64, child, store};
use nxd_runtime::neuron::Target;
use serde_json::Value as Json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The variable that names another Python than `python3`.
pub const PYTHON_VARIABLE: &str = "NXD_NKI_PYTHON";

const SCRIPT: &str = include_str!("compile_nki.py");
/// How NKI kernels are compiled.
#[derive(Debug)]
pub struct NkiCompiler {
    command: Vec<OsString>,
    target: Target,
    store: PathBuf,
    deadline: Duration,
    /// What the interpreter says of its packages.
    version: OnceLock<String>,
}

impl NkiCompiler {
    /// The compiler that `command` (an interpreter, and arguments that always come first) has, for instances of `target`. Results are
    /// kept in the folder `store`.
    pub fn new(command: &[OsString], target: Target, store: &Path) -> Self {
        let (command, store) = (command.to_vec(), store.to_owned());
        NkiCompiler { command, target, store, deadline: Duration::from_secs(600), version: OnceLock::new() }
    }

    /// The interpreter that [`PYTHON_VARIABLE`] names, else `python3`.
    pub fn command() -> Vec<OsString> {
        let named = std::env::var_os(PYTHON_VARIABLE).filter(|name| !name.is_empty());
        vec![named.unwrap_or_else(|| "python3".into())]
    }

    /// With another deadline for one kernel than 10 minutes.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        NkiCompiler { deadline, ..self }
    }

    pub(super) fn compile(&self, kernel: &NkiKernel, description: &Description) -> Result<String, NkiError> {
        let version = self.version()?;
        let described = serde_json::to_string(description).expect("it was JSON before");
        let parts = [version, &self.target.to_string(), SCRIPT, &kernel.source, &described];
        let hash = store::hash(&parts.map(str::as_bytes));
        if let Some(config) = store::get(&self.store, &hash) {
            return Ok(config);
        }
        let failed = |source| NkiError::Store { folder: self.store.clone(), source };
        let folder = store::folder(&self.store, &hash).map_err(failed)?;
        let request = serde_json::json!({
            "task": "compile",
            "target": self.target.to_string(),
            "artifacts": folder,
            "source": kernel.source,
            "description": description,
        });
        let compiled = self.ask(&request, &description.kernel).and_then(|answer| {
            let config = answer.get("backend_config").and_then(Json::as_str).unwrap_or_default();
            match base64::decode(config).is_some_and(|bytes| !bytes.is_empty()) && !config.starts_with(DESCRIBED) {
                true => Ok(config.to_owned()),
                false => Err(self.garbage(&answer.to_string(), "it ended normally".to_owned())),
            }
        });
        match &compiled {
            Ok(config) => store::put(&self.store, &hash, &folder, config).map_err(failed)?,
            // Nothing refers to what a failed compilation left.
            Err(_) => drop(std::fs::remove_dir_all(&folder)),
        }
        compiled
    }

    /// Kernels of one compiler are not another's, so results are kept by version too.
    pub(super) fn version(&self) -> Result<&str, NkiError> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let answer = self.ask(&serde_json::json!({ "task": "version" }), "")?;
        let Some(version) = answer.get("version").and_then(Json::as_str) else {
            return Err(self.garbage(&answer.to_string(), "it ended normally".to_owned()));
        };
        Ok(self.version.get_or_init(|| version.to_owned()))
    }

    fn ask(&self, request: &Json, kernel: &str) -> Result<Json, NkiError> {
        let input = request.to_string().into_bytes();
        let answer = child::run(&self.command, &["-c", SCRIPT], input, self.deadline)?;
        let Ok(found @ Json::Object(_)) = serde_json::from_slice::<Json>(&answer.output) else {
            return Err(self.garbage(&String::from_utf8_lossy(&answer.output), answer.ending));
        };
        let said = |name: &str| found.get(name).and_then(Json::as_str).map(str::to_owned);
        if let Some(missing) = said("missing") {
            return Err(NkiError::Missing { program: self.program(), found: missing });
        }
        match said("error") {
            Some(error) => {
                tracing::debug!(trace = said("trace"), "an NKI kernel was refused");
                Err(NkiError::Refused { kernel: kernel.to_owned(), target: self.target, found: error })
            }
            None => Ok(found),
        }
    }

    fn garbage(&self, found: &str, ending: String) -> NkiError {
        let found = match found.chars().nth(200) {
            Some(_) => format!("`{}…`", found.chars().take(200).collect::<String>()),
            None if found.trim().is_empty() => "nothing".to_owned(),
            None => format!("`{}`", found.trim()),
        };
        NkiError::Garbage { program: self.program(), found, ending }
    }

    fn program(&self) -> String {
        self.command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
