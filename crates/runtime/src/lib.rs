//! Device runtimes by dlopen: the PJRT C API and libnrt.
//!
//! ```no_run
//! use nxd_runtime::pjrt::{CompileOptions, ElementType, Plugin, Program};
//!
//! let plugin = Plugin::load("pjrt_c_api_cpu_plugin.so".as_ref())?;
//! let client = plugin.create_client(&[])?;
//! let text = "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
//!   %y = stablehlo.add %x, %x : tensor<2xf32>
//!   return %y : tensor<2xf32> }";
//! let executable = client.compile(&Program::mlir(text.as_bytes()), &CompileOptions::default())?;
//! let x = client.upload(0, ElementType::F32, &[2], &[0, 0, 128, 63, 0, 0, 0, 64])?;
//! let outputs = executable.execute(&[vec![&x]], &[])?;
//! assert_eq!(outputs[0][0].to_vec::<f32>()?, [2.0, 4.0]);
//! # Ok::<(), nxd_runtime::pjrt::PjrtError>(())
//! ```
//!
//! Nothing here knows what a model, a tensor name or a batch is, and nothing is linked: every library is found and opened at
//! run time, and stays open. Each failure of a plugin is an error with the plugin's words.
//!
//! In reading order: [`pjrt`] (plugins, clients, buffers, executables), [`neuron`] (libnrt, for NEFF files).

mod library;
pub mod neuron;
pub mod pjrt;

pub use library::LoadError;
