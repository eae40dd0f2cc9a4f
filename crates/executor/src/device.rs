//! What computes, and in which type: the names that a user types.

use nxd_cpu::{Activations, KvDtype};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What computes. Its text form is the value of `--device`.
///
/// ```
/// use nxd_executor::Device;
///
/// let device: Device = "pjrt:/opt/plugins/pjrt_c_api_cpu_plugin.so".parse()?;
/// assert_eq!(device, Device::Pjrt("/opt/plugins/pjrt_c_api_cpu_plugin.so".into()));
/// assert_eq!(device.to_string(), "pjrt:/opt/plugins/pjrt_c_api_cpu_plugin.so");
/// # Ok::<(), nxd_executor::ParseDeviceError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The kernels of `nxd-cpu`: `cpu`.
    #[default]
    Cpu,
    /// Whatever the PJRT plugin in this file drives: `pjrt:/path/to/plugin.so`.
    Pjrt(PathBuf),
    /// NVIDIA GPUs, by the CUDA plugin that is installed: `cuda`.
    Cuda,
    /// AWS Trainium and Inferentia, by the Neuron plugin that is installed: `neuron`.
    Neuron,
}

/// The type of the arithmetic's activations on traced devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of an f32.
    BF16,
    /// IEEE 754 binary16.
    F16,
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDeviceError {
    /// Another word.
    #[error("`{found}` is not a device; write `cpu`, `pjrt:/path/to/plugin.so`, `cuda` or `neuron`")]
    Unknown {
        /// The text.
        found: String,
    },
    /// `pjrt` without a file.
    #[error("`{found}` names no plugin; write the path of its shared library, as in `pjrt:/path/to/plugin.so`")]
    NoPlugin {
        /// The text.
        found: String,
    },
}

impl Device {
    /// The type of stored keys and values where none is asked for: on the CPU f16 with 8-bit activations and f32 with f32
    /// activations, elsewhere that of the arithmetic.
    pub fn kv_dtype(&self, dtype: Option<Dtype>, activations: Activations) -> KvDtype {
        match (self, dtype) {
            (Device::Cpu, _) => match activations {
                Activations::Int8 => KvDtype::F16,
                Activations::F32 => KvDtype::F32,
            },
            (_, Some(Dtype::F32)) => KvDtype::F32,
            (_, Some(Dtype::BF16)) => KvDtype::BF16,
            (_, Some(Dtype::F16)) => KvDtype::F16,
            // Accelerators choose bf16. What the file of a plugin drives is known when it is loaded, so that it is f32 there.
            (Device::Cuda | Device::Neuron, None) => KvDtype::BF16,
            (Device::Pjrt(_), None) => KvDtype::F32,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Pjrt(plugin) => write!(f, "pjrt:{}", plugin.display()),
            Device::Cuda => f.write_str("cuda"),
            Device::Neuron => f.write_str("neuron"),
        }
    }
}

impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_plugin = || ParseDeviceError::NoPlugin { found: text.to_owned() };
        match text.split_once(':') {
            Some(("pjrt", plugin)) if plugin.trim().is_empty() => Err(no_plugin()),
            Some(("pjrt", plugin)) => Ok(Device::Pjrt(PathBuf::from(plugin))),
            _ => match text {
                "cpu" => Ok(Device::Cpu),
                "cuda" => Ok(Device::Cuda),
                "neuron" => Ok(Device::Neuron),
                "pjrt" => Err(no_plugin()),
                _ => Err(ParseDeviceError::Unknown { found: text.to_owned() }),
            },
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::BF16 => "bf16",
            Dtype::F16 => "f16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_reads_back_from_its_text() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("pjrt:/a/b.so", Device::Pjrt("/a/b.so".into())),
            ("pjrt:C:/plugins/b.dll", Device::Pjrt("C:/plugins/b.dll".into())),
            ("pjrt:b.so", Device::Pjrt("b.so".into())),
            ("cuda", Device::Cuda),
            ("neuron", Device::Neuron),
        ] {
            assert_eq!(text.parse(), Ok(device.clone()), "{text}");
            assert_eq!(device.to_string(), text);
        }
    }

    #[test]
    fn keys_and_values_are_stored_as_the_arithmetic_computes() {
        let stored = |device: &str, dtype| device.parse::<Device>().unwrap().kv_dtype(dtype, Activations::Int8);
        assert_eq!((stored("pjrt:/a.so", None), stored("cuda", None)), (KvDtype::F32, KvDtype::BF16));
        for device in ["pjrt:/a.so", "cuda", "neuron"] {
            assert_eq!(stored(device, Some(Dtype::F32)), KvDtype::F32, "{device}");
            assert_eq!(stored(device, Some(Dtype::BF16)), KvDtype::BF16, "{device}");
            assert_eq!(stored(device, Some(Dtype::F16)), KvDtype::F16, "{device}");
        }
        assert_eq!(stored("cpu", Some(Dtype::F32)), KvDtype::F16, "there f32 says nothing of the activations");
        assert_eq!(Device::Cpu.kv_dtype(None, Activations::F32), KvDtype::F32);
    }

    #[test]
    fn texts_that_name_no_device_say_what_to_write() {
        for (text, part) in [
            ("", "`cpu`"),
            ("CPU", "`CPU` is not a device"),
            ("tpu", "`pjrt:/path/to/plugin.so`, `cuda` or `neuron`"),
            ("cuda:0", "`cuda:0` is not a device"),
            ("pjrt", "`pjrt` names no plugin"),
            ("pjrt:", "`pjrt:` names no plugin"),
            ("pjrt: ", "as in `pjrt:/path/to/plugin.so`"),
        ] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
