//! The PJRT C API's binary layout: the function table, its slots, and the argument structs.
//!
//! Longer than other files because it is a table. Layouts are those of header [`HEADER_VERSION`], checked field by field against
//! `xla/pjrt/c/pjrt_c_api.h` (OpenXLA). Two rules of that API shape this file: within a major version the table only grows at its
//! end, so a function is a slot number; and a struct's size is counted up to its last field, without tail padding, because some
//! plugins compare it for equality.

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem::offset_of;

/// The version of the C header whose struct sizes are passed to plugins: major, minor.
///
/// Plugins that compare sizes for equality (AWS's) ask for it in `NEURON_INTERNAL_PJRT_C_API_VERSION`.
pub const HEADER_VERSION: (i32, i32) = (0, 115);

/// An object that the plugin owns or hands out; only the plugin looks inside.
pub(super) type Opaque = *mut c_void;

/// The start of the function table; the functions follow it.
#[repr(C)]
pub(super) struct ApiHead {
    pub(super) struct_size: usize,
    pub(super) extensions: *const ExtensionHead,
    pub(super) version_struct_size: usize,
    pub(super) version_extensions: *const ExtensionHead,
    pub(super) major: c_int,
    pub(super) minor: c_int,
}

/// The start of every extension, a linked list.
#[repr(C)]
pub(super) struct ExtensionHead {
    pub(super) struct_size: usize,
    pub(super) kind: c_int,
    pub(super) next: *const ExtensionHead,
}

/// What every argument struct starts with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) struct_size: usize,
    pub(super) extensions: Opaque,
}

/// A struct that is passed by pointer with its size in front.
///
/// # Safety
///
/// `repr(C)`, starts with [`Head`], and all zero bytes are a valid value.
pub(super) unsafe trait SizedStruct: Sized {
    /// Offset of the last field plus that field's size.
    const SIZE: usize;

    /// All zero, except for the size.
    fn zeroed() -> Self {
        // SAFETY: the trait promises that zero bytes are a valid value, and that a `Head` is in front.
        unsafe {
            let mut value: Self = std::mem::zeroed();
            (&raw mut value).cast::<Head>().write(Head { struct_size: Self::SIZE, extensions: std::ptr::null_mut() });
            value
        }
    }
}

macro_rules! structs {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? })*) => { $(
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub(super) struct $name {
            pub(super) head: Head,
            $(pub(super) $field: $type,)*
        }
        // SAFETY: `repr(C)`, `Head` first, and the fields are numbers, `false`, null pointers and absent functions when zero.
        unsafe impl SizedStruct for $name {
            const SIZE: usize = {
                let ends = [size_of::<Head>(), $( offset_of!($name, $field) + size_of::<$type>(), )*];
                ends[ends.len() - 1]
            };
        }
    )* };
}

/// Frees something that the plugin lent together with its bytes.
pub(super) type Deleter = Option<unsafe extern "C" fn(Opaque)>;

structs! {
    Nothing {}
    // One object, nothing comes back: destroy, await, delete.
    Object { object: Opaque }
    // One object and what is asked of it.
    GetInt { object: Opaque, out: c_int }
    GetSize { object: Opaque, out: usize }
    GetPointer { object: Opaque, out: Opaque }
    GetBool { object: Opaque, out: bool }
    GetText { object: Opaque, text: *const c_char, len: usize }
    GetPointers { object: Opaque, items: *const Opaque, len: usize }
    GetInts { object: Opaque, items: *const i64, len: usize }
    // The header has the count before the pointer in some functions and after it in others.
    GetValues { object: Opaque, items: *const NamedValue, len: usize }
    GetCountedValues { object: Opaque, len: usize, items: *const NamedValue }
    GetOwnedBytes { object: Opaque, bytes: *const u8, len: usize, owner: Opaque, free: Deleter }
    PluginAttributes { items: *const NamedValue, len: usize }
    NamedValue { name: *const c_char, name_len: usize, kind: c_int, value: Value, len: usize }
    ClientCreate {
        options: *const NamedValue, num_options: usize,
        get: Opaque, get_arg: Opaque, put: Opaque, put_arg: Opaque,
        client: Opaque,
        try_get: Opaque, try_get_arg: Opaque,
    }
    Program { code: *mut c_char, code_len: usize, format: *const c_char, format_len: usize }
    Compile { client: Opaque, program: *const Program, options: *const u8, options_len: usize, executable: Opaque }
    Deserialize {
        client: Opaque, bytes: *const u8, len: usize, executable: Opaque,
        options: *const u8, options_len: usize, load_options: Opaque,
    }
    FromHost {
        client: Opaque, data: *const c_void, element: c_int, dims: *const i64, num_dims: usize,
        strides: *const i64, num_strides: usize, semantics: c_int,
        device: Opaque, memory: Opaque, layout: Opaque, done: Opaque, buffer: Opaque,
    }
    ToHost { buffer: Opaque, layout: Opaque, out: *mut c_void, out_len: usize, event: Opaque }
    ExecuteOptions {
        send: Opaque, receive: Opaque, num_send: usize, num_receive: usize, launch_id: c_int,
        kept: *const i64, num_kept: usize,
        context: Opaque, call_location: *const c_char,
        num_tasks: usize, task_ids: *mut c_int, incarnation_ids: *mut i64,
        multi_slice: Opaque, row_major_callbacks: bool, output_callbacks: Opaque, num_output_callbacks: usize,
    }
    Execute {
        executable: Opaque, options: *const ExecuteOptions, arguments: *const *const Opaque,
        num_devices: usize, num_arguments: usize,
        outputs: *const *mut Opaque, done: *mut Opaque, device: Opaque,
    }
    OptimizedProgram { executable: Opaque, program: *mut Program }
    CompiledMemory {
        executable: Opaque, code: i64, arguments: i64, outputs: i64, aliased: i64, temporary: i64,
        host_code: i64, host_arguments: i64, host_outputs: i64, host_aliased: i64, host_temporary: i64,
        peak: i64, total: i64, total_allocation: i64, indefinite: i64, peak_unpadded: i64,
    }
    DeviceMemory {
        device: Opaque, in_use: i64,
        peak_in_use: i64, has_peak_in_use: bool,
        allocations: i64, has_allocations: bool,
        largest_allocation: i64, has_largest_allocation: bool,
        limit: i64, has_limit: bool,
        reserved: i64, has_reserved: bool,
        peak_reserved: i64, has_peak_reserved: bool,
        reservable: i64, has_reservable: bool,
        largest_free: i64, has_largest_free: bool,
        pool: i64, has_pool: bool,
        peak_pool: i64, has_peak_pool: bool,
        peak_allocated: i64, has_peak_allocated: bool,
    }
}

/// The value of a [`NamedValue`]; its `kind` says which.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Value {
    pub(super) text: *const c_char,
    pub(super) int: i64,
    pub(super) ints: *const i64,
    pub(super) float: f32,
    pub(super) bool: bool,
}

/// One function of the table: its place, its name in the header, and the struct it takes.
pub(super) struct Slot<A> {
    pub(super) index: usize,
    pub(super) name: &'static str,
    takes: PhantomData<fn(*mut A)>,
}

impl<A> Clone for Slot<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Slot<A> {}

macro_rules! slots {
    ($($name:ident = $index:literal $c_name:literal ($args:ty);)*) => {
        $( pub(super) const $name: Slot<$args> = Slot { index: $index, name: $c_name, takes: PhantomData }; )*
    };
}

/// A table that ends before this cannot even copy a result to the host; what comes later is asked for when it is used.
pub(super) const LEAST_SLOTS: usize = BUFFER_TO_HOST.index + 1;

slots! {
    ERROR_DESTROY = 0 "PJRT_Error_Destroy" (Object);
    ERROR_MESSAGE = 1 "PJRT_Error_Message" (GetText);
    ERROR_CODE = 2 "PJRT_Error_GetCode" (GetInt);
    PLUGIN_INITIALIZE = 3 "PJRT_Plugin_Initialize" (Nothing);
    PLUGIN_ATTRIBUTES = 4 "PJRT_Plugin_Attributes" (PluginAttributes);
    EVENT_DESTROY = 5 "PJRT_Event_Destroy" (Object);
    EVENT_AWAIT = 8 "PJRT_Event_Await" (Object);
    CLIENT_CREATE = 10 "PJRT_Client_Create" (ClientCreate);
    CLIENT_DESTROY = 11 "PJRT_Client_Destroy" (Object);
    CLIENT_PLATFORM_NAME = 12 "PJRT_Client_PlatformName" (GetText);
    CLIENT_PLATFORM_VERSION = 14 "PJRT_Client_PlatformVersion" (GetText);
    CLIENT_ADDRESSABLE_DEVICES = 16 "PJRT_Client_AddressableDevices" (GetPointers);
    CLIENT_COMPILE = 20 "PJRT_Client_Compile" (Compile);
    CLIENT_BUFFER_FROM_HOST = 22 "PJRT_Client_BufferFromHostBuffer" (FromHost);
    DESCRIPTION_ID = 23 "PJRT_DeviceDescription_Id" (GetInt);
    DESCRIPTION_PROCESS = 24 "PJRT_DeviceDescription_ProcessIndex" (GetInt);
    DESCRIPTION_ATTRIBUTES = 25 "PJRT_DeviceDescription_Attributes" (GetCountedValues);
    DESCRIPTION_KIND = 26 "PJRT_DeviceDescription_Kind" (GetText);
    DEVICE_DESCRIPTION = 29 "PJRT_Device_GetDescription" (GetPointer);
    DEVICE_LOCAL_HARDWARE_ID = 31 "PJRT_Device_LocalHardwareId" (GetInt);
    DEVICE_MEMORY_STATS = 34 "PJRT_Device_MemoryStats" (DeviceMemory);
    EXECUTABLE_DESTROY = 40 "PJRT_Executable_Destroy" (Object);
    EXECUTABLE_NAME = 41 "PJRT_Executable_Name" (GetText);
    EXECUTABLE_NUM_OUTPUTS = 44 "PJRT_Executable_NumOutputs" (GetSize);
    EXECUTABLE_COST = 46 "PJRT_Executable_GetCostAnalysis" (GetCountedValues);
    EXECUTABLE_OPTIMIZED_PROGRAM = 48 "PJRT_Executable_OptimizedProgram" (OptimizedProgram);
    EXECUTABLE_SERIALIZE = 49 "PJRT_Executable_Serialize" (GetOwnedBytes);
    LOADED_DESTROY = 50 "PJRT_LoadedExecutable_Destroy" (Object);
    LOADED_EXECUTABLE = 51 "PJRT_LoadedExecutable_GetExecutable" (GetPointer);
    LOADED_DEVICES = 52 "PJRT_LoadedExecutable_AddressableDevices" (GetPointers);
    LOADED_EXECUTE = 55 "PJRT_LoadedExecutable_Execute" (Execute);
    DESERIALIZE_AND_LOAD = 56 "PJRT_Executable_DeserializeAndLoad" (Deserialize);
    BUFFER_DESTROY = 58 "PJRT_Buffer_Destroy" (Object);
    BUFFER_ELEMENT = 59 "PJRT_Buffer_ElementType" (GetInt);
    BUFFER_DIMENSIONS = 60 "PJRT_Buffer_Dimensions" (GetInts);
    BUFFER_SIZE = 64 "PJRT_Buffer_OnDeviceSizeInBytes" (GetSize);
    BUFFER_DELETE = 67 "PJRT_Buffer_Delete" (Object);
    BUFFER_IS_DELETED = 68 "PJRT_Buffer_IsDeleted" (GetBool);
    BUFFER_TO_HOST = 70 "PJRT_Buffer_ToHostBuffer" (ToHost);
    BUFFER_UNSAFE_POINTER = 73 "PJRT_Buffer_UnsafePointer" (GetSize);
    TOPOLOGY_PLATFORM_NAME = 84 "PJRT_TopologyDescription_PlatformName" (GetText);
    TOPOLOGY_PLATFORM_VERSION = 85 "PJRT_TopologyDescription_PlatformVersion" (GetText);
    TOPOLOGY_DEVICES = 86 "PJRT_TopologyDescription_GetDeviceDescriptions" (GetPointers);
    TOPOLOGY_SERIALIZE = 87 "PJRT_TopologyDescription_Serialize" (GetOwnedBytes);
    TOPOLOGY_ATTRIBUTES = 88 "PJRT_TopologyDescription_Attributes" (GetValues);
    EXECUTABLE_FINGERPRINT = 94 "PJRT_Executable_Fingerprint" (GetText);
    CLIENT_TOPOLOGY = 95 "PJRT_Client_TopologyDescription" (GetPointer);
    EXECUTABLE_MEMORY = 96 "PJRT_Executable_GetCompiledMemoryStats" (CompiledMemory);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_header_without_tail_padding() {
        let sizes = [
            (Nothing::SIZE, 16),
            (Object::SIZE, 24),
            (GetInt::SIZE, 28),
            (GetBool::SIZE, 25),
            (GetText::SIZE, 40),
            (GetOwnedBytes::SIZE, 56),
            (PluginAttributes::SIZE, 32),
            (NamedValue::SIZE, 56),
            (ClientCreate::SIZE, 88),
            (Program::SIZE, 48),
            (Compile::SIZE, 56),
            (Deserialize::SIZE, 72),
            (FromHost::SIZE, 120),
            (ToHost::SIZE, 56),
            (ExecuteOptions::SIZE, 144),
            (Execute::SIZE, 80),
            (OptimizedProgram::SIZE, 32),
            (CompiledMemory::SIZE, 144),
            (DeviceMemory::SIZE, 201),
        ];
        for (i, (ours, header)) in sizes.into_iter().enumerate() {
            assert_eq!(ours, header, "entry {i}");
        }
        assert_eq!(size_of::<ApiHead>(), 40);
        assert_eq!(size_of::<ExtensionHead>(), 24);
        assert_eq!(offset_of!(ExecuteOptions, output_callbacks), 128);
        assert_eq!(offset_of!(FromHost, semantics), 72);
        assert_eq!(offset_of!(NamedValue, value), 40);
    }

    #[test]
    fn a_zeroed_struct_carries_its_size() {
        let args = GetBool::zeroed();
        assert_eq!((args.head.struct_size, args.object.is_null(), args.out), (25, true, false));
    }
}
