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

pub(super) fn look() -> Vec<PathBuf> {
    let folders: Vec<PathBuf> =
        environment::library_folders().into_iter().chain(FOLDERS.iter().map(PathBuf::from)).collect();
    let known = folders.iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
    let all = environment::named_plugins().into_iter().chain(known);
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
