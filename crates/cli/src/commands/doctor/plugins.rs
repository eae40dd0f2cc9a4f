//! PJRT plugins that other software has put on this machine: shared libraries that drive an accelerator.

use std::fs;
use std::path::PathBuf;

use crate::environment;

/// The names that XLA's, JAX's, Google's and AWS's builds have.
const NAMES: [&str; 6] = [
    "libneuronpjrt.so",
    "libtpu.so",
    "libpjrt_cpu.so",
    "pjrt_c_api_cpu_plugin.so",
    "pjrt_c_api_gpu_plugin.so",
    "xla_cuda_plugin.so",
];
/// Where packages of those vendors put them.
const FOLDERS: [&str; 4] = ["/usr/lib", "/usr/local/lib", "/opt/aws/neuron/lib", "/lib"];

/// Those that are found, each once: what `--device cuda` and the like would take first, among them.
pub(super) fn look() -> Vec<PathBuf> {
    let folders: Vec<PathBuf> =
        environment::library_folders().into_iter().chain(FOLDERS.iter().map(PathBuf::from)).collect();
    let known = folders.iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
    let all = environment::named_plugins().into_iter().chain(installed()).chain(fetched()).chain(known);
    let mut found = Vec::new();
    for path in all.filter(|path| path.is_file()) {
        // `/lib` is often a link to `/usr/lib`.
        let path = fs::canonicalize(&path).unwrap_or(path);
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// Those of Python packages, where the device's own search finds them.
#[cfg(feature = "pjrt")]
fn installed() -> Vec<PathBuf> {
    nxd_runtime::pjrt::list().into_iter().map(|(_, path)| path).collect()
}

#[cfg(not(feature = "pjrt"))]
fn installed() -> Vec<PathBuf> {
    Vec::new()
}

/// Those that `cargo xtask pjrt` put into the cache: `pjrt/<package>/<plugin>.so`.
fn fetched() -> Vec<PathBuf> {
    let inside = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let cache = environment::nxd_cache().map(|cache| cache.join("pjrt"));
    let mut files: Vec<PathBuf> = cache.into_iter().flat_map(inside).flat_map(inside).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "so"));
    files.sort();
    files
}
