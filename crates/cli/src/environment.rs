//! The environment variables that nxd reads besides the flags' own twins; nothing else in this crate asks for one.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// Log directives of Rust programs, used when `--log-level` is not given.
pub(crate) fn rust_log() -> Option<String> {
    text("RUST_LOG")
}

/// Whether colours are unwanted; <https://no-color.org>.
pub(crate) fn no_color() -> bool {
    filled("NO_COLOR").is_some()
}

/// Folders in which programs are looked for.
pub(crate) fn program_folders() -> Vec<PathBuf> {
    filled("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// Folders in which the dynamic linker looks first.
pub(crate) fn library_folders() -> Vec<PathBuf> {
    filled("LD_LIBRARY_PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// Plugin files named by `PJRT_PLUGIN_LIBRARY_PATH` and `TPU_LIBRARY_PATH`, the variables other PJRT clients read.
pub(crate) fn named_plugins() -> Vec<PathBuf> {
    ["PJRT_PLUGIN_LIBRARY_PATH", "TPU_LIBRARY_PATH"].iter().filter_map(|name| filled(name)).map(PathBuf::from).collect()
}

/// Where downloaded models that do not come from the hub are kept: `$XDG_CACHE_HOME/nxd`, else `~/.cache/nxd`.
pub(crate) fn nxd_cache() -> Option<PathBuf> {
    Some(user_cache()?.join("nxd"))
}

/// The hub's cache, found as its Python library finds it.
pub(crate) fn hub_cache() -> Option<PathBuf> {
    match filled("HF_HUB_CACHE") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => Some(hub_home()?.join("hub")),
    }
}

/// The hub's address, without a slash at its end.
pub(crate) fn hub_endpoint() -> String {
    let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
    endpoint.trim_end_matches('/').to_owned()
}

/// Whether the hub must not be asked.
pub(crate) fn hub_offline() -> bool {
    text("HF_HUB_OFFLINE").is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_ascii_lowercase().as_str()))
}

/// The user's token for the hub: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else the file that `hf auth login` writes.
pub(crate) fn hub_token() -> Option<String> {
    let stored = || {
        let path = filled("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hub_home()?.join("token")))?;
        std::fs::read_to_string(path).ok()
    };
    text("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn hub_home() -> Option<PathBuf> {
    match filled("HF_HOME") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => Some(user_cache()?.join("huggingface")),
    }
}

fn user_cache() -> Option<PathBuf> {
    match filled("XDG_CACHE_HOME") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => Some(env::home_dir().filter(|home| !home.as_os_str().is_empty())?.join(".cache")),
    }
}

fn text(name: &str) -> Option<String> {
    filled(name)?.into_string().ok()
}

fn filled(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
