//! One call of a handler: its arguments, results, attributes and stream.
//!
//! A program may give an operand and a result the same memory (`output_operand_aliases`). So arguments are borrowed from the call
//! shared and results exclusively, never both, except through [`Call::split`], which compares addresses.

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr::null_mut;

use super::super::ElementType;
use super::super::element::{Plain, check};
use super::super::plugin::slice;
use super::attributes::{Attribute, Attributes};
use super::frame::{Buffers, CallFrame, ErrorDestroy, ErrorMessage, KIND_BUFFER, RawBuffer, StreamGet};

/// A call of a handler by a compiled program.
pub struct Call<'a> {
    frame: &'a CallFrame,
    on_host: bool,
}

/// An argument.
#[derive(Clone, Copy)]
pub struct BufferRef<'a> {
    element: ElementType,
    dims: &'a [i64],
    data: *mut c_void,
    bytes: usize,
    on_host: bool,
    /// `argument 0`, for messages.
    name: (&'static str, usize),
}

/// A result. In place of an aliased operand it holds that operand's elements, else nothing in particular.
pub struct BufferMut<'a> {
    inner: BufferRef<'a>,
}

impl<'a> Call<'a> {
    /// # Safety
    ///
    /// `frame` is a whole frame in the execution stage; its buffers may be read and written for `'a`, on the host when `on_host`.
    pub(super) unsafe fn new(frame: &'a CallFrame, on_host: bool) -> Self {
        Self { frame, on_host }
    }

    /// How many arguments there are.
    pub fn num_args(&self) -> usize {
        count(&self.frame.arguments)
    }

    /// How many results there are.
    pub fn num_results(&self) -> usize {
        count(&self.frame.results)
    }

    /// An argument.
    ///
    /// # Errors
    ///
    /// There is no such argument, or its type is not known here.
    pub fn arg(&self, index: usize) -> Result<BufferRef<'_>, String> {
        self.buffer(&self.frame.arguments, ("argument", index))
    }

    /// A result.
    ///
    /// # Errors
    ///
    /// As [`Self::arg`].
    pub fn result(&mut self, index: usize) -> Result<BufferMut<'_>, String> {
        Ok(BufferMut { inner: self.buffer(&self.frame.results, ("result", index))? })
    }

    /// Some arguments and some results at the same time.
    ///
    /// # Errors
    ///
    /// As [`Self::arg`], or a result lies in the memory of one of the other buffers: leave an aliased argument out, the result
    /// holds its elements.
    pub fn split<const A: usize, const R: usize>(
        &mut self,
        args: [usize; A],
        results: [usize; R],
    ) -> Result<([BufferRef<'_>; A], [BufferMut<'_>; R]), String> {
        let mut shared = Vec::with_capacity(A);
        for index in args {
            shared.push(self.buffer(&self.frame.arguments, ("argument", index))?);
        }
        let mut exclusive: Vec<BufferRef<'_>> = Vec::with_capacity(R);
        for index in results {
            let result = self.buffer(&self.frame.results, ("result", index))?;
            if let Some(other) = shared.iter().chain(&exclusive).find(|other| overlap(&other.place(), &result.place()))
            {
                let (kind, number) = other.name;
                return Err(format!(
                    "result {index} lies in the memory of {kind} {number}: the program updates in place, so use the result alone"
                ));
            }
            exclusive.push(result);
        }
        let (mut shared, mut exclusive) = (shared.into_iter(), exclusive.into_iter());
        let full = "one was pushed for each index";
        Ok((
            std::array::from_fn(|_| shared.next().expect(full)),
            std::array::from_fn(|_| BufferMut { inner: exclusive.next().expect(full) }),
        ))
    }

    /// Whether a result lies exactly where an argument does, that is, whether the program updates it in place.
    ///
    /// # Errors
    ///
    /// As [`Self::arg`].
    pub fn is_in_place(&self, arg: usize, result: usize) -> Result<bool, String> {
        let result = self.buffer(&self.frame.results, ("result", result))?;
        Ok(self.arg(arg)?.data == result.data)
    }

    /// The attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        // SAFETY: the frame is live.
        unsafe { Attributes::new(&self.frame.attributes) }
    }

    /// The attribute with this name.
    pub fn attr(&self, name: &str) -> Option<Attribute<'a>> {
        self.attributes().get(name)
    }

    /// The attribute with this name, a float.
    ///
    /// # Errors
    ///
    /// There is none, or it is of another type.
    pub fn float(&self, name: &str) -> Result<f64, String> {
        self.attributes().float(name)
    }

    /// The attribute with this name, an integer.
    ///
    /// # Errors
    ///
    /// There is none, or it is of another type.
    pub fn int(&self, name: &str) -> Result<i64, String> {
        self.attributes().int(name)
    }

    /// The attribute with this name, a string.
    ///
    /// # Errors
    ///
    /// There is none, or it is of another type.
    pub fn text(&self, name: &str) -> Result<&'a str, String> {
        self.attributes().text(name)
    }

    /// The device's stream (`CUstream`): launch on it, never wait for it.
    ///
    /// # Errors
    ///
    /// The platform has no streams.
    pub fn stream(&self) -> Result<*mut c_void, String> {
        // SAFETY: a frame's function table lives as long as the plugin.
        let api = unsafe { self.frame.api.as_ref() }.ok_or("the call frame has no function table")?;
        let get = api.stream_get.ok_or("the plugin has no `XLA_FFI_Stream_Get`")?;
        let mut args = StreamGet {
            struct_size: size_of::<StreamGet>(),
            extensions: null_mut(),
            context: self.frame.context,
            stream: null_mut(),
        };
        // SAFETY: the context belongs to this call.
        let error = unsafe { get(&mut args) };
        if error.is_null() {
            return Ok(args.stream);
        }
        let mut message = ErrorMessage {
            struct_size: size_of::<ErrorMessage>(),
            extensions: null_mut(),
            error,
            message: std::ptr::null(),
        };
        let mut destroy = ErrorDestroy { struct_size: size_of::<ErrorDestroy>(), extensions: null_mut(), error };
        // SAFETY: the error is live until it is destroyed, and so is its text.
        unsafe {
            if let Some(read) = api.error_message {
                read(&mut message);
            }
            let text = if message.message.is_null() { c"no text" } else { CStr::from_ptr(message.message) };
            let text = text.to_string_lossy().into_owned();
            if let Some(free) = api.error_destroy {
                free(&mut destroy);
            }
            Err(format!("`XLA_FFI_Stream_Get` failed: {text}"))
        }
    }

    fn buffer(&self, list: &'a Buffers, name: (&'static str, usize)) -> Result<BufferRef<'a>, String> {
        let (kind, index) = name;
        if index >= count(list) {
            return Err(format!("there is no {kind} {index}: the call has {}", count(list)));
        }
        // SAFETY: the lists have the length that the frame tells, and live as long as it.
        let raw: Option<&RawBuffer> =
            unsafe { if *list.kinds.add(index) == KIND_BUFFER { (*list.items.add(index)).as_ref() } else { None } };
        let raw = raw.ok_or_else(|| format!("{kind} {index} is not a buffer"))?;
        let element = ElementType::from_ffi(raw.element).map_err(|error| format!("{kind} {index}: {error}"))?;
        // SAFETY: a buffer has `rank` dimensions.
        let dims = unsafe { slice(raw.dims, usize::try_from(raw.rank).unwrap_or(0)) };
        let bits = dims
            .iter()
            .try_fold(element.device_bits(), |bits, dim| bits.checked_mul(usize::try_from(*dim).ok()?))
            .ok_or_else(|| format!("{kind} {index} has impossible dimensions {dims:?}"))?;
        Ok(BufferRef { element, dims, data: raw.data, bytes: bits.div_ceil(8), on_host: self.on_host, name })
    }
}

impl<'a> BufferRef<'a> {
    /// The type of the elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The shape.
    pub fn dims(&self) -> &'a [i64] {
        self.dims
    }

    /// Where the buffer lies: a pointer of the device, not of the host, unless the platform is `Host`.
    pub fn pointer(&self) -> *const c_void {
        self.data
    }

    /// The buffer's bytes, row-major; types of less than 8 bits are packed.
    ///
    /// # Errors
    ///
    /// The buffer is in a device's memory.
    pub fn bytes(&self) -> Result<&'a [u8], String> {
        self.elements_at::<u8>(self.bytes)
    }

    /// The elements.
    ///
    /// # Errors
    ///
    /// `T` cannot hold them, or the buffer is in a device's memory.
    pub fn elements<T: Plain>(&self) -> Result<&'a [T], String> {
        let len = self.len_of::<T>()?;
        self.elements_at(len)
    }

    fn len_of<T: Plain>(&self) -> Result<usize, String> {
        let (kind, index) = self.name;
        check::<T>(self.element).map_err(|error| format!("{kind} {index}: {error}"))?;
        if self.element.device_bits() < 8 {
            return Err(format!("{kind} {index} is packed {}; read its bytes", self.element));
        }
        Ok(self.bytes / size_of::<T>())
    }

    fn elements_at<T>(&self, len: usize) -> Result<&'a [T], String> {
        let pointer = self.on_host_at::<T>(len)?;
        // SAFETY: the frame says that the elements are there; no exclusive borrow of them exists beside this one, see `Call`.
        Ok(unsafe { slice(pointer, len) })
    }

    /// A pointer to host memory, aligned for `T`.
    fn on_host_at<T>(&self, len: usize) -> Result<*mut T, String> {
        let (kind, index) = self.name;
        if !self.on_host {
            return Err(format!("{kind} {index} is in a device's memory; use its pointer"));
        }
        let pointer = self.data.cast::<T>();
        if len > 0 && (pointer.is_null() || !pointer.is_aligned()) {
            return Err(format!("{kind} {index} lies at {pointer:?}, which is not aligned"));
        }
        Ok(pointer)
    }

    fn place(&self) -> Range<usize> {
        let start = self.data.addr();
        start..start.saturating_add(self.bytes)
    }
}

impl BufferMut<'_> {
    /// The type of the elements.
    pub fn element(&self) -> ElementType {
        self.inner.element
    }

    /// The shape.
    pub fn dims(&self) -> &[i64] {
        self.inner.dims
    }

    /// Where the buffer lies: a pointer of the device, not of the host, unless the platform is `Host`.
    pub fn pointer(&mut self) -> *mut c_void {
        self.inner.data
    }

    /// The buffer's bytes, row-major; types of less than 8 bits are packed.
    ///
    /// # Errors
    ///
    /// The buffer is in a device's memory.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], String> {
        self.elements_at(self.inner.bytes)
    }

    /// The elements.
    ///
    /// # Errors
    ///
    /// `T` cannot hold them, or the buffer is in a device's memory.
    pub fn elements_mut<T: Plain>(&mut self) -> Result<&mut [T], String> {
        let len = self.inner.len_of::<T>()?;
        self.elements_at(len)
    }

    fn elements_at<T>(&mut self, len: usize) -> Result<&mut [T], String> {
        let pointer = self.inner.on_host_at::<T>(len)?;
        if len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: the frame says that the elements are there and may be written; no other borrow of them exists, see `Call`.
        Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
    }
}

fn count(list: &Buffers) -> usize {
    usize::try_from(list.len).unwrap_or(0)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
}
