//! A client: the devices of one plugin, and everything that is made on them.

use std::ffi::c_char;
use std::fmt;
use std::sync::Arc;

use super::abi::{self, NamedValue, Opaque, SizedStruct, Value};
use super::plugin::not_null;
use super::{Buffer, ClientOption, CompileOptions, ElementType, Executable, PjrtError, Plugin, Topology};

/// The devices of a plugin. Clones are the same client; it is destroyed with the last clone, executable and buffer.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    plugin: Plugin,
    raw: Opaque,
    platform_name: String,
    platform_version: String,
    devices: Vec<Device>,
}

// SAFETY: PJRT clients may be used from any thread, several at a time.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// A device that this process can use.
#[derive(Clone, Debug)]
pub struct Device {
    /// The plugin's number, unique over all processes; what [`CompileOptions::device_ids`] names.
    pub id: i64,
    /// The number on this machine.
    pub local_hardware_id: i64,
    /// The vendor's name, for example `NVIDIA H100`.
    pub kind: String,
    raw: Opaque,
}

// SAFETY: a device belongs to its client and is only a name outside of it.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// What a device's allocator says, in bytes; `None` where the plugin does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// Allocated now.
    pub in_use_bytes: i64,
    /// The most that was ever allocated.
    pub peak_in_use_bytes: Option<i64>,
    /// The most that can be allocated.
    pub limit_bytes: Option<i64>,
    /// The largest block that is free.
    pub largest_free_bytes: Option<i64>,
    /// What the allocator holds, used or not.
    pub pool_bytes: Option<i64>,
}

/// A program's language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramFormat {
    /// StableHLO, as MLIR text or bytecode.
    Mlir,
    /// A serialised `HloModuleProto`.
    Hlo,
}

/// A program to compile.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The program.
    pub code: &'a [u8],
    /// Its language.
    pub format: ProgramFormat,
}

impl<'a> Program<'a> {
    /// StableHLO, as MLIR text or bytecode.
    pub fn mlir(code: &'a [u8]) -> Self {
        Self { code, format: ProgramFormat::Mlir }
    }

    /// A serialised `HloModuleProto`.
    pub fn hlo(code: &'a [u8]) -> Self {
        Self { code, format: ProgramFormat::Hlo }
    }
}

impl Client {
    pub(super) fn create(plugin: &Plugin, options: &[(&str, ClientOption)]) -> Result<Self, PjrtError> {
        let values: Vec<NamedValue> = options.iter().map(|(name, option)| named_value(name, option)).collect();
        let mut args = abi::ClientCreate::zeroed();
        args.options = values.as_ptr();
        args.num_options = values.len();
        // SAFETY: the options' names and values outlive the call.
        unsafe { plugin.call(abi::CLIENT_CREATE, &mut args) }?;
        let raw = not_null(abi::CLIENT_CREATE.name, args.client)?;
        // Whole at once, so that a failure below destroys the client.
        let mut inner = Inner {
            plugin: plugin.clone(),
            raw,
            platform_name: String::new(),
            platform_version: String::new(),
            devices: Vec::new(),
        };
        // SAFETY: the client is live.
        unsafe {
            inner.platform_name = plugin.text(abi::CLIENT_PLATFORM_NAME, raw)?;
            inner.platform_version = plugin.text(abi::CLIENT_PLATFORM_VERSION, raw)?;
            let devices = plugin.pointers(abi::CLIENT_ADDRESSABLE_DEVICES, raw)?;
            inner.devices = devices.into_iter().map(|device| Device::read(plugin, device)).collect::<Result<_, _>>()?;
        }
        // AWS's plugin does not list them in order.
        inner.devices.sort_by_key(|device| (device.local_hardware_id, device.id));
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The plugin that the client came from.
    pub fn plugin(&self) -> &Plugin {
        &self.inner.plugin
    }

    /// The platform, for example `cpu`, `cuda`, `neuron`.
    pub fn platform_name(&self) -> &str {
        &self.inner.platform_name
    }

    /// The plugin's and the driver's versions, in the plugin's words.
    pub fn platform_version(&self) -> &str {
        &self.inner.platform_version
    }

    /// The devices of this process, by local hardware id. A device's place here is its number in this API.
    pub fn devices(&self) -> &[Device] {
        &self.inner.devices
    }

    /// What the allocator of a device says.
    ///
    /// # Errors
    ///
    /// No such device, or the plugin does not say ([`PjrtError::is_unsupported`]).
    pub fn device_memory(&self, device: usize) -> Result<DeviceMemory, PjrtError> {
        let mut args = abi::DeviceMemory::zeroed();
        args.device = self.device(device)?.raw;
        // SAFETY: the device belongs to this client.
        unsafe { self.inner.plugin.call(abi::DEVICE_MEMORY_STATS, &mut args) }?;
        let when = |is_set: bool, value: i64| is_set.then_some(value);
        Ok(DeviceMemory {
            in_use_bytes: args.in_use,
            peak_in_use_bytes: when(args.has_peak_in_use, args.peak_in_use),
            limit_bytes: when(args.has_limit, args.limit),
            largest_free_bytes: when(args.has_largest_free, args.largest_free),
            pool_bytes: when(args.has_pool, args.pool),
        })
    }

    /// Compiles a program. Ranks are this client's devices in order, unless the options say otherwise.
    ///
    /// # Errors
    ///
    /// The plugin refuses the program, with its words.
    pub fn compile(&self, program: &Program<'_>, options: &CompileOptions) -> Result<Executable, PjrtError> {
        let options = self.assigned(options)?.encode();
        let format: &[u8] = match program.format {
            ProgramFormat::Mlir => b"mlir",
            ProgramFormat::Hlo => b"hlo",
        };
        let mut text = abi::Program::zeroed();
        // The header has no `const` here because the same struct also receives programs; compiling only reads.
        text.code = program.code.as_ptr().cast_mut().cast();
        text.code_len = program.code.len();
        text.format = format.as_ptr().cast();
        text.format_len = format.len();
        let mut args = abi::Compile::zeroed();
        args.client = self.inner.raw;
        args.program = &text;
        args.options = options.as_ptr();
        args.options_len = options.len();
        // SAFETY: program and options outlive the call, the client is live.
        unsafe { self.inner.plugin.call(abi::CLIENT_COMPILE, &mut args) }?;
        // SAFETY: a new executable of this client, handed out once.
        unsafe { Executable::new(self, not_null(abi::CLIENT_COMPILE.name, args.executable)?) }
    }

    /// Loads what [`Executable::serialize`] wrote, on the same plugin, version and devices.
    ///
    /// # Errors
    ///
    /// The bytes are damaged, or the plugin refuses them.
    pub fn deserialize(&self, bytes: &[u8]) -> Result<Executable, PjrtError> {
        let bytes = super::saved::open(bytes)?;
        let mut args = abi::Deserialize::zeroed();
        args.client = self.inner.raw;
        args.bytes = bytes.as_ptr();
        args.len = bytes.len();
        // SAFETY: the bytes outlive the call, the client is live.
        unsafe { self.inner.plugin.call(abi::DESERIALIZE_AND_LOAD, &mut args) }?;
        // SAFETY: a new executable of this client, handed out once.
        unsafe { Executable::new(self, not_null(abi::DESERIALIZE_AND_LOAD.name, args.executable)?) }
    }

    /// Copies `data` (row-major, little-endian) to a device.
    ///
    /// # Errors
    ///
    /// No such device, `data` does not fit the shape, or the device has no room.
    pub fn upload(
        &self,
        device: usize,
        element: ElementType,
        dims: &[usize],
        data: &[u8],
    ) -> Result<Buffer, PjrtError> {
        let needed_bytes = element.tensor_bytes(dims)?;
        if needed_bytes != data.len() {
            let found_bytes = data.len();
            return Err(PjrtError::Length { element, dims: dims.to_vec(), needed_bytes, found_bytes });
        }
        // SAFETY: the length was checked.
        unsafe { Buffer::from_host(self, self.device(device)?.raw, element, dims, data.as_ptr().cast()) }
    }

    /// Copies `data` to a device, as the element type that `T` stands for.
    ///
    /// # Errors
    ///
    /// As [`Self::upload`].
    pub fn upload_slice<T: super::Plain>(
        &self,
        device: usize,
        dims: &[usize],
        data: &[T],
    ) -> Result<Buffer, PjrtError> {
        let element = T::HOLDS[0];
        let (needed_bytes, found_bytes) = (element.tensor_bytes(dims)?, size_of_val(data));
        if needed_bytes != found_bytes {
            return Err(PjrtError::Length { element, dims: dims.to_vec(), needed_bytes, found_bytes });
        }
        // SAFETY: the length was checked; `Plain` types have no padding and no invalid bytes.
        unsafe { Buffer::from_host(self, self.device(device)?.raw, element, dims, data.as_ptr().cast()) }
    }

    /// How the devices are put together.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn topology(&self) -> Result<Topology, PjrtError> {
        // SAFETY: the client is live.
        let raw = unsafe { self.inner.plugin.pointer(abi::CLIENT_TOPOLOGY, self.inner.raw) }?;
        // SAFETY: the topology belongs to this client.
        Ok(unsafe { Topology::new(self, raw) })
    }

    pub(super) fn raw(&self) -> Opaque {
        self.inner.raw
    }

    fn device(&self, index: usize) -> Result<&Device, PjrtError> {
        self.devices().get(index).ok_or(PjrtError::Device { index, count: self.devices().len() })
    }

    /// `options` with a device for each rank.
    fn assigned(&self, options: &CompileOptions) -> Result<CompileOptions, PjrtError> {
        let ranks = options.check()?;
        if ranks > self.devices().len() {
            return Err(PjrtError::Device { index: ranks - 1, count: self.devices().len() });
        }
        let in_order = || self.devices().iter().take(ranks).map(|device| device.id).collect();
        Ok(CompileOptions { device_ids: Some(options.device_ids.clone().unwrap_or_else(in_order)), ..options.clone() })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client")
            .field("platform", &self.inner.platform_name)
            .field("devices", &self.inner.devices.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone, and buffers and executables are owners.
        unsafe { self.plugin.release(abi::CLIENT_DESTROY, self.raw) };
    }
}

impl Device {
    /// Safety: `raw` is a device of a live client of `plugin`.
    unsafe fn read(plugin: &Plugin, raw: Opaque) -> Result<Self, PjrtError> {
        // SAFETY: the caller vouches for the device; its description lives as long.
        unsafe {
            let description = plugin.pointer(abi::DEVICE_DESCRIPTION, raw)?;
            Ok(Self {
                id: plugin.int(abi::DESCRIPTION_ID, description)?.into(),
                local_hardware_id: plugin.int(abi::DEVICE_LOCAL_HARDWARE_ID, raw)?.into(),
                kind: plugin.text(abi::DESCRIPTION_KIND, description)?,
                raw,
            })
        }
    }
}

/// Borrows from both arguments: valid while they are.
fn named_value(name: &str, option: &ClientOption) -> NamedValue {
    let (kind, value, len) = match option {
        ClientOption::Text(text) => (0, Value { text: text.as_ptr().cast::<c_char>() }, text.len()),
        ClientOption::Int(int) => (1, Value { int: *int }, 1),
        ClientOption::Ints(ints) => (2, Value { ints: ints.as_ptr() }, ints.len()),
        ClientOption::Float(float) => (3, Value { float: *float }, 1),
        ClientOption::Bool(on) => (4, Value { bool: *on }, 1),
    };
    NamedValue { name: name.as_ptr().cast(), name_len: name.len(), kind, value, len, ..NamedValue::zeroed() }
}
