//! A buffer: a tensor in a device's memory.

use std::ffi::c_void;
use std::fmt;

use super::abi::{self, Opaque, SizedStruct};
use super::element::{Plain, check};
use super::event::Event;
use super::plugin::{not_null, slice};
use super::{Client, ElementType, PjrtError};

/// A tensor in a device's memory. Donating it to an execution empties it: every later use is an error.
pub struct Buffer {
    handle: Handle,
    element: ElementType,
    dims: Vec<usize>,
}

/// The plugin's object; dropping it frees the memory.
pub(super) struct Handle {
    client: Client,
    raw: Opaque,
}

// SAFETY: PJRT buffers may be used from any thread, several at a time.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Takes over a buffer that the plugin has handed out.
    ///
    /// # Safety
    ///
    /// `raw` is a buffer of `client`, not null, that nobody else destroys.
    pub(super) unsafe fn new(client: &Client, raw: Opaque) -> Self {
        Self { client: client.clone(), raw }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the buffer is ours and not used again; the client is still there.
        unsafe { self.client.plugin().release(abi::BUFFER_DESTROY, self.raw) };
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Buffer({}{:?})", self.element, self.dims)
    }
}

impl Buffer {
    /// Asks the plugin for the type and shape of a buffer.
    pub(super) fn new(handle: Handle) -> Result<Self, PjrtError> {
        let plugin = handle.client.plugin();
        let mut args = abi::GetInts::zeroed();
        args.object = handle.raw;
        // SAFETY: the buffer is live, and so is its list of dimensions.
        let (element, dims) = unsafe {
            let element = ElementType::from_pjrt(plugin.int(abi::BUFFER_ELEMENT, handle.raw)?)?;
            plugin.call(abi::BUFFER_DIMENSIONS, &mut args)?;
            (element, slice(args.items, args.len))
        };
        let size = |dim: &i64| {
            usize::try_from(*dim).map_err(|_| PjrtError::Nonsense {
                function: abi::BUFFER_DIMENSIONS.name,
                what: format!("a dimension of {dim}"),
            })
        };
        let dims = dims.iter().map(size).collect::<Result<_, _>>()?;
        Ok(Self { handle, element, dims })
    }

    /// # Safety
    ///
    /// `device` belongs to `client`, and `data` has the bytes of `dims` elements.
    pub(super) unsafe fn from_host(
        client: &Client,
        device: Opaque,
        element: ElementType,
        dims: &[usize],
        data: *const c_void,
    ) -> Result<Self, PjrtError> {
        let too_large = || PjrtError::TooLarge { element, dims: dims.to_vec() };
        let signed: Vec<i64> =
            dims.iter().map(|dim| i64::try_from(*dim)).collect::<Result<_, _>>().map_err(|_| too_large())?;
        let mut args = abi::FromHost::zeroed();
        args.client = client.raw();
        args.data = data;
        args.element = element.pjrt_number();
        args.dims = signed.as_ptr();
        args.num_dims = signed.len();
        // `semantics` stays 0: the plugin copies before it returns, so the host's bytes are free again.
        args.device = device;
        let plugin = client.plugin();
        // SAFETY: dimensions and data outlive the call; the caller vouches for their agreement.
        unsafe { plugin.call(abi::CLIENT_BUFFER_FROM_HOST, &mut args) }?;
        // SAFETY: a new buffer and its event, handed out once.
        let (handle, done) = unsafe {
            let done = Event::new(plugin, args.done);
            (Handle::new(client, not_null(abi::CLIENT_BUFFER_FROM_HOST.name, args.buffer)?), done)
        };
        done.wait()?;
        Ok(Self { handle, element, dims: dims.to_vec() })
    }

    /// The type of the elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The shape.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The client whose memory this is.
    pub fn client(&self) -> &Client {
        &self.handle.client
    }

    /// Copies the tensor into `out` (row-major, little-endian), when the work that makes it is done.
    ///
    /// # Errors
    ///
    /// `out` has another length, the buffer was donated, or the work failed.
    pub fn read(&self, out: &mut [u8]) -> Result<(), PjrtError> {
        let needed_bytes = self.element.tensor_bytes(&self.dims)?;
        if out.len() != needed_bytes {
            let (dims, found_bytes) = (self.dims.clone(), out.len());
            return Err(PjrtError::Length { element: self.element, dims, needed_bytes, found_bytes });
        }
        // SAFETY: `out` has the length that the shape needs.
        unsafe { self.copy(out.as_mut_ptr().cast(), out.len()) }
    }

    /// The tensor's elements.
    ///
    /// # Errors
    ///
    /// `T` cannot hold the elements; else as [`Self::read`].
    pub fn to_vec<T: Plain>(&self) -> Result<Vec<T>, PjrtError> {
        check::<T>(self.element)?;
        let bytes = self.element.tensor_bytes(&self.dims)?;
        let mut out = vec![T::default(); bytes / size_of::<T>()];
        // SAFETY: `T` has the element's size, and every bit pattern is one.
        unsafe { self.copy(out.as_mut_ptr().cast(), bytes) }?;
        Ok(out)
    }

    /// # Safety
    ///
    /// `bytes` bytes at `out` can be written and have the length that the shape needs.
    unsafe fn copy(&self, out: *mut c_void, bytes: usize) -> Result<(), PjrtError> {
        let mut args = abi::ToHost::zeroed();
        args.buffer = self.handle.raw;
        args.out = out;
        args.out_len = bytes;
        let plugin = self.client().plugin();
        // SAFETY: the buffer is live; `out` is borrowed until the event is done, below.
        unsafe {
            plugin.call(abi::BUFFER_TO_HOST, &mut args)?;
            Event::new(plugin, args.event).wait()
        }
    }

    /// Whether the buffer was donated to an execution, or deleted.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn is_deleted(&self) -> Result<bool, PjrtError> {
        let mut args = abi::GetBool::zeroed();
        args.object = self.handle.raw;
        // SAFETY: the buffer is live.
        unsafe { self.client().plugin().call(abi::BUFFER_IS_DELETED, &mut args) }?;
        Ok(args.out)
    }

    /// Frees the device's memory now, though the buffer may still be borrowed; every later use is an error.
    ///
    /// # Errors
    ///
    /// The plugin fails at it.
    pub fn delete(&self) -> Result<(), PjrtError> {
        let mut args = abi::Object::zeroed();
        args.object = self.handle.raw;
        // SAFETY: the buffer is live, and stays so as an object.
        unsafe { self.client().plugin().call(abi::BUFFER_DELETE, &mut args) }
    }

    /// Where the buffer lies in the device's memory, to see whether two are the same place.
    ///
    /// # Errors
    ///
    /// The buffer was donated, or the plugin does not say.
    pub fn address(&self) -> Result<usize, PjrtError> {
        // SAFETY: the buffer is live.
        unsafe { self.client().plugin().size(abi::BUFFER_UNSAFE_POINTER, self.handle.raw) }
    }

    /// Bytes in the device's memory, with the device's padding.
    ///
    /// # Errors
    ///
    /// The buffer was donated.
    pub fn size_in_bytes(&self) -> Result<usize, PjrtError> {
        // SAFETY: the buffer is live.
        unsafe { self.client().plugin().size(abi::BUFFER_SIZE, self.handle.raw) }
    }

    pub(super) fn raw(&self) -> Opaque {
        self.handle.raw
    }
}
