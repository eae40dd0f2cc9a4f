//! Finding the plugins that Python packages and vendors have put on this machine.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::PjrtError;
use crate::library::install;

/// A kind of device that a plugin drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// NVIDIA GPUs.
    Cuda,
    /// AWS Trainium and Inferentia.
    Neuron,
    /// XLA's own CPU device, to test on.
    Cpu,
}

/// What is known about the plugins of one kind.
struct Known {
    kind: Kind,
    name: &'static str,
    /// Names a plugin and wins over every folder.
    variable: &'static str,
    /// Folder below `site-packages` (its name may go on after the last part) and file.
    packages: &'static [(&'static str, &'static str)],
    /// Files that vendors install outside of Python.
    files: &'static [&'static str],
}

const KNOWN: [Known; 3] = [
    Known {
        kind: Kind::Cuda,
        name: "cuda",
        variable: "NXD_CUDA_PLUGIN",
        packages: &[("jax_plugins/xla_cuda", "xla_cuda_plugin.so")],
        files: &["xla_cuda_plugin.so", "pjrt_c_api_gpu_plugin.so"],
    },
    Known {
        kind: Kind::Neuron,
        name: "neuron",
        variable: "NXD_NEURON_PLUGIN",
        packages: &[("libneuronxla", "libneuronpjrt.so")],
        files: &["libneuronpjrt.so"],
    },
    Known {
        kind: Kind::Cpu,
        name: "cpu",
        variable: "NXD_PJRT_CPU_PLUGIN",
        packages: &[("lammps_jax_pjrt_cpu", "pjrt_c_api_cpu_plugin.so")],
        files: &["pjrt_c_api_cpu_plugin.so", "libpjrt_cpu.so"],
    },
];

/// Where vendors' packages put libraries.
const FOLDERS: [&str; 3] = ["/opt/aws/neuron/lib", "/usr/local/lib", "/usr/lib"];

/// The plugin for a kind of device: the one that the environment names, else the first that is found.
///
/// # Errors
///
/// There is none, or the environment names a file that is not there; the message lists the places and the package to install.
pub fn find(kind: Kind) -> Result<PathBuf, PjrtError> {
    let known = known(kind);
    let not_found = |looked| PjrtError::NotFound {
        kind,
        install: install(Path::new(known.files[0])),
        variable: known.variable,
        looked,
    };
    if let Some(path) = variable(known.variable) {
        return if path.is_file() { Ok(path) } else { Err(not_found(format!("`{}`", path.display()))) };
    }
    let sites = site_packages();
    candidates(known, &sites).into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let packages = known.packages.iter().map(|(folder, file)| format!("`{folder}*/{file}`"));
        let packages = packages.collect::<Vec<_>>().join(", ");
        let sites = sites.iter().map(|site| site.display().to_string()).collect::<Vec<_>>().join(", ");
        let sites = if sites.is_empty() { "any Python's site-packages (there are none)".to_owned() } else { sites };
        not_found(format!("{packages} in {sites}, and for `{}` in {}", known.files[0], FOLDERS.join(", ")))
    })
}

/// Every plugin on this machine that `find` could return, each file once.
pub fn list() -> Vec<(Kind, PathBuf)> {
    let sites = site_packages();
    let mut found: Vec<(Kind, PathBuf)> = Vec::new();
    for known in &KNOWN {
        for path in variable(known.variable).into_iter().chain(candidates(known, &sites)) {
            if !path.is_file() {
                continue;
            }
            let path = fs::canonicalize(&path).unwrap_or(path);
            if !found.iter().any(|(_, seen)| *seen == path) {
                found.push((known.kind, path));
            }
        }
    }
    found
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(known(*self).name)
    }
}

fn known(kind: Kind) -> &'static Known {
    KNOWN.iter().find(|known| known.kind == kind).expect("the table has a row for each kind")
}

/// In the order of preference; most do not exist.
fn candidates(known: &Known, sites: &[PathBuf]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for site in sites {
        for (folder, file) in known.packages {
            paths.extend(starting_with(&site.join(folder)).into_iter().rev().map(|folder| folder.join(file)));
        }
    }
    let files = FOLDERS.iter().flat_map(|folder| known.files.iter().map(move |file| Path::new(folder).join(file)));
    paths.extend(files);
    paths
}

/// The `site-packages` and `dist-packages` of the Pythons that this user is likely to mean.
fn site_packages() -> Vec<PathBuf> {
    let home = env::home_dir();
    let roots = [variable("VIRTUAL_ENV"), variable("CONDA_PREFIX"), home.as_ref().map(|home| home.join(".local"))];
    let system = ["/usr/local", "/usr"].map(PathBuf::from);
    let pyenv = home.iter().flat_map(|home| starting_with(&home.join(".pyenv/versions/")));
    let mut sites = Vec::new();
    for root in roots.into_iter().flatten().chain(system).chain(pyenv) {
        // The newest Python first.
        for python in starting_with(&root.join("lib/python3")).into_iter().rev() {
            sites.extend(
                ["site-packages", "dist-packages"].map(|name| python.join(name)).into_iter().filter(|p| p.is_dir()),
            );
        }
    }
    sites
}

/// The folders whose path begins with `prefix`, by name; a prefix with a slash at its end means everything in that folder.
fn starting_with(prefix: &Path) -> Vec<PathBuf> {
    let text = prefix.as_os_str().to_string_lossy();
    let (folder, start) = match text.strip_suffix('/') {
        Some(folder) => (PathBuf::from(folder), String::new()),
        None => match (prefix.parent(), prefix.file_name()) {
            (Some(folder), Some(name)) => (folder.to_owned(), name.to_string_lossy().into_owned()),
            _ => return Vec::new(),
        },
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&start));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

/// A path that the environment names; an empty variable is none.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_in_site_packages_the_newest_first() {
        let site = tempfile::tempdir().unwrap();
        for cuda in ["jax_plugins/xla_cuda12", "jax_plugins/xla_cuda13", "libneuronxla"] {
            fs::create_dir_all(site.path().join(cuda)).unwrap();
        }
        let sites = [site.path().to_owned()];
        let cuda = candidates(known(Kind::Cuda), &sites);
        assert_eq!(cuda[0], site.path().join("jax_plugins/xla_cuda13/xla_cuda_plugin.so"));
        assert_eq!(cuda[1], site.path().join("jax_plugins/xla_cuda12/xla_cuda_plugin.so"));
        assert!(cuda.contains(&PathBuf::from("/usr/lib/xla_cuda_plugin.so")));
        let neuron = candidates(known(Kind::Neuron), &sites);
        assert_eq!(neuron[0], site.path().join("libneuronxla/libneuronpjrt.so"));
        assert_eq!(neuron[1], Path::new("/opt/aws/neuron/lib/libneuronpjrt.so"));
    }

    #[test]
    fn the_places_of_an_installed_python_are_folders() {
        let sites = site_packages();
        assert!(sites.iter().all(|site| site.is_dir()), "{sites:?}");
        // Each plugin that is listed is a file, listed once.
        let listed = list();
        assert!(listed.iter().all(|(_, path)| path.is_file()));
        assert!(listed.iter().enumerate().all(|(i, (_, path))| !listed[..i].iter().any(|(_, seen)| seen == path)));
    }

    #[test]
    fn every_kind_says_what_to_install() {
        for known in &KNOWN {
            let package = install(Path::new(known.files[0]));
            assert!(package.starts_with("install "), "{}: {package}", known.name);
        }
    }
}
