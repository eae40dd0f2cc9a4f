//! From the device that a user named to a client of its plugin.

use crate::device::{Device, Dtype};
use crate::error::ExecutorError;
use nxd_runtime::neuron::environment::{Cores, Options};
use nxd_runtime::neuron::startup::{self, Machine};
use nxd_runtime::pjrt::{self, Client, Kind, Plugin};
use nxd_stablehlo::record::Element;
use nxd_stablehlo::target::Target;
use std::path::Path;

/// Loads the plugin of `device` and makes a client with a device for each rank.
pub(super) fn open(device: &Device, ranks: usize) -> Result<(Client, Target), ExecutorError> {
    let failed = |source| ExecutorError::Plugin { device: device.clone(), source };
    let (path, expected) = match device {
        Device::Pjrt(path) => (path.clone(), expected(path)),
        Device::Cuda => (pjrt::find(Kind::Cuda).map_err(failed)?, Some(Target::CUDA)),
        Device::Neuron => return neuron(ranks),
        Device::Cpu => {
            return Err(ExecutorError::NotBuilt { device: Device::Cpu, why: "the CPU is no traced device" });
        }
    };
    if let Some(target) = &expected {
        for (name, value) in target.variables(&path, |name| std::env::var_os(name)) {
            let value = value.to_string_lossy();
            tracing::warn!("the plugin finds its CUDA files more surely after `export {name}={value}`");
        }
    }
    let plugin = Plugin::load(&path).map_err(failed)?;
    let options = expected.map(|target| target.client_options(ranks)).unwrap_or_default();
    let client = plugin.create_client(&options).map_err(failed)?;
    let target = Target::of_platform(client.platform_name());
    tracing::info!(
        platform = client.platform_name(),
        devices = client.devices().len(),
        target = target.name,
        "plugin ready"
    );
    Ok((client, target))
}

/// Goes through Neuron's start-up: driver, compiler, environment, plugin, client.
fn neuron(ranks: usize) -> Result<(Client, Target), ExecutorError> {
    let cores = Cores::Count(u32::try_from(ranks).unwrap_or(u32::MAX));
    let options = Options { cores, ..Options::default() };
    let client = startup::start(&mut Machine::new(options, None)).map_err(|e| ExecutorError::Startup(Box::new(e)))?;
    Ok((client, Target::NEURON))
}

/// What a plugin's file name says it drives: options of a client have to be known before it can be asked.
fn expected(path: &Path) -> Option<Target> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    [("cpu", Target::CPU), ("cuda", Target::CUDA), ("neuron", Target::NEURON)]
        .into_iter()
        .find(|(word, _)| name.contains(word))
        .map(|(_, target)| target)
}

/// The element type of `--dtype`.
pub(super) fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F32 => Element::F32,
        Dtype::BF16 => Element::BF16,
        Dtype::F16 => Element::F16,
    }
}
