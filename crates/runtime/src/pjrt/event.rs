//! Events: work that a device has not finished yet.

use super::abi::{self, Opaque, SizedStruct};
use super::{PjrtError, Plugin};

/// An event that is ours to destroy.
pub(super) struct Event<'a> {
    plugin: &'a Plugin,
    raw: Opaque,
}

impl<'a> Event<'a> {
    /// Takes over an event that the plugin has handed out; null means that the work is done.
    ///
    /// # Safety
    ///
    /// `raw` is null or an event of `plugin` that nobody else destroys.
    pub(super) unsafe fn new(plugin: &'a Plugin, raw: Opaque) -> Self {
        Self { plugin, raw }
    }

    /// Blocks until the work is done, and returns its failure. There is no deadline of ours: the plugin may still write to memory
    /// that was lent to it, so giving up would not be sound; XLA, NCCL and the Neuron runtime end stuck collectives themselves.
    pub(super) fn wait(self) -> Result<(), PjrtError> {
        if self.raw.is_null() {
            return Ok(());
        }
        let mut args = abi::Object::zeroed();
        args.object = self.raw;
        // SAFETY: the event is live: `drop` destroys it.
        unsafe { self.plugin.call(abi::EVENT_AWAIT, &mut args) }
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: the event is ours and not used again.
            unsafe { self.plugin.release(abi::EVENT_DESTROY, self.raw) };
        }
    }
}
