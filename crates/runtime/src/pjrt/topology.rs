//! How a client's devices are put together, as the compiler sees it.

use super::abi::{self, Opaque, SizedStruct};
use super::plugin::named_values;
use super::{AttributeValue, Client, PjrtError};

/// The devices of a client over all processes, and how they are connected.
#[derive(Debug)]
pub struct Topology {
    client: Client,
    raw: Opaque,
}

// SAFETY: a topology is constant data of its client.
unsafe impl Send for Topology {}
// SAFETY: as above.
unsafe impl Sync for Topology {}

/// A device of a topology; it may belong to another process.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceDescription {
    /// The plugin's number.
    pub id: i64,
    /// The process that can use it.
    pub process: i64,
    /// The vendor's name.
    pub kind: String,
    /// What else the plugin says: coordinates, core counts and so on.
    pub attributes: Vec<(String, AttributeValue)>,
}

impl Topology {
    /// # Safety
    ///
    /// `raw` is a topology that `client` owns.
    pub(super) unsafe fn new(client: &Client, raw: Opaque) -> Self {
        Self { client: client.clone(), raw }
    }

    /// The platform's name.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn platform_name(&self) -> Result<String, PjrtError> {
        // SAFETY: the client owns the topology and is alive.
        unsafe { self.client.plugin().text(abi::TOPOLOGY_PLATFORM_NAME, self.raw) }
    }

    /// The platform's version.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn platform_version(&self) -> Result<String, PjrtError> {
        // SAFETY: the client owns the topology and is alive.
        unsafe { self.client.plugin().text(abi::TOPOLOGY_PLATFORM_VERSION, self.raw) }
    }

    /// The devices, of all processes.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn devices(&self) -> Result<Vec<DeviceDescription>, PjrtError> {
        let plugin = self.client.plugin();
        // SAFETY: the client owns the topology and its descriptions, and is alive.
        unsafe {
            let descriptions = plugin.pointers(abi::TOPOLOGY_DEVICES, self.raw)?;
            let read = |description| {
                let mut args = abi::GetCountedValues::zeroed();
                args.object = description;
                plugin.call(abi::DESCRIPTION_ATTRIBUTES, &mut args)?;
                Ok(DeviceDescription {
                    id: plugin.int(abi::DESCRIPTION_ID, description)?.into(),
                    process: plugin.int(abi::DESCRIPTION_PROCESS, description)?.into(),
                    kind: plugin.text(abi::DESCRIPTION_KIND, description)?,
                    attributes: named_values(args.items, args.len),
                })
            };
            descriptions.into_iter().map(read).collect()
        }
    }

    /// What the plugin says about the whole, for example the compute capability.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn attributes(&self) -> Result<Vec<(String, AttributeValue)>, PjrtError> {
        let mut args = abi::GetValues::zeroed();
        args.object = self.raw;
        // SAFETY: the client owns the topology and its attributes, and is alive.
        unsafe {
            self.client.plugin().call(abi::TOPOLOGY_ATTRIBUTES, &mut args)?;
            Ok(named_values(args.items, args.len))
        }
    }

    /// The topology in the plugin's own format, for a compiler elsewhere or for a cache key.
    ///
    /// # Errors
    ///
    /// The plugin cannot save it.
    pub fn serialize(&self) -> Result<Vec<u8>, PjrtError> {
        // SAFETY: the client owns the topology and is alive.
        unsafe { self.client.plugin().owned_bytes(abi::TOPOLOGY_SERIALIZE, self.raw) }
    }
}
