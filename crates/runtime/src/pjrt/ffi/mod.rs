//! Own kernels in compiled programs: Rust functions as XLA's typed FFI handlers.
//!
//! ```no_run
//! use nxd_runtime::pjrt::{Call, FfiHandler, Plugin, Traits};
//!
//! fn scale(call: &mut Call<'_>) -> Result<(), String> {
//!     let factor = call.float("factor")?;
//!     let ([x], [mut y]) = call.split([0], [0])?;
//!     for (y, x) in y.elements_mut::<f32>()?.iter_mut().zip(x.elements::<f32>()?) {
//!         *y = x * factor as f32;
//!     }
//!     Ok(())
//! }
//!
//! # let plugin = Plugin::load("pjrt_c_api_cpu_plugin.so".as_ref())?;
//! plugin.register_handler("example.scale", "Host", FfiHandler::new(scale), Traits::default())?;
//! // … %y = stablehlo.custom_call @example.scale(%x) {api_version = 4 : i32, backend_config = {factor = 2.0 : f32}} : …
//! # Ok::<(), nxd_runtime::pjrt::PjrtError>(())
//! ```
//!
//! A handler's `Err`, or its panic, fails the execution with its text. Source: `xla/ffi/api/c_api.h`, OpenXLA, FFI 0.1, which later
//! versions accept.

mod attributes;
mod call;
mod frame;
#[cfg(test)]
mod tests;

use std::any::{Any, TypeId};
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, PoisonError};

pub use attributes::{Attribute, Attributes};
pub use call::{BufferMut, BufferRef, Call};

use super::abi::Opaque;
use super::{PjrtError, Plugin};
use frame::{CallFrame, ErrorCreate, MetadataExtension, RawHandler, Register, RegisterExtension};

/// What a plugin may do with a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// The handler launches the same device work at every call, so that a CUDA graph may record it once and replay it.
    pub recordable: bool,
}

/// A Rust function in the form that plugins call.
#[derive(Clone, Copy, Debug)]
pub struct FfiHandler {
    /// For platform `Host`, by [`Traits::recordable`].
    host: [RawHandler; 2],
    /// For platforms whose buffers are not in the host's memory.
    device: [RawHandler; 2],
    /// The function, by its type: addresses of code are not unique.
    function: TypeId,
}

/// A handler that a plugin has. Plugins keep handlers for ever, and XLA quietly keeps the first of two with one name.
struct Registered {
    plugin: PathBuf,
    name: String,
    platform: String,
    function: TypeId,
    traits: Traits,
}

static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());

impl FfiHandler {
    /// A function, or a closure that captures nothing (checked when this is compiled: a plugin has no place to keep captures).
    pub fn new<F>(handler: F) -> Self
    where
        F: Fn(&mut Call<'_>) -> Result<(), String> + Copy + Send + Sync + 'static,
    {
        const { assert!(size_of::<F>() == 0, "an FFI handler cannot capture") };
        // Its type alone is enough to call it: see `trampoline`.
        let _ = handler;
        Self {
            host: [trampoline::<F, true, false>, trampoline::<F, true, true>],
            device: [trampoline::<F, false, false>, trampoline::<F, false, true>],
            function: TypeId::of::<F>(),
        }
    }
}

pub(super) fn register(
    plugin: &Plugin,
    name: &str,
    platform: &str,
    handler: FfiHandler,
    traits: Traits,
) -> Result<(), PjrtError> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = registered
        .iter()
        .find(|known| known.plugin == plugin.path() && known.name == name && known.platform == platform);
    if let Some(known) = known {
        if known.function == handler.function && known.traits == traits {
            return Ok(());
        }
        return Err(PjrtError::HandlerTaken { name: name.to_owned(), platform: platform.to_owned() });
    }
    let missing = || PjrtError::Unsupported { path: plugin.path().to_owned(), what: "PJRT_FFI_Extension" };
    let extension = plugin.extension(frame::PJRT_EXTENSION, size_of::<RegisterExtension>()).ok_or_else(missing)?;
    // SAFETY: an extension with this number and at least this size has this layout.
    let register = unsafe { (*extension.cast::<RegisterExtension>()).register }.ok_or_else(missing)?;
    let handlers = if platform == "Host" { handler.host } else { handler.device };
    let mut args = Register {
        struct_size: Register::SIZE,
        name: name.as_ptr().cast(),
        name_len: name.len(),
        handler: handlers[usize::from(traits.recordable)],
        platform: platform.as_ptr().cast(),
        platform_len: platform.len(),
        traits: u32::from(traits.recordable),
    };
    // SAFETY: the plugin copies both names; the handler is code, which stays.
    unsafe {
        let error = register(&mut args);
        plugin.check("PJRT_FFI_Register_Handler", error)
    }?;
    registered.push(Registered {
        plugin: plugin.path().to_owned(),
        name: name.to_owned(),
        platform: platform.to_owned(),
        function: handler.function,
        traits,
    });
    Ok(())
}

/// What a plugin calls in place of `F`. `F` has no size, so a reference to it needs no value.
unsafe extern "C" fn trampoline<F, const HOST: bool, const RECORDABLE: bool>(raw: *mut CallFrame) -> Opaque
where
    F: Fn(&mut Call<'_>) -> Result<(), String> + Copy + Send + Sync + 'static,
{
    // SAFETY: a plugin passes a call frame that lives as long as the call.
    let Some(frame) = (unsafe { raw.as_ref() }) else { return null_mut() };
    // SAFETY: as above.
    if unsafe { answer_metadata(frame, RECORDABLE) } || frame.stage != frame::STAGE_EXECUTE {
        return null_mut();
    }
    // SAFETY: `F` has no size, its alignment is that of the dangling pointer, and `FfiHandler::new` has seen a value of it.
    let handler = unsafe { NonNull::<F>::dangling().as_ref() };
    let run = || {
        if frame.struct_size < CallFrame::LEAST_SIZE {
            return Err(format!("the call frame has {} bytes, FFI 0.1 has more", frame.struct_size));
        }
        // SAFETY: the frame is whole, in the execution stage, and lives until this function returns.
        handler(&mut unsafe { Call::new(frame, HOST) })
    };
    // A panic must not unwind into C++.
    let failure = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return null_mut(),
        Ok(Err(text)) => text,
        Err(panic) => format!("the handler panicked: {}", panic_text(&*panic)),
    };
    // SAFETY: as above.
    unsafe { error(frame, failure) }
}

/// A plugin first asks which FFI version a handler speaks. Whether this call was that question.
///
/// Safety: `frame` comes from a plugin.
unsafe fn answer_metadata(frame: &CallFrame, recordable: bool) -> bool {
    let mut extension = frame.extensions;
    while !extension.is_null() {
        // SAFETY: extensions are a list that ends with null; this kind carries a metadata struct to fill in.
        unsafe {
            if (*extension).kind == frame::METADATA_EXTENSION {
                let metadata = (*extension.cast::<MetadataExtension>()).metadata;
                if !metadata.is_null() {
                    ((*metadata).major, (*metadata).minor) = frame::FFI_VERSION;
                    (*metadata).traits = u32::from(recordable);
                }
                return true;
            }
            extension = (*extension).next;
        }
    }
    false
}

/// An error object of the plugin with our text, which the plugin destroys.
///
/// Safety: `frame` comes from a plugin.
unsafe fn error(frame: &CallFrame, text: String) -> Opaque {
    // SAFETY: a frame's function table lives as long as the plugin.
    let create = unsafe { frame.api.as_ref() }.and_then(|api| api.error_create);
    let Some(create) = create else {
        tracing::error!(text, "an FFI handler failed, and the plugin has no `XLA_FFI_Error_Create` to tell it with");
        return null_mut();
    };
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    let mut args = ErrorCreate {
        struct_size: ErrorCreate::SIZE,
        extensions: null_mut(),
        message: text.as_ptr(),
        code: frame::CODE_INTERNAL,
    };
    // SAFETY: the plugin copies the text.
    unsafe { create(&mut args) }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
