//! The FFI's binary layout: the frame of a call, buffers, attributes, and the few functions that a handler can call back.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

use super::super::abi::{ExtensionHead, Opaque};

/// The FFI version that handlers answer with: the oldest whose frame has all that is used here.
pub(super) const FFI_VERSION: (c_int, c_int) = (0, 1);
/// The number of the PJRT extension that registers handlers.
pub(super) const PJRT_EXTENSION: c_int = 5;
/// The number of the call frame's extension that asks for metadata.
pub(super) const METADATA_EXTENSION: c_int = 1;
/// The stage in which a handler computes.
pub(super) const STAGE_EXECUTE: c_int = 3;
/// Abseil's code for internal errors.
pub(super) const CODE_INTERNAL: c_int = 13;
/// The kind of an argument or a result that is a buffer.
pub(super) const KIND_BUFFER: c_int = 1;

pub(super) type RawHandler = unsafe extern "C" fn(*mut CallFrame) -> Opaque;

#[repr(C)]
pub(super) struct CallFrame {
    pub(super) struct_size: usize,
    pub(super) extensions: *const ExtensionHead,
    pub(super) api: *const Api,
    pub(super) context: Opaque,
    pub(super) stage: c_int,
    pub(super) arguments: Buffers,
    pub(super) results: Buffers,
    pub(super) attributes: RawAttributes,
}

impl CallFrame {
    pub(super) const LEAST_SIZE: usize = offset_of!(CallFrame, attributes) + size_of::<RawAttributes>();
}

/// Arguments or results.
#[repr(C)]
pub(super) struct Buffers {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) len: i64,
    pub(super) kinds: *const c_int,
    pub(super) items: *const *const RawBuffer,
}

#[repr(C)]
pub(super) struct RawBuffer {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) element: c_int,
    pub(super) data: *mut c_void,
    pub(super) rank: i64,
    pub(super) dims: *const i64,
}

#[repr(C)]
pub(super) struct RawAttributes {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) len: i64,
    pub(super) kinds: *const c_int,
    pub(super) names: *const *const Span,
    pub(super) items: *const *const c_void,
}

#[repr(C)]
pub(super) struct Span {
    pub(super) text: *const u8,
    pub(super) len: usize,
}

#[repr(C)]
pub(super) struct Scalar {
    pub(super) element: c_int,
    pub(super) value: *const c_void,
}

#[repr(C)]
pub(super) struct Array {
    pub(super) element: c_int,
    pub(super) len: usize,
    pub(super) values: *const c_void,
}

/// The part of the FFI's function table that is used here.
#[repr(C)]
pub(super) struct Api {
    struct_size: usize,
    extensions: Opaque,
    version: [u64; 3],
    internal: Opaque,
    pub(super) error_create: Option<unsafe extern "C" fn(*mut ErrorCreate) -> Opaque>,
    pub(super) error_message: Option<unsafe extern "C" fn(*mut ErrorMessage)>,
    pub(super) error_destroy: Option<unsafe extern "C" fn(*mut ErrorDestroy)>,
    handler_register: Opaque,
    pub(super) stream_get: Option<unsafe extern "C" fn(*mut StreamGet) -> Opaque>,
}

#[repr(C)]
pub(super) struct ErrorCreate {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) message: *const c_char,
    pub(super) code: c_int,
}

impl ErrorCreate {
    pub(super) const SIZE: usize = offset_of!(ErrorCreate, code) + size_of::<c_int>();
}

#[repr(C)]
pub(super) struct ErrorMessage {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) error: Opaque,
    pub(super) message: *const c_char,
}

#[repr(C)]
pub(super) struct ErrorDestroy {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) error: Opaque,
}

#[repr(C)]
pub(super) struct StreamGet {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
    pub(super) context: Opaque,
    pub(super) stream: Opaque,
}

#[repr(C)]
pub(super) struct MetadataExtension {
    pub(super) head: ExtensionHead,
    pub(super) metadata: *mut Metadata,
}

#[repr(C)]
pub(super) struct Metadata {
    struct_size: usize,
    version_struct_size: usize,
    version_extensions: Opaque,
    pub(super) major: c_int,
    pub(super) minor: c_int,
    pub(super) traits: u32,
}

#[repr(C)]
pub(super) struct RegisterExtension {
    head: ExtensionHead,
    type_register: Opaque,
    user_data_add: Opaque,
    pub(super) register: Option<unsafe extern "C" fn(*mut Register) -> Opaque>,
}

#[repr(C)]
pub(super) struct Register {
    pub(super) struct_size: usize,
    pub(super) name: *const c_char,
    pub(super) name_len: usize,
    pub(super) handler: RawHandler,
    pub(super) platform: *const c_char,
    pub(super) platform_len: usize,
    pub(super) traits: u32,
}

impl Register {
    pub(super) const SIZE: usize = offset_of!(Register, traits) + size_of::<u32>();
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Api {
        /// A table that can only make errors.
        pub(in super::super) fn for_test(create: unsafe extern "C" fn(*mut ErrorCreate) -> Opaque) -> Self {
            Self {
                struct_size: size_of::<Self>(),
                extensions: std::ptr::null_mut(),
                version: [24, 0, 0],
                internal: std::ptr::null_mut(),
                error_create: Some(create),
                error_message: None,
                error_destroy: None,
                handler_register: std::ptr::null_mut(),
                stream_get: None,
            }
        }
    }

    impl Metadata {
        /// As a plugin hands it out.
        pub(in super::super) fn for_test() -> Self {
            let version_extensions = std::ptr::null_mut();
            Self { struct_size: 36, version_struct_size: 24, version_extensions, major: -1, minor: -1, traits: 9 }
        }
    }

    #[test]
    fn layouts_are_those_of_the_header() {
        assert_eq!(CallFrame::LEAST_SIZE, 168);
        assert_eq!(offset_of!(CallFrame, arguments), 40);
        assert_eq!(offset_of!(CallFrame, results), 80);
        assert_eq!(offset_of!(CallFrame, attributes), 120);
        assert_eq!(size_of::<RawBuffer>(), 48);
        assert_eq!(offset_of!(Api, error_create), 48);
        assert_eq!(offset_of!(Api, stream_get), 80);
        assert_eq!(ErrorCreate::SIZE, 28);
        assert_eq!(offset_of!(Metadata, major), 24);
        assert_eq!(offset_of!(Metadata, traits), 32);
        assert_eq!(Register::SIZE, 52);
        assert_eq!(size_of::<RegisterExtension>(), 48);
    }
}
