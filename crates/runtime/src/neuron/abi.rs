//! libnrt's C interface: the layouts and functions that this binding uses, no more.
//!
//! Source: `nrt.h`, `nrt_experimental.h` and `nrt_version.h` of aws-neuron-sdk.
#![allow(unsafe_code, reason = "foreign functions")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use super::error::NeuronError;
use super::status::Status;
use crate::library::{Library, LoadError};

/// `nrt_model_t`, seen from outside.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawModel {
    opaque: [u8; 0],
}

/// `nrt_tensor_t`, seen from outside.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawTensor {
    opaque: [u8; 0],
}

/// `nrt_tensor_set_t`, seen from outside.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawTensorSet {
    opaque: [u8; 0],
}

/// `nrt_instance_info_t`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawInstance {
    pub(super) family: u32,
    pub(super) size: u32,
    pub(super) architecture: [u8; 16],
    pub(super) revision: [u8; 8],
}

/// `nrt_version_t`.
#[repr(C)]
pub(super) struct RawVersion {
    pub(super) numbers: [u64; 4],
    pub(super) detail: [u8; 128],
    pub(super) git_hash: [u8; 64],
}

/// `nrt_vnc_memory_stats_t`; fields are only ever added at its end.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawMemory {
    pub(super) used: usize,
    pub(super) limit: usize,
}

/// Bytes of a tensor's name with its terminator.
pub(super) const NAME_BYTES: usize = 256;

/// `nrt_tensor_info_t`. The enums are plain integers here: a foreign value must not become an impossible Rust one.
#[repr(C)]
pub(super) struct RawTensorInfo {
    pub(super) name: [u8; NAME_BYTES],
    pub(super) usage: u32,
    pub(super) bytes: usize,
    pub(super) dtype: u32,
    pub(super) shape: *const u32,
    pub(super) dimensions: u32,
}

/// The fixed part of `nrt_tensor_info_array_t`; `count` infos follow.
#[repr(C)]
pub(super) struct RawTensorInfos {
    pub(super) count: u64,
    pub(super) first: [RawTensorInfo; 0],
}

/// "No framework": the plain use of libnrt.
pub(super) const NO_FRAMEWORK: c_int = 1;
/// `NRT_TENSOR_PLACEMENT_DEVICE`.
pub(super) const ON_DEVICE: c_int = 0;
/// `NRT_TENSOR_PLACEMENT_VIRTUAL`: ordinary host memory (`_HOST` is deprecated and limited to 4 MB).
pub(super) const ON_HOST: c_int = 2;
/// The deprecated core count of the load functions.
pub(super) const ANY: i32 = -1;

type Code = c_int;
type Count = unsafe extern "C" fn(*mut u32) -> Code;
type LoadCollectives = unsafe extern "C" fn(*const c_void, usize, i32, i32, u32, u32, *mut *mut RawModel) -> Code;
type Execute = unsafe extern "C" fn(*mut RawModel, *const RawTensorSet, *mut RawTensorSet) -> Code;
type ExecuteRepeat = unsafe extern "C" fn(*mut RawModel, *const RawTensorSet, *mut RawTensorSet, c_int) -> Code;
type MemoryStats = unsafe extern "C" fn(u32, *mut RawMemory, usize, *mut usize) -> Code;
type Slice = unsafe extern "C" fn(*const RawTensor, usize, usize, *const c_char, *mut *mut RawTensor) -> Code;

/// The functions, by their names without `nrt_`.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) init: unsafe extern "C" fn(c_int, *const c_char, *const c_char) -> Code,
    pub(super) close: unsafe extern "C" fn(),
    pub(super) get_version: unsafe extern "C" fn(*mut RawVersion, usize) -> Code,
    pub(super) get_instance_info: unsafe extern "C" fn(*mut RawInstance, usize) -> Code,
    pub(super) get_total_count: Count,
    pub(super) get_visible_count: Count,
    pub(super) load: unsafe extern "C" fn(*const c_void, usize, i32, i32, *mut *mut RawModel) -> Code,
    pub(super) load_collectives: LoadCollectives,
    pub(super) unload: unsafe extern "C" fn(*mut RawModel) -> Code,
    pub(super) get_model_tensor_info: unsafe extern "C" fn(*mut RawModel, *mut *mut RawTensorInfos) -> Code,
    pub(super) free_model_tensor_info: unsafe extern "C" fn(*mut RawTensorInfos) -> Code,
    pub(super) tensor_allocate: unsafe extern "C" fn(c_int, c_int, usize, *const c_char, *mut *mut RawTensor) -> Code,
    pub(super) tensor_free: unsafe extern "C" fn(*mut *mut RawTensor),
    pub(super) tensor_read: unsafe extern "C" fn(*const RawTensor, *mut c_void, usize, usize) -> Code,
    pub(super) tensor_write: unsafe extern "C" fn(*mut RawTensor, *const c_void, usize, usize) -> Code,
    pub(super) tensor_get_size: unsafe extern "C" fn(*const RawTensor) -> usize,
    pub(super) tensor_allocate_slice: Slice,
    pub(super) allocate_tensor_set: unsafe extern "C" fn(*mut *mut RawTensorSet) -> Code,
    pub(super) destroy_tensor_set: unsafe extern "C" fn(*mut *mut RawTensorSet),
    pub(super) add_tensor: unsafe extern "C" fn(*mut RawTensorSet, *const c_char, *mut RawTensor) -> Code,
    pub(super) execute: Execute,
    pub(super) execute_repeat: ExecuteRepeat,
    /// Newer libraries only.
    pub(super) get_vnc_memory_stats: Option<MemoryStats>,
    library: Library,
}

impl Api {
    /// Finds every function in `library`.
    pub(super) fn resolve(library: Library) -> Result<Self, LoadError> {
        // SAFETY: each name is given the type that AWS's headers declare for it (`Api`'s fields).
        unsafe {
            Ok(Self {
                init: library.symbol("nrt_init")?,
                close: library.symbol("nrt_close")?,
                get_version: library.symbol("nrt_get_version")?,
                get_instance_info: library.symbol("nrt_get_instance_info")?,
                // The `nc` names are the older ones of the same functions.
                get_total_count: library
                    .symbol("nrt_get_total_vnc_count")
                    .or_else(|_| library.symbol("nrt_get_total_nc_count"))?,
                get_visible_count: library
                    .symbol("nrt_get_visible_vnc_count")
                    .or_else(|_| library.symbol("nrt_get_visible_nc_count"))?,
                load: library.symbol("nrt_load")?,
                load_collectives: library.symbol("nrt_load_collectives")?,
                unload: library.symbol("nrt_unload")?,
                get_model_tensor_info: library.symbol("nrt_get_model_tensor_info")?,
                free_model_tensor_info: library.symbol("nrt_free_model_tensor_info")?,
                tensor_allocate: library.symbol("nrt_tensor_allocate")?,
                tensor_free: library.symbol("nrt_tensor_free")?,
                tensor_read: library.symbol("nrt_tensor_read")?,
                tensor_write: library.symbol("nrt_tensor_write")?,
                tensor_get_size: library.symbol("nrt_tensor_get_size")?,
                tensor_allocate_slice: library.symbol("nrt_tensor_allocate_slice")?,
                allocate_tensor_set: library.symbol("nrt_allocate_tensor_set")?,
                destroy_tensor_set: library.symbol("nrt_destroy_tensor_set")?,
                add_tensor: library.symbol("nrt_add_tensor_to_tensor_set")?,
                execute: library.symbol("nrt_execute")?,
                execute_repeat: library.symbol("nrt_execute_repeat")?,
                get_vnc_memory_stats: library.symbol("nrt_get_vnc_memory_stats").ok(),
                library,
            })
        }
    }

    /// The library's file.
    pub(super) fn path(&self) -> &Path {
        self.library.path()
    }
}

/// A pointer that libnrt gave us and that we give back once.
///
/// Handles cross threads; each use happens under the lock of the core it belongs to (`Core::lock`).
#[derive(Debug)]
pub(super) struct Handle<T>(std::ptr::NonNull<T>);

// SAFETY: libnrt ties no handle to a thread (AWS's guide runs one model from several threads), and `T` is opaque: Rust
// never reads through the pointer.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above; calls with one handle are serialised by the core's lock.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Handle<T> {
    /// The handle that `function` put out.
    pub(super) fn new(pointer: *mut T, function: &'static str, subject: &str) -> Result<Self, NeuronError> {
        let found = || NeuronError::Answer { function, subject: subject.to_owned(), found: "a null handle".to_owned() };
        std::ptr::NonNull::new(pointer).map(Self).ok_or_else(found)
    }

    pub(super) fn pointer(&self) -> *mut T {
        self.0.as_ptr()
    }
}

/// `code` of `function` as a result.
pub(super) fn check(function: &'static str, code: c_int, subject: impl FnOnce() -> String) -> Result<(), NeuronError> {
    match Status::from_code(code) {
        None => Ok(()),
        Some(status) => Err(NeuronError::Call { function, subject: subject(), status }),
    }
}

/// Text of a fixed C field: up to the first zero byte, or all of it.
pub(super) fn text(field: &[u8]) -> String {
    CStr::from_bytes_until_nul(field)
        .map_or_else(|_| String::from_utf8_lossy(field), |text| text.to_string_lossy())
        .into_owned()
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// The numbers are what a C compiler makes of AWS's headers on a 64-bit machine.
    #[test]
    fn layouts_are_those_of_the_headers() {
        assert_eq!(size_of::<RawInstance>(), 32);
        assert_eq!(size_of::<RawVersion>(), 224);
        assert_eq!(size_of::<RawMemory>(), 16);
        assert_eq!(size_of::<RawTensorInfo>(), 296);
        assert_eq!(offset_of!(RawTensorInfo, bytes), 264);
        assert_eq!(offset_of!(RawTensorInfo, shape), 280);
        assert_eq!(offset_of!(RawTensorInfos, first), 8);
    }

    #[test]
    fn text_ends_at_a_zero_byte_or_with_its_field() {
        assert_eq!(text(b"trn2\0junk"), "trn2");
        assert_eq!(text(b"full"), "full");
        assert_eq!(text(b""), "");
    }
}
