//! From what a user calls a model to files on disk: a path, a hub id, or the word `demo`.
//!
//! Reading order: [`name`] (what the text means), [`local`] (paths), [`cache`] (the hub's folder layout), [`select`] (which
//! files of a repository are wanted), [`client`] and [`transfer`] (HTTP), [`demo`] with [`pip`] and [`wheel`].
//!
//! A copy in the cache is used without any network. Names that a server sends become paths only after [`select::is_safe`].

#![cfg_attr(not(feature = "hub"), allow(dead_code, reason = "what only downloads use stays where it is"))]

mod cache;
#[cfg(feature = "hub")]
mod client;
mod demo;
mod digest;
mod error;
mod local;
mod lock;
mod name;
mod pip;
mod progress;
#[cfg(feature = "hub")]
mod repository;
mod select;
#[cfg(feature = "hub")]
mod transfer;
mod wheel;

use std::path::PathBuf;
use std::time::Duration;

use crate::environment;
use crate::failure::{Failure, Kind};

use cache::RepoCache;
use error::HubError;
use name::{ModelName, RepoName};

/// Where models are kept and how the hub is asked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The hub's cache, shared with its Python library.
    pub(crate) hub_cache: PathBuf,
    /// The folder of the demo model.
    pub(crate) demo_cache: PathBuf,
    /// The hub's address, without a slash at its end.
    pub(crate) endpoint: String,
    /// The user's token for the hub.
    pub(crate) token: Option<String>,
    /// Never ask the hub.
    pub(crate) offline: bool,
    /// Ask the hub even when a copy is in the cache.
    pub(crate) refresh: bool,
    /// How long a source may stay silent.
    pub(crate) patience: Duration,
}

impl Settings {
    /// The settings that the environment asks for.
    ///
    /// # Errors
    /// When no home directory is known and no variable names a cache.
    pub(crate) fn from_env(refresh: bool) -> Result<Self, Failure> {
        let homeless = || {
            Failure::new(Kind::Usage, "cannot tell where the cache is: no home directory")
                .with_help("set `HOME`, or `HF_HOME` and `XDG_CACHE_HOME`")
        };
        Ok(Self {
            hub_cache: environment::hub_cache().ok_or_else(homeless)?,
            demo_cache: environment::nxd_cache().ok_or_else(homeless)?.join("models"),
            endpoint: environment::hub_endpoint(),
            token: environment::hub_token(),
            offline: environment::hub_offline(),
            refresh,
            patience: Duration::from_secs(10),
        })
    }
}

/// The directory (Hugging Face layout) or the `.gguf` file that `model` means, downloaded when it is not there yet.
///
/// # Errors
/// When there is no such model, or it cannot be had.
pub(crate) fn resolve(model: &str, settings: &Settings) -> Result<PathBuf, Failure> {
    let found = match ModelName::parse(model) {
        Ok(ModelName::Demo) => demo::get(settings),
        Ok(ModelName::Path(path)) => local::model_at(&path),
        Ok(ModelName::Hub(repo)) => from_hub(&repo, settings),
        Err(error) => Err(error),
    };
    found.map_err(|error| {
        let failure = Failure::of(Kind::Model, &error);
        match error.help() {
            Some(help) => failure.with_help(help),
            None => failure,
        }
    })
}

fn from_hub(repo: &RepoName, settings: &Settings) -> Result<PathBuf, HubError> {
    let cache = RepoCache::new(&settings.hub_cache, repo);
    if !settings.refresh
        && let Some(path) = cache.complete(repo)
    {
        return Ok(path);
    }
    if settings.offline {
        return Err(HubError::Offline { model: repo.to_string(), cache: settings.hub_cache.clone() });
    }
    download(repo, &cache, settings)
}

#[cfg(feature = "hub")]
fn download(repo: &RepoName, cache: &RepoCache, settings: &Settings) -> Result<PathBuf, HubError> {
    repository::download(repo, cache, settings)
}

#[cfg(not(feature = "hub"))]
fn download(repo: &RepoName, _: &RepoCache, _: &Settings) -> Result<PathBuf, HubError> {
    Err(HubError::NotBuilt { model: repo.to_string() })
}
