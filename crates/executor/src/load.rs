//! The executor of the device that the options name.

use crate::cpu::CpuExecutor;
use crate::device::Device;
use crate::error::ExecutorError;
use crate::executor::Executor;
use crate::options::ExecutorOptions;
use nxd_models::Model;

/// Loads the model on the device that `options` name.
///
/// # Errors
/// When the device is not in this build or its library cannot be used, when the files do not fit the configuration, when the layout
/// is impossible, or when the memory cannot be had.
pub fn load(model: &Model, options: &ExecutorOptions) -> Result<Box<dyn Executor>, ExecutorError> {
    match &options.device {
        Device::Cpu => Ok(Box::new(CpuExecutor::load(model, options)?)),
        #[cfg(feature = "pjrt")]
        _ => Ok(Box::new(crate::traced::TracedExecutor::load(model, options)?)),
        #[cfg(not(feature = "pjrt"))]
        device => Err(ExecutorError::NotBuilt {
            device: device.clone(),
            why: "build it with the cargo feature `pjrt`, or use the device `cpu`",
        }),
    }
}
