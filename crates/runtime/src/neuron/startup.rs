//! Starting the Neuron PJRT plugin: what must be there, in which order, and what to install when it is not.
//!
//! The plugin reads its environment while it is loaded and calls the compiler by name, and without a device it fails in its
//! own words, far from the cause: so each step is checked before the next.

use std::fmt;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::environment::{Facts, Options, plan};
use super::error::NeuronError;
use super::load::Nrt;
use crate::pjrt::{self, PjrtError};

/// One step of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A Neuron device exists.
    Device,
    /// `neuronx-cc` is found.
    Compiler,
    /// The plugin is found, and new enough to work without Python.
    Plugin,
    /// The environment is set.
    Environment,
    /// The plugin is loaded.
    Load,
    /// The client is made.
    Client,
    /// The client's devices are a power of two.
    DeviceCount,
}

impl Step {
    /// All of them, in the order in which they must happen.
    pub const ORDER: [Self; 7] =
        [Self::Device, Self::Compiler, Self::Plugin, Self::Environment, Self::Load, Self::Client, Self::DeviceCount];
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Device => "looking for a device",
            Self::Compiler => "looking for the compiler",
            Self::Plugin => "looking for the plugin",
            Self::Environment => "setting the environment",
            Self::Load => "loading the plugin",
            Self::Client => "creating the client",
            Self::DeviceCount => "counting devices",
        })
    }
}

/// The step that failed, and why.
#[derive(Debug, Error)]
#[error("starting the Neuron device: {step}: {cause}")]
pub struct StartupError {
    /// Where it stopped.
    pub step: Step,
    /// Why.
    pub cause: Cause,
}

/// Why a start failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Cause {
    /// Something about the machine or its environment.
    #[error(transparent)]
    Neuron(#[from] NeuronError),
    /// Something about the plugin.
    #[error(transparent)]
    Plugin(#[from] PjrtError),
}

/// A version of libneuronxla, of which the first two numbers count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginVersion {
    /// Major and minor.
    pub numbers: (u32, u32),
    /// All of it.
    pub text: String,
}

/// Earlier ones call back into a Python module.
const OLDEST: (u32, u32) = (3, 0);

/// Where the steps happen: [`Machine`], or a test.
pub trait Host {
    /// What comes out.
    type Client;
    /// Where a device's file is, if there is one.
    ///
    /// # Errors
    ///
    /// There is none.
    fn find_device(&mut self) -> Result<(), Cause>;
    /// The compiler's program.
    ///
    /// # Errors
    ///
    /// There is none.
    fn find_compiler(&mut self) -> Result<PathBuf, Cause>;
    /// The plugin's file and, where it can be told, its version.
    ///
    /// # Errors
    ///
    /// There is none.
    fn find_plugin(&mut self) -> Result<(PathBuf, Option<PluginVersion>), Cause>;
    /// Sets what the plugin will read.
    ///
    /// # Errors
    ///
    /// Contradictions, or it is too late.
    fn set_environment(&mut self, compiler: &Path) -> Result<(), Cause>;
    /// Loads the plugin.
    ///
    /// # Errors
    ///
    /// The loader's or the plugin's.
    fn load_plugin(&mut self, plugin: &Path) -> Result<(), Cause>;
    /// Makes the client of the loaded plugin.
    ///
    /// # Errors
    ///
    /// The plugin's.
    fn create_client(&mut self) -> Result<Self::Client, Cause>;
    /// The client's devices.
    fn count_devices(&self, client: &Self::Client) -> usize;
}

/// Takes every step of [`Step::ORDER`] on `host`.
///
/// # Errors
///
/// The first step that fails; later ones are not tried.
pub fn start<H: Host>(host: &mut H) -> Result<H::Client, StartupError> {
    let mut progress = Progress { compiler: PathBuf::new(), plugin: PathBuf::new(), client: None };
    for step in Step::ORDER {
        tracing::debug!(%step, "starting the Neuron device");
        progress.take(step, host).map_err(|cause| StartupError { step, cause })?;
    }
    Ok(progress.client.expect("`Step::Client` is one of `Step::ORDER`, and succeeded"))
}

struct Progress<C> {
    compiler: PathBuf,
    plugin: PathBuf,
    client: Option<C>,
}

impl<C> Progress<C> {
    fn take<H: Host<Client = C>>(&mut self, step: Step, host: &mut H) -> Result<(), Cause> {
        match step {
            Step::Device => host.find_device()?,
            Step::Compiler => self.compiler = host.find_compiler()?,
            Step::Plugin => {
                let (plugin, version) = host.find_plugin()?;
                match version {
                    Some(version) if version.numbers < OLDEST => {
                        return Err(NeuronError::OldPlugin { plugin, found: version.text }.into());
                    }
                    Some(version) => tracing::debug!(version = version.text, "libneuronxla found"),
                    None => {
                        tracing::warn!(plugin = %plugin.display(), "the plugin's version is unknown, 3.0 is needed")
                    }
                }
                self.plugin = plugin;
            }
            Step::Environment => host.set_environment(&self.compiler)?,
            Step::Load => host.load_plugin(&self.plugin)?,
            Step::Client => self.client = Some(host.create_client()?),
            Step::DeviceCount => {
                let found = self.client.as_ref().map_or(0, |client| host.count_devices(client));
                if !found.is_power_of_two() {
                    return Err(NeuronError::DeviceCount { found }.into());
                }
            }
        }
        Ok(())
    }
}

/// This machine.
#[derive(Debug)]
pub struct Machine {
    options: Options,
    named: Option<PathBuf>,
    plugin: Option<pjrt::Plugin>,
}

impl Machine {
    /// This machine, with the plugin at `plugin` or else the installed one.
    pub fn new(options: Options, plugin: Option<PathBuf>) -> Self {
        Self { options, named: plugin, plugin: None }
    }
}

impl Host for Machine {
    type Client = pjrt::Client;

    fn find_device(&mut self) -> Result<(), Cause> {
        const DEVICE: &str = "/dev/neuron0";
        if Path::new(DEVICE).exists() { Ok(()) } else { Err(NeuronError::NoDevice { path: DEVICE.into() }.into()) }
    }

    fn find_compiler(&mut self) -> Result<PathBuf, Cause> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A relative entry would stop working when somebody changes the folder.
        let mut folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
        folders
            .find_map(|folder| Some(folder.join("neuronx-cc")).filter(|file| is_program(file)))
            .ok_or_else(|| NeuronError::NoCompiler.into())
    }

    fn find_plugin(&mut self) -> Result<(PathBuf, Option<PluginVersion>), Cause> {
        let plugin = match &self.named {
            Some(path) => path.clone(),
            None => pjrt::find(pjrt::Kind::Neuron)?,
        };
        let version = plugin_version(&plugin);
        Ok((plugin, version))
    }

    fn set_environment(&mut self, compiler: &Path) -> Result<(), Cause> {
        // A machine that libnrt does not know is a question for `Options::target`, asked by `plan`.
        let machine = || Nrt::find().and_then(|nrt| nrt.instance());
        let target = machine().inspect_err(|error| tracing::debug!(%error, "the instance is unknown")).ok();
        let facts = Facts {
            target: target.and_then(|instance| instance.target()),
            compiler: compiler.to_owned(),
            free_port: free_port(),
            pjrt_header: pjrt::HEADER_VERSION,
        };
        plan(&self.options, |variable| std::env::var_os(variable), &facts)?.apply()?;
        Ok(())
    }

    fn load_plugin(&mut self, plugin: &Path) -> Result<(), Cause> {
        self.plugin = Some(pjrt::Plugin::load(plugin)?);
        Ok(())
    }

    fn create_client(&mut self) -> Result<pjrt::Client, Cause> {
        let plugin = self.plugin.as_ref().expect("`start` loads the plugin before it asks for a client");
        Ok(plugin.create_client(&[])?)
    }

    fn count_devices(&self, client: &pjrt::Client) -> usize {
        client.devices().len()
    }
}

/// A port that is free now; somebody else could take it before the runtime does, and then the runtime says so.
fn free_port() -> u16 {
    const USUAL: u16 = 46820;
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.map_or(USUAL, |address| address.port())
}

#[cfg(unix)]
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(file: &Path) -> bool {
    file.is_file()
}

/// The version in the name of `libneuronxla-<version>.dist-info`, which pip puts beside the package's folder.
fn plugin_version(plugin: &Path) -> Option<PluginVersion> {
    let site = plugin.parent()?.parent()?;
    let names = fs::read_dir(site).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // An upgrade that was cut may leave two: the lower one is the one to worry about.
    names.filter_map(|name| parse_version(name.strip_prefix("libneuronxla-")?.strip_suffix(".dist-info")?)).min()
}

fn parse_version(text: &str) -> Option<PluginVersion> {
    let mut numbers = text.split(['.', '+']);
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next().unwrap_or("0").parse().ok()?);
    Some(PluginVersion { numbers: (major, minor), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that keeps a list of what was asked of it, and fails where it is told.
    struct Fake {
        fails_at: Option<Step>,
        version: Option<&'static str>,
        devices: usize,
        asked: Vec<Step>,
    }

    impl Fake {
        fn new() -> Self {
            Self { fails_at: None, version: Some("3.0.1"), devices: 4, asked: Vec::new() }
        }

        fn ask(&mut self, step: Step) -> Result<(), Cause> {
            self.asked.push(step);
            if self.fails_at == Some(step) { Err(NeuronError::NoCompiler.into()) } else { Ok(()) }
        }
    }

    impl Host for Fake {
        type Client = &'static str;

        fn find_device(&mut self) -> Result<(), Cause> {
            self.ask(Step::Device)
        }

        fn find_compiler(&mut self) -> Result<PathBuf, Cause> {
            self.ask(Step::Compiler).map(|()| "/venv/bin/neuronx-cc".into())
        }

        fn find_plugin(&mut self) -> Result<(PathBuf, Option<PluginVersion>), Cause> {
            self.ask(Step::Plugin)?;
            Ok(("/venv/libneuronpjrt.so".into(), self.version.and_then(parse_version)))
        }

        fn set_environment(&mut self, compiler: &Path) -> Result<(), Cause> {
            assert_eq!(compiler, Path::new("/venv/bin/neuronx-cc"));
            self.ask(Step::Environment)
        }

        fn load_plugin(&mut self, plugin: &Path) -> Result<(), Cause> {
            assert_eq!(plugin, Path::new("/venv/libneuronpjrt.so"));
            self.ask(Step::Load)
        }

        fn create_client(&mut self) -> Result<&'static str, Cause> {
            self.ask(Step::Client).map(|()| "client")
        }

        fn count_devices(&self, client: &&'static str) -> usize {
            assert_eq!(*client, "client");
            self.devices
        }
    }

    #[test]
    fn the_steps_happen_in_their_order() {
        let mut host = Fake::new();
        assert_eq!(start(&mut host).unwrap(), "client");
        assert_eq!(host.asked, Step::ORDER[..6], "and counting is the seventh");
    }

    #[test]
    fn the_first_failure_stops_and_is_named() {
        for (index, step) in Step::ORDER[..6].iter().enumerate() {
            let mut host = Fake { fails_at: Some(*step), ..Fake::new() };
            let error = start(&mut host).unwrap_err();
            assert_eq!((error.step, host.asked.len()), (*step, index + 1));
            assert!(error.to_string().starts_with(&format!("starting the Neuron device: {step}: ")), "{error}");
        }
    }

    #[test]
    fn a_plugin_that_needs_python_is_refused_before_it_is_loaded() {
        let mut host = Fake { version: Some("2.2.16408.0+50c26cbd"), ..Fake::new() };
        let error = start(&mut host).unwrap_err();
        assert_eq!(host.asked.last(), Some(&Step::Plugin));
        let text = error.to_string();
        assert!(text.contains("libneuronxla is 2.2.16408.0+50c26cbd, needed is 3.0 or later; `pip install"), "{text}");
        let mut unknown = Fake { version: None, ..Fake::new() };
        assert!(start(&mut unknown).is_ok(), "a plugin outside of Python has no version");
    }

    #[test]
    fn devices_are_a_power_of_two() {
        for (devices, good) in [(0, false), (1, true), (2, true), (3, false), (12, false), (64, true)] {
            let result = start(&mut Fake { devices, ..Fake::new() });
            assert_eq!(result.is_ok(), good, "{devices}");
            if let Err(error) = result {
                assert_eq!(error.step, Step::DeviceCount);
                assert!(error.to_string().contains(&format!("has {devices} devices")), "{error}");
            }
        }
    }

    #[test]
    fn this_machine_without_a_device_says_what_it_needs() {
        if Path::new("/dev/neuron0").exists() {
            return;
        }
        let error = start(&mut Machine::new(Options::default(), None)).unwrap_err();
        assert_eq!(error.step, Step::Device);
        assert!(error.to_string().contains("aws-neuronx-dkms"), "{error}");
    }

    #[test]
    fn a_version_is_read_from_the_package_beside_the_plugin() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("libneuronxla/libneuronpjrt.so");
        assert_eq!(plugin_version(&plugin), None);
        for name in ["libneuronxla-3.1.7.dist-info", "libneuronxla-x.dist-info", "numpy-1.0.dist-info"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(plugin_version(&plugin).unwrap().numbers, (3, 1));
        fs::create_dir(folder.path().join("libneuronxla-2.9.dist-info")).unwrap();
        assert_eq!(plugin_version(&plugin).unwrap().text, "2.9");
    }
}
