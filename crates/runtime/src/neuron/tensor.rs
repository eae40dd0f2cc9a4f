//! Tensors on a core, and named sets of them, which is what a model takes and fills.
#![allow(unsafe_code, reason = "foreign functions")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::{Handle, NAME_BYTES, ON_DEVICE, ON_HOST, RawTensor, RawTensorSet, check};
use super::error::NeuronError;
use super::runtime::Core;

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// Memory of the core's chip.
    #[default]
    Device,
    /// Host memory that the core reaches.
    Host,
}

/// Bytes that a core can reach. Clones are the same tensor; the last to go frees it.
#[derive(Clone, Debug)]
pub struct Tensor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Core,
    name: String,
    bytes: usize,
    handle: Handle<RawTensor>,
    /// A slice keeps what it lies in; freed after it, as fields go after `drop`.
    #[expect(dead_code, reason = "held for its lifetime only")]
    source: Option<Tensor>,
}

impl Tensor {
    /// A tensor of `bytes` bytes, whose content is arbitrary. The name is for messages, ours and libnrt's.
    ///
    /// # Errors
    ///
    /// An empty tensor, a name that C cannot hold, no memory.
    pub fn allocate(core: &Core, placement: Placement, name: &str, bytes: usize) -> Result<Self, NeuronError> {
        const FUNCTION: &str = "nrt_tensor_allocate";
        let text = c_name(name)?;
        if bytes == 0 {
            return Err(NeuronError::EmptyTensor { tensor: name.to_owned() });
        }
        let place = match placement {
            Placement::Device => ON_DEVICE,
            Placement::Host => ON_HOST,
        };
        let subject = || format!("tensor `{name}` of {bytes} bytes on core {}", core.index());
        let mut raw = ptr::null_mut();
        let lock = core.lock();
        // SAFETY: the core exists, the name is terminated, and the place for the handle is ours.
        let code = unsafe { (core.api().tensor_allocate)(place, core.number(), bytes, text.as_ptr(), &raw mut raw) };
        drop(lock);
        check(FUNCTION, code, subject)?;
        Self::adopt(core, name, bytes, raw, None, FUNCTION)
    }

    /// The `bytes` bytes from `offset` on as a tensor of its own, over the same memory.
    ///
    /// # Errors
    ///
    /// A part that does not lie in the tensor, an empty one, or libnrt's status.
    pub fn slice(&self, name: &str, offset: usize, bytes: usize) -> Result<Self, NeuronError> {
        const FUNCTION: &str = "nrt_tensor_allocate_slice";
        let text = c_name(name)?;
        self.check_range(offset, bytes)?;
        if bytes == 0 {
            return Err(NeuronError::EmptyTensor { tensor: name.to_owned() });
        }
        let core = &self.inner.core;
        let mut raw = ptr::null_mut();
        let lock = core.lock();
        // SAFETY: the range lies in the live source tensor, the name is terminated, the place for the handle is ours.
        let code =
            unsafe { (core.api().tensor_allocate_slice)(self.pointer(), offset, bytes, text.as_ptr(), &raw mut raw) };
        drop(lock);
        check(FUNCTION, code, || format!("tensor `{name}` in `{}`", self.name()))?;
        Self::adopt(core, name, bytes, raw, Some(self.clone()), FUNCTION)
    }

    /// Takes over a handle, and asks libnrt for its length: our range checks are worth nothing if the two differ.
    fn adopt(
        core: &Core,
        name: &str,
        bytes: usize,
        raw: *mut RawTensor,
        source: Option<Self>,
        function: &'static str,
    ) -> Result<Self, NeuronError> {
        let subject = format!("tensor `{name}`");
        let handle = Handle::new(raw, function, &subject)?;
        let tensor =
            Self { inner: Arc::new(Inner { core: core.clone(), name: name.to_owned(), bytes, handle, source }) };
        let lock = core.lock();
        // SAFETY: the handle is the one just made.
        let found = unsafe { (core.api().tensor_get_size)(tensor.pointer()) };
        drop(lock);
        if found < bytes {
            return Err(NeuronError::Answer { function, subject, found: format!("{found} bytes instead of {bytes}") });
        }
        Ok(tensor)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.inner.bytes
    }

    /// The core that it was allocated on.
    pub fn core(&self) -> &Core {
        &self.inner.core
    }

    /// Copies the bytes from `offset` on into `out`.
    ///
    /// # Errors
    ///
    /// A part that does not lie in the tensor (found before libnrt is called), or libnrt's status.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), NeuronError> {
        self.check_range(offset, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        let core = &self.inner.core;
        let _lock = core.lock();
        let to = out.as_mut_ptr().cast::<c_void>();
        // SAFETY: `offset..offset + length` lies in the tensor, and `out` is ours with that length.
        let code = unsafe { (core.api().tensor_read)(self.pointer(), to, offset, out.len()) };
        check("nrt_tensor_read", code, || format!("tensor `{}`", self.name()))
    }

    /// Copies `data` to the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// A part that does not lie in the tensor (found before libnrt is called), or libnrt's status.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), NeuronError> {
        self.check_range(offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let core = &self.inner.core;
        let _lock = core.lock();
        let from = data.as_ptr().cast::<c_void>();
        // SAFETY: `offset..offset + length` lies in the tensor, and libnrt only reads `data`.
        let code = unsafe { (core.api().tensor_write)(self.pointer(), from, offset, data.len()) };
        check("nrt_tensor_write", code, || format!("tensor `{}`", self.name()))
    }

    fn check_range(&self, offset: usize, length: usize) -> Result<(), NeuronError> {
        let bytes = self.bytes();
        if offset.checked_add(length).is_some_and(|end| end <= bytes) {
            return Ok(());
        }
        Err(NeuronError::Range { tensor: self.name().to_owned(), bytes, offset, length })
    }

    fn pointer(&self) -> *mut RawTensor {
        self.inner.handle.pointer()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut raw = self.handle.pointer();
        let _lock = self.core.lock();
        // SAFETY: the last user of the handle is gone (sets hold their tensors); it is freed once.
        unsafe { (self.core.api().tensor_free)(&raw mut raw) };
    }
}

/// Tensors by the names that a model gives them. It keeps them alive.
///
/// State that a model updates in place is the *same* tensor in its input set and in its output set.
#[derive(Debug)]
pub struct TensorSet {
    core: Core,
    handle: Handle<RawTensorSet>,
    tensors: BTreeMap<String, Tensor>,
    /// Every tensor that was ever put in, once: libnrt wants them valid until the set is destroyed, also replaced ones.
    held: Vec<Tensor>,
    /// Changes with the content; never the same in two sets.
    stamp: u64,
}

impl TensorSet {
    /// An empty set for models of `core`.
    ///
    /// # Errors
    ///
    /// libnrt's status.
    pub fn new(core: &Core) -> Result<Self, NeuronError> {
        const FUNCTION: &str = "nrt_allocate_tensor_set";
        let subject = core.describe();
        let mut raw = ptr::null_mut();
        let lock = core.lock();
        // SAFETY: the place for the handle is ours.
        let code = unsafe { (core.api().allocate_tensor_set)(&raw mut raw) };
        drop(lock);
        check(FUNCTION, code, || subject.clone())?;
        let handle = Handle::new(raw, FUNCTION, &subject)?;
        Ok(Self { core: core.clone(), handle, tensors: BTreeMap::new(), held: Vec::new(), stamp: next_stamp() })
    }

    /// Puts `tensor` in under `name`, in place of the one that was there. A replaced tensor is freed with the set, not before.
    ///
    /// # Errors
    ///
    /// A name that C cannot hold, a tensor of another core, or libnrt's status.
    pub fn insert(&mut self, name: &str, tensor: &Tensor) -> Result<(), NeuronError> {
        let text = c_name(name)?;
        if !tensor.core().is(&self.core) {
            return Err(NeuronError::OtherCore {
                subject: format!("tensor `{}`", tensor.name()),
                found: tensor.core().index(),
                user: "the set".to_owned(),
                expected: self.core.index(),
            });
        }
        // Before the call: should it fail half way, libnrt may already know the tensor.
        if !self.held.iter().any(|held| Arc::ptr_eq(&held.inner, &tensor.inner)) {
            self.held.push(tensor.clone());
        }
        self.stamp = next_stamp();
        let lock = self.core.lock();
        // SAFETY: set and tensor are live, of one core, and `held` keeps the tensor until the set is destroyed.
        let code = unsafe { (self.core.api().add_tensor)(self.handle.pointer(), text.as_ptr(), tensor.pointer()) };
        drop(lock);
        check("nrt_add_tensor_to_tensor_set", code, || format!("tensor `{}` as `{name}`", tensor.name()))?;
        self.tensors.insert(name.to_owned(), tensor.clone());
        Ok(())
    }

    /// The tensor under `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Every name with its tensor, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The core that it is for.
    pub fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn stamp(&self) -> u64 {
        self.stamp
    }

    pub(super) fn pointer(&self) -> *mut RawTensorSet {
        self.handle.pointer()
    }
}

impl Drop for TensorSet {
    fn drop(&mut self) {
        let mut raw = self.handle.pointer();
        let _lock = self.core.lock();
        // SAFETY: the set is live and destroyed once; its tensors go after it, with the fields.
        unsafe { (self.core.api().destroy_tensor_set)(&raw mut raw) };
    }
}

fn next_stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn c_name(name: &str) -> Result<CString, NeuronError> {
    let error = |problem| NeuronError::Name { name: name.to_owned(), problem };
    if name.is_empty() {
        return Err(error("is empty"));
    }
    if name.len() >= NAME_BYTES {
        return Err(error("is longer than 255 bytes"));
    }
    CString::new(name).map_err(|_| error("has a zero byte"))
}
