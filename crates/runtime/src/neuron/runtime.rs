//! The started runtime and its cores. One a process; everything made with it keeps it open, so closing comes last.
#![allow(unsafe_code, reason = "foreign functions")]

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::abi::{Api, NO_FRAMEWORK, RawMemory, check};
use super::error::NeuronError;
use super::load::Nrt;

/// Whether this process has a started runtime.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// More cores than any machine has: a larger count is not believed.
const MOST_CORES: u32 = 4096;

/// A started libnrt. Clones share it; the last of them, its cores, models, tensors and sets to go closes it.
#[derive(Clone, Debug)]
pub struct Runtime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    api: Arc<Api>,
    /// One for each core: calls that touch a core's models and tensors are made one at a time.
    locks: Vec<Mutex<()>>,
    logical_core: Option<u32>,
}

impl Runtime {
    /// Starts `nrt` and takes the cores that the environment leaves to this process; nobody else can use them then.
    ///
    /// # Errors
    ///
    /// This process has a runtime already, or libnrt refuses.
    pub fn start(nrt: &Nrt) -> Result<Self, NeuronError> {
        if RUNNING.swap(true, Ordering::AcqRel) {
            return Err(NeuronError::AlreadyRunning);
        }
        // SAFETY: the swap above makes this the only init; both texts are terminated and outlive the call.
        let code = unsafe { (nrt.api.init)(NO_FRAMEWORK, c"".as_ptr(), c"".as_ptr()) };
        if let Err(error) = check("nrt_init", code, || "the runtime".to_owned()) {
            RUNNING.store(false, Ordering::Release);
            return Err(error);
        }
        // From here on dropping `shared` closes the runtime.
        let mut shared = Shared { api: Arc::clone(&nrt.api), locks: Vec::new(), logical_core: None };
        let cores = nrt.visible_cores()?;
        if cores == 0 || cores > MOST_CORES {
            let subject = "this process".to_owned();
            let found = format!("{cores} cores");
            return Err(NeuronError::Answer { function: "nrt_get_visible_vnc_count", subject, found });
        }
        shared.locks.resize_with(cores as usize, Mutex::default);
        shared.logical_core = logical_core(nrt, |variable| std::env::var_os(variable));
        tracing::debug!(cores, logical_core = shared.logical_core, path = %nrt.path().display(), "libnrt started");
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Logical cores of this process.
    pub fn core_count(&self) -> u32 {
        self.shared.core_count()
    }

    /// Physical cores in a logical one, where it is known: a NEFF must have been compiled for it.
    pub fn logical_core(&self) -> Option<u32> {
        self.shared.logical_core
    }

    /// Core `index` of this process; the first is 0, whichever physical cores it got.
    ///
    /// # Errors
    ///
    /// There is no such core.
    pub fn core(&self, index: u32) -> Result<Core, NeuronError> {
        let count = self.core_count();
        if index >= count {
            return Err(NeuronError::NoSuchCore { index, count });
        }
        Ok(Core { shared: Arc::clone(&self.shared), index })
    }
}

impl Shared {
    fn core_count(&self) -> u32 {
        // `start` bounds the count.
        u32::try_from(self.locks.len()).unwrap_or(MOST_CORES)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: init succeeded, and everything that libnrt gave out held this value and is gone.
        unsafe { (self.api.close)() };
        RUNNING.store(false, Ordering::Release);
    }
}

/// What the environment says, else what the machine does on its own.
fn logical_core(nrt: &Nrt, current: impl Fn(&str) -> Option<OsString>) -> Option<u32> {
    let named = |variable| current(variable)?.to_str()?.trim().parse::<u32>().ok();
    named("NEURON_LOGICAL_NC_CONFIG")
        .or_else(|| named("NEURON_RT_VIRTUAL_CORE_SIZE"))
        .or_else(|| Some(nrt.instance().ok()?.target()?.facts().default_logical_core))
}

/// One logical core of a started runtime: models are loaded on it, tensors allocated on it.
///
/// Calls on one core wait for each other, calls on different cores do not: use a thread a core.
#[derive(Clone, Debug)]
pub struct Core {
    shared: Arc<Shared>,
    index: u32,
}

/// Device memory of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that can be in use.
    pub limit_bytes: u64,
}

impl Core {
    /// Its index in this process.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> Runtime {
        Runtime { shared: Arc::clone(&self.shared) }
    }

    /// Its device memory.
    ///
    /// # Errors
    ///
    /// libnrt's status, or a library too old to tell.
    pub fn memory(&self) -> Result<Memory, NeuronError> {
        const FUNCTION: &str = "nrt_get_vnc_memory_stats";
        let api = self.api();
        let Some(function) = api.get_vnc_memory_stats else {
            return Err(NeuronError::Unsupported { function: FUNCTION, path: api.path().to_owned() });
        };
        let (mut raw, mut written) = (RawMemory::default(), 0);
        let _lock = self.lock();
        // SAFETY: the struct is libnrt's, the size given bounds what is written, and the core exists.
        let code = unsafe { function(self.index, &raw mut raw, size_of::<RawMemory>(), &raw mut written) };
        check(FUNCTION, code, || self.describe())?;
        if written < size_of::<RawMemory>() {
            let found = format!("{written} bytes of statistics");
            return Err(NeuronError::Answer { function: FUNCTION, subject: self.describe(), found });
        }
        Ok(Memory { used_bytes: raw.used as u64, limit_bytes: raw.limit as u64 })
    }

    pub(super) fn api(&self) -> &Api {
        &self.shared.api
    }

    /// Held during each call on this core. A panic of another holder cannot leave anything half done: the lock guards no data.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.shared.locks[self.index as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// libnrt's number for it.
    pub(super) fn number(&self) -> i32 {
        // `MOST_CORES` bounds it.
        self.index.cast_signed()
    }

    pub(super) fn describe(&self) -> String {
        format!("core {}", self.index)
    }

    /// Whether both are the same core of the same runtime.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.shared, &other.shared)
    }
}
