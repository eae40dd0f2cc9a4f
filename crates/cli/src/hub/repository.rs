//! Brings what is wanted of a repository into the cache: its listing, the small files, the weights, then the reference.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::Settings;
use super::cache::{self, RepoCache};
use super::client::{Bytes, Client, escaped};
use super::error::HubError;
use super::name::RepoName;
use super::select::{self, Wanted, Weights};
use super::transfer::{self, Request};

/// Listings and indices of the largest models stay far below this.
const LONGEST_LISTING_BYTES: usize = 32 << 20;
const LONGEST_INDEX_BYTES: u64 = 64 << 20;

/// The hub's answer about a revision.
#[derive(Debug, Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
}

/// Downloads what `repo` names; returns the snapshot's directory, or its `.gguf`.
pub(super) fn download(repo: &RepoName, cache: &RepoCache, settings: &Settings) -> Result<PathBuf, HubError> {
    let client = Client::new(settings);
    let model = repo.to_string();
    let listing = list(&client, repo, &model)?;
    let names: Vec<String> = listing.siblings.iter().map(|file| file.rfilename.clone()).collect();
    let fetch = |name: &str| {
        let listed = listing.siblings.iter().find(|file| file.rfilename == name).and_then(|file| file.lfs.as_ref());
        let path = format!("{}/resolve/{}/{}", repo.id, escaped(&repo.revision, ""), escaped(name, "/"));
        let request = Request {
            model: &model,
            url: client.url(&path),
            name,
            commit: &listing.sha,
            listed_sha256: listed.and_then(|lfs| lfs.sha256.as_deref()),
        };
        transfer::fetch(&client, cache, settings, &request)
    };

    let snapshot = cache.snapshot(&listing.sha);
    let found = match select::wanted(repo, &names)? {
        Wanted::Gguf(name) => {
            fetch(&name)?;
            snapshot.join(name)
        }
        Wanted::Layout { small, weights } => {
            small.iter().try_for_each(|name| fetch(name))?;
            let weights = match weights {
                Weights::Files(files) => files,
                Weights::Indexed => {
                    fetch(select::INDEX)?;
                    indexed(&snapshot.join(select::INDEX), &model, &names)?
                }
            };
            weights.iter().try_for_each(|name| fetch(name))?;
            snapshot
        }
    };
    cache.set_commit(&listing.sha).map_err(|source| HubError::Io {
        doing: "cannot write the reference of",
        path: found.clone(),
        source,
    })?;
    Ok(found)
}

fn list(client: &Client, repo: &RepoName, model: &str) -> Result<Listing, HubError> {
    let url = client.url(&format!("api/models/{}/revision/{}", repo.id, escaped(&repo.revision, "")));
    let bad = |why: String| HubError::BadAnswer { url: url.clone(), why };
    let reply = client.get(model, &url, Bytes::All)?.ok_or_else(|| bad("no content".to_owned()))?;
    let body = client.read_all(reply, LONGEST_LISTING_BYTES)?;
    let listing: Listing = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    if !select::is_plain(&listing.sha) {
        return Err(bad("`sha` is not a commit".to_owned()));
    }
    Ok(listing)
}

/// The weight files that a downloaded index names; each must be in the repository.
fn indexed(index: &PathBuf, model: &str, names: &[String]) -> Result<Vec<String>, HubError> {
    let bad = |why: String| HubError::BadAnswer { url: format!("{model}/{}", select::INDEX), why };
    let io = |source| HubError::Io { doing: "cannot read", path: index.clone(), source };
    if fs::metadata(index).map_err(io)?.len() > LONGEST_INDEX_BYTES {
        return Err(bad(format!("it is longer than {LONGEST_INDEX_BYTES} bytes")));
    }
    let files = cache::shards(&fs::read(index).map_err(io)?)
        .ok_or_else(|| bad("`weight_map` does not map tensors to files".to_owned()))?;
    for file in &files {
        if !select::is_safe(file) {
            return Err(HubError::UnsafeName { model: model.to_owned(), name: file.clone() });
        }
        if !file.ends_with(".safetensors") || !names.contains(file) {
            return Err(bad(format!("`weight_map` names `{file}`, which is no weight file of the repository")));
        }
    }
    Ok(files)
}
