//! A plugin: a shared library that drives one kind of device.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::abi::{self, ApiHead, ExtensionHead, NamedValue, Opaque, SizedStruct, Slot};
use super::{AttributeValue, Client, ClientOption, ErrorCode, FfiHandler, PjrtError, Traits, ffi};
use crate::library::Library;

/// A loaded PJRT plugin. Clones are the same plugin; it stays loaded until the process ends.
#[derive(Clone, Debug)]
pub struct Plugin {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    library: Library,
    table: *const ApiHead,
}

// SAFETY: the table is constant data of a library that is never unloaded, and the PJRT C API is thread-safe.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// An extension that a plugin has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The header's number.
    pub number: i32,
    /// The header's name, or `Unknown`.
    pub name: &'static str,
}

/// By number; the header's names.
const EXTENSIONS: [&str; 26] = [
    "GpuCustomCall",
    "Profiler",
    "CustomPartitioner",
    "Stream",
    "Layouts",
    "FFI",
    "MemoryDescriptions",
    "Triton",
    "RawBuffer",
    "PhaseCompile",
    "Example",
    "Unknown",
    "CrossHostTransfers",
    "ExecutableMetadata",
    "Callback",
    "HostAllocator",
    "TpuTopology",
    "TpuExecutable",
    "Megascale",
    "Shardings",
    "AbiVersion",
    "Collectives",
    "MultiSlice",
    "HostMemoryAllocator",
    "XlaTransform",
    "ExecuteChain",
];
/// A list longer than this is damaged (a loop).
const MOST_EXTENSIONS: usize = 64;
/// Compilers put whole programs into their errors; the beginning says what is wrong.
const MOST_TEXT_BYTES: usize = 16 << 10;

/// Plugins that this process has loaded: initialising one twice, or registering a handler twice, is an error.
static LOADED: Mutex<Vec<(PathBuf, Plugin)>> = Mutex::new(Vec::new());

impl Plugin {
    /// Opens the plugin at `path`, checks its version and table, and initialises it. A second load returns the same plugin.
    ///
    /// # Errors
    ///
    /// The file is missing, is no shared library, exports no `GetPjrtApi`, or speaks an API that does not fit; the message says
    /// what to install.
    pub fn load(path: &Path) -> Result<Self, PjrtError> {
        let key = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // Held while loading, so that two threads do not both initialise.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plugin)) = loaded.iter().find(|(known, _)| *known == key) {
            return Ok(plugin.clone());
        }
        let plugin = Self::open(path)?;
        loaded.push((key, plugin.clone()));
        Ok(plugin)
    }

    fn open(path: &Path) -> Result<Self, PjrtError> {
        type GetApi = unsafe extern "C" fn() -> *const ApiHead;
        let library = Library::open(path)?;
        // SAFETY: this is the signature that the PJRT header gives the symbol.
        let get = unsafe { library.symbol::<GetApi>("GetPjrtApi") }?;
        // SAFETY: the function takes nothing and may be called at any time.
        let table = unsafe { get() };
        if table.is_null() {
            return Err(PjrtError::NoTable { path: path.to_owned() });
        }
        // SAFETY: the table starts with its size in every version of the API.
        let found_bytes = unsafe { (&raw const (*table).struct_size).read() };
        let least_bytes = size_of::<ApiHead>() + abi::LEAST_SLOTS * size_of::<Opaque>();
        let plugin = Self { inner: Arc::new(Inner { library, table }) };
        if found_bytes < size_of::<ApiHead>() {
            return Err(PjrtError::SmallTable { path: path.to_owned(), found_bytes, least_bytes });
        }
        let found = plugin.api_version();
        if found.0 != abi::HEADER_VERSION.0 {
            return Err(PjrtError::Version { path: path.to_owned(), found });
        }
        if found_bytes < least_bytes {
            return Err(PjrtError::SmallTable { path: path.to_owned(), found_bytes, least_bytes });
        }
        // SAFETY: no pointers in the arguments.
        unsafe { plugin.call(abi::PLUGIN_INITIALIZE, &mut abi::Nothing::zeroed()) }?;
        tracing::debug!(path = %path.display(), major = found.0, minor = found.1, "PJRT plugin loaded");
        Ok(plugin)
    }

    /// The file that was loaded.
    pub fn path(&self) -> &Path {
        self.inner.library.path()
    }

    /// The version of the PJRT C API that the plugin was built with: major, minor.
    pub fn api_version(&self) -> (i32, i32) {
        // SAFETY: `open` has checked that the table has a whole head.
        unsafe { ((*self.inner.table).major, (*self.inner.table).minor) }
    }

    /// What the plugin says about itself: StableHLO versions, XLA version and so on. Empty when it says nothing.
    ///
    /// # Errors
    ///
    /// The plugin fails at it.
    pub fn attributes(&self) -> Result<Vec<(String, AttributeValue)>, PjrtError> {
        let mut args = abi::PluginAttributes::zeroed();
        // SAFETY: the plugin only writes into `args`.
        match unsafe { self.call(abi::PLUGIN_ATTRIBUTES, &mut args) } {
            Ok(()) => {}
            // AWS's plugin has had an empty slot here (aws-neuron-sdk issue 1094).
            Err(error) if error.is_unsupported() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        // SAFETY: attributes live as long as the process.
        Ok(unsafe { named_values(args.items, args.len) })
    }

    /// The extensions that the plugin has.
    pub fn extensions(&self) -> Vec<Extension> {
        self.extension_heads()
            .map(|head| {
                // SAFETY: extensions are constant data of the plugin and start with this head.
                let number = unsafe { (*head).kind };
                let name = usize::try_from(number).ok().and_then(|number| EXTENSIONS.get(number));
                Extension { number, name: name.copied().unwrap_or("Unknown") }
            })
            .collect()
    }

    /// Starts the devices.
    ///
    /// # Errors
    ///
    /// The plugin finds no device, or does not know an option.
    pub fn create_client(&self, options: &[(&str, ClientOption)]) -> Result<Client, PjrtError> {
        Client::create(self, options)
    }

    /// Makes `handler` the implementation of `stablehlo.custom_call @name {api_version = 4}` on `platform` (`Host`, `CUDA`), for
    /// the whole process. Doing so twice with the same function is nothing new.
    ///
    /// # Errors
    ///
    /// The plugin has no FFI, or another function has the name on that platform.
    pub fn register_handler(
        &self,
        name: &str,
        platform: &str,
        handler: FfiHandler,
        traits: Traits,
    ) -> Result<(), PjrtError> {
        ffi::register(self, name, platform, handler, traits)
    }

    fn extension_heads(&self) -> impl Iterator<Item = *const ExtensionHead> {
        // SAFETY: `open` has checked that the table has a whole head.
        let first = unsafe { (*self.inner.table).extensions };
        // SAFETY: a non-null pointer in the list leads to an extension, constant data of the plugin.
        let next = |head: &*const ExtensionHead| Some(unsafe { (**head).next }).filter(|next| !next.is_null());
        std::iter::successors(Some(first).filter(|first| !first.is_null()), next).take(MOST_EXTENSIONS)
    }

    /// The extension with this number, when it has at least `least_bytes`.
    pub(super) fn extension(&self, number: c_int, least_bytes: usize) -> Option<*const ExtensionHead> {
        // SAFETY: as in `extensions`.
        self.extension_heads().find(|head| unsafe { (**head).kind == number && (**head).struct_size >= least_bytes })
    }

    /// The function in a slot; absent when the table ends before it or the slot is empty.
    fn function(&self, index: usize) -> Option<*const c_void> {
        // SAFETY: `open` has checked the head.
        let size = unsafe { (*self.inner.table).struct_size };
        let slots = size.saturating_sub(size_of::<ApiHead>()) / size_of::<Opaque>();
        if index >= slots {
            return None;
        }
        // SAFETY: the table has more than `index` function pointers behind its head.
        let pointer = unsafe { self.inner.table.add(1).cast::<*const c_void>().add(index).read() };
        Some(pointer).filter(|pointer| !pointer.is_null())
    }

    /// Calls a function of the table.
    ///
    /// # Safety
    ///
    /// Pointers in `args` are what the header asks for at that function.
    pub(super) unsafe fn call<A: SizedStruct>(&self, slot: Slot<A>, args: &mut A) -> Result<(), PjrtError> {
        type Function<A> = unsafe extern "C" fn(*mut A) -> Opaque;
        let Some(pointer) = self.function(slot.index) else {
            return Err(PjrtError::Unsupported { path: self.path().to_owned(), what: slot.name });
        };
        // SAFETY: the slot's type is the header's signature of the function with that number.
        let function = unsafe { std::mem::transmute::<*const c_void, Function<A>>(pointer) };
        // SAFETY: `args` carries its size; the caller vouches for its pointers.
        let error = unsafe { function(args) };
        // SAFETY: the function has just returned this error, or null.
        unsafe { self.check(slot.name, error) }
    }

    /// Turns an error object of the plugin into ours, and frees it.
    ///
    /// # Safety
    ///
    /// `error` is null or an error that this plugin has returned and nobody has freed.
    pub(super) unsafe fn check(&self, function: &'static str, error: Opaque) -> Result<(), PjrtError> {
        type Quiet<A> = unsafe extern "C" fn(*mut A);
        if error.is_null() {
            return Ok(());
        }
        let mut message = abi::GetText::zeroed();
        message.object = error;
        if let Some(pointer) = self.function(abi::ERROR_MESSAGE.index) {
            // SAFETY: the header's signature: this function returns nothing, unlike most.
            unsafe { std::mem::transmute::<*const c_void, Quiet<abi::GetText>>(pointer)(&mut message) };
        }
        // SAFETY: the text lives as long as the error, which is freed below.
        let text = unsafe { text(message.text.cast(), message.len) };
        let mut code = abi::GetInt::zeroed();
        code.object = error;
        if let Some(pointer) = self.function(abi::ERROR_CODE.index) {
            type Function = unsafe extern "C" fn(*mut abi::GetInt) -> Opaque;
            // SAFETY: the header's signature. Its own error (null in practice) would lead in circles.
            unsafe { std::mem::transmute::<*const c_void, Function>(pointer)(&mut code) };
        }
        let mut destroy = abi::Object::zeroed();
        destroy.object = error;
        if let Some(pointer) = self.function(abi::ERROR_DESTROY.index) {
            // SAFETY: the header's signature; the error is not used again.
            unsafe { std::mem::transmute::<*const c_void, Quiet<abi::Object>>(pointer)(&mut destroy) };
        }
        Err(PjrtError::Plugin { function, code: ErrorCode::from_number(code.out), text })
    }

    /// Calls a function that only takes an object, from a `drop`: a failure is logged.
    ///
    /// # Safety
    ///
    /// `object` is live, of the kind that the function takes, and not used again when the function destroys it.
    pub(super) unsafe fn release(&self, slot: Slot<abi::Object>, object: Opaque) {
        let mut args = abi::Object::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        if let Err(error) = unsafe { self.call(slot, &mut args) } {
            tracing::warn!(%error, "a PJRT object was not released");
        }
    }

    /// A text that the plugin keeps for an object.
    ///
    /// # Safety
    ///
    /// `object` is live and of the kind that the function takes.
    pub(super) unsafe fn text(&self, slot: Slot<abi::GetText>, object: Opaque) -> Result<String, PjrtError> {
        let mut args = abi::GetText::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        unsafe { self.call(slot, &mut args) }?;
        // SAFETY: the text lives as long as the object.
        Ok(unsafe { text(args.text.cast(), args.len) })
    }

    /// A number of an object; safety as [`Self::text`].
    pub(super) unsafe fn int(&self, slot: Slot<abi::GetInt>, object: Opaque) -> Result<i32, PjrtError> {
        let mut args = abi::GetInt::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        unsafe { self.call(slot, &mut args) }?;
        Ok(args.out)
    }

    /// A size or an address of an object; safety as [`Self::text`].
    pub(super) unsafe fn size(&self, slot: Slot<abi::GetSize>, object: Opaque) -> Result<usize, PjrtError> {
        let mut args = abi::GetSize::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        unsafe { self.call(slot, &mut args) }?;
        Ok(args.out)
    }

    /// An object that belongs to another; never null. Safety as [`Self::text`].
    pub(super) unsafe fn pointer(&self, slot: Slot<abi::GetPointer>, object: Opaque) -> Result<Opaque, PjrtError> {
        let mut args = abi::GetPointer::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        unsafe { self.call(slot, &mut args) }?;
        not_null(slot.name, args.out)
    }

    /// Objects that belong to another; none of them null. Safety as [`Self::text`].
    pub(super) unsafe fn pointers(
        &self,
        slot: Slot<abi::GetPointers>,
        object: Opaque,
    ) -> Result<Vec<Opaque>, PjrtError> {
        let mut args = abi::GetPointers::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        unsafe { self.call(slot, &mut args) }?;
        // SAFETY: the list lives as long as the object.
        let items = unsafe { slice(args.items, args.len) };
        items.iter().map(|item| not_null(slot.name, *item)).collect()
    }

    /// Bytes that the plugin makes for the call. Safety as [`Self::text`].
    pub(super) unsafe fn owned_bytes(
        &self,
        slot: Slot<abi::GetOwnedBytes>,
        object: Opaque,
    ) -> Result<Vec<u8>, PjrtError> {
        let mut args = abi::GetOwnedBytes::zeroed();
        args.object = object;
        // SAFETY: the caller vouches for the object.
        unsafe { self.call(slot, &mut args) }?;
        // SAFETY: the bytes live until `free` is called on their owner.
        let bytes = unsafe { slice(args.bytes, args.len) }.to_vec();
        if let Some(free) = args.free {
            // SAFETY: this is the function that the plugin gave for this owner, called once.
            unsafe { free(args.owner) };
        }
        Ok(bytes)
    }
}

/// `pointer`, or an error that names the function which returned nothing.
pub(super) fn not_null(function: &'static str, pointer: Opaque) -> Result<Opaque, PjrtError> {
    if pointer.is_null() {
        return Err(PjrtError::Nonsense { function, what: "a null pointer".to_owned() });
    }
    Ok(pointer)
}

/// A slice from C, where an empty one may have a null pointer.
///
/// # Safety
///
/// `len` elements lie at `pointer` for the returned lifetime, unless it is null.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, len: usize) -> &'a [T] {
    if pointer.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { std::slice::from_raw_parts(pointer, len) }
}

/// A copy of a text from C, cut at [`MOST_TEXT_BYTES`]. Safety as [`slice`].
pub(super) unsafe fn text(pointer: *const u8, len: usize) -> String {
    // SAFETY: the caller vouches for it.
    let bytes = unsafe { slice(pointer, len) };
    let (kept, cut) = if bytes.len() > MOST_TEXT_BYTES { (&bytes[..MOST_TEXT_BYTES], " …") } else { (bytes, "") };
    format!("{}{cut}", String::from_utf8_lossy(kept).trim_end())
}

/// Copies of named values; kinds that the header does not have are left out. Safety as [`slice`].
pub(super) unsafe fn named_values(items: *const NamedValue, len: usize) -> Vec<(String, AttributeValue)> {
    // SAFETY: the caller vouches for the list.
    let items = unsafe { slice(items, len) };
    let read = |item: &NamedValue| {
        // SAFETY: a named value's name, and its text or list, live as long as it does; `kind` says which field is filled.
        let (name, value) = unsafe {
            let value = match item.kind {
                0 => AttributeValue::Text(text(item.value.text.cast(), item.len)),
                1 => AttributeValue::Int(item.value.int),
                2 => AttributeValue::Ints(slice(item.value.ints, item.len).to_vec()),
                3 => AttributeValue::Float(item.value.float),
                // Not as a `bool`: the plugin may have left the other bytes, and any value but 0 and 1, there.
                4 => AttributeValue::Bool(item.value.int & 0xFF != 0),
                _ => return None,
            };
            (text(item.name.cast(), item.name_len), value)
        };
        Some((name, value))
    };
    items.iter().filter_map(read).collect()
}
