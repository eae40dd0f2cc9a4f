//! The PJRT C API: any plugin that exports `GetPjrtApi` (XLA's CPU and CUDA plugins, AWS's for Neuron), opened at run time.
//!
//! A [`Plugin`] makes a [`Client`], which owns [`Device`]s, compiles [`Executable`]s and holds [`Buffer`]s. Executables and buffers
//! keep their client alive; plugins stay loaded for ever. Programs are StableHLO text; own kernels enter a program as
//! custom calls whose implementation is an [`FfiHandler`].
//!
//! Several devices are ranks of one executable: [`CompileOptions::replicas`], and a list of arguments a rank.
#![allow(unsafe_code, reason = "the PJRT C API: functions by slot number, structs by pointer")]

mod abi;
mod buffer;
mod client;
mod discover;
mod element;
mod error;
mod event;
mod executable;
mod ffi;
mod options;
mod plugin;
mod saved;
mod topology;

pub use abi::HEADER_VERSION;
pub use buffer::Buffer;
pub use client::{Client, Device, DeviceMemory, Program, ProgramFormat};
pub use discover::{Kind, find, list};
pub use element::{ElementType, Plain};
pub use error::{ErrorCode, PjrtError};
pub use executable::{Executable, MemoryStats};
pub use ffi::{Attribute, Attributes, BufferMut, BufferRef, Call, FfiHandler, Traits};
pub use options::{AttributeValue, ClientOption, CompileOptions, Flag};
pub use plugin::{Extension, Plugin};
pub use topology::{DeviceDescription, Topology};
