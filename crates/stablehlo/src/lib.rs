//! The traced device: a model's step recorded as StableHLO, compiled by a PJRT plugin, and run on its devices.
//!
//! A [`tracer::Tracer`] implements [`nxd_ops::Ops`] by writing instead of computing, so the model source that runs eagerly is what is
//! recorded. [`device::TracedDevice`] binds weights, keeps the paged KV cache on the devices, cuts a ragged batch into rectangles,
//! and records, compiles and runs the program of each rectangle's bucket. What differs between devices is data: a [`target::Target`].
//!
//! ```no_run
//! use nxd_runtime::pjrt::{ClientOption, Plugin};
//! use nxd_stablehlo::device::{TracedDevice, TracedOptions};
//! use nxd_stablehlo::target::Target;
//! # fn example(manifest: std::sync::Arc<nxd_ops::Manifest>, source: &dyn nxd_ops::WeightSource) -> Result<(), Box<dyn std::error::Error>> {
//! let plugin = Plugin::load("plugin.so".as_ref())?;
//! let client = plugin.create_client(&[("cpu_device_count", ClientOption::Int(2))])?;
//! let target = Target::of_platform(client.platform_name());
//! let mut device = TracedDevice::bind(client, manifest, source, TracedOptions::of(target))?;
//! # Ok(())
//! # }
//! ```
//!
//! *Does not know*: model families, checkpoints' files, requests. It never branches on a tensor's values, nor on a rank.
//!
//! Reading order: [`record`], [`program`], [`tracer`], [`sampling`], [`layout`], [`bucket`], [`inputs`], [`target`], [`kernel`],
//! [`cache`], [`device`].

pub mod bucket;
pub mod cache;
pub mod device;
pub mod error;
pub mod host;
pub mod inputs;
pub mod kernel;
pub mod layout;
pub mod program;
pub mod record;
pub mod sampling;
pub mod target;
pub mod tracer;
