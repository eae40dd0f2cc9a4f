//! A NEFF on a core: loading, what it takes and gives, execution.
#![allow(unsafe_code, reason = "foreign functions")]

use std::ffi::{c_int, c_void};
use std::num::NonZeroU32;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::{ANY, Handle, RawModel, RawTensorSet, check};
use super::error::NeuronError;
use super::info::{self, TensorInfo, Usage};
use super::neff::Neff;
use super::runtime::Core;
use super::tensor::TensorSet;

/// Who takes part in the collectives of a model: this rank of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    rank: u32,
    size: u32,
}

impl World {
    /// One rank, no collectives.
    pub const SINGLE: Self = Self { rank: 0, size: 1 };

    /// Rank `rank` of `size`. Every rank must load the model, at the same time.
    ///
    /// # Errors
    ///
    /// No such rank.
    pub fn new(rank: u32, size: u32) -> Result<Self, NeuronError> {
        if rank < size { Ok(Self { rank, size }) } else { Err(NeuronError::World { rank, size }) }
    }
}

/// A loaded program; dropping it unloads it.
#[derive(Debug)]
pub struct Model {
    core: Core,
    handle: Handle<RawModel>,
    name: String,
    tensors: Vec<TensorInfo>,
    /// Stamps of the sets that were last found good, so that a step does not compare hundreds of names again.
    good_inputs: AtomicU64,
    good_outputs: AtomicU64,
}

impl Model {
    /// Loads `neff` on `core`, with collectives if the world has several ranks.
    ///
    /// # Errors
    ///
    /// A NEFF compiled for another logical core size, tensors described in an impossible way, or libnrt's status.
    pub fn load(core: &Core, neff: &Neff<'_>, world: World) -> Result<Self, NeuronError> {
        let (name, header) = (neff.name(), neff.header());
        if let (Some(compiled), Some(running)) = (header.logical_core, core.runtime().logical_core())
            && compiled != running
        {
            return Err(NeuronError::NeffLogicalCores { neff: name, compiled, running });
        }
        let subject = || format!("NEFF `{name}` on core {}", core.index());
        let (data, length) = (neff.bytes().as_ptr().cast::<c_void>(), neff.bytes().len());
        let (api, number) = (core.api(), core.number());
        let mut raw = ptr::null_mut();
        let lock = core.lock();
        // SAFETY: libnrt reads `length` bytes during the call; the header was checked, the core exists, the place for the
        // handle is ours.
        let (function, code) = unsafe {
            if world.size > 1 {
                let World { rank, size } = world;
                ("nrt_load_collectives", (api.load_collectives)(data, length, number, ANY, rank, size, &raw mut raw))
            } else {
                ("nrt_load", (api.load)(data, length, number, ANY, &raw mut raw))
            }
        };
        drop(lock);
        check(function, code, subject)?;
        let handle = Handle::new(raw, function, &subject())?;
        let (good_inputs, good_outputs) = (AtomicU64::new(0), AtomicU64::new(0));
        // Made before the tensors are asked for, so that a failure there unloads the model.
        let mut model = Self { core: core.clone(), handle, name, tensors: Vec::new(), good_inputs, good_outputs };
        model.tensors = info::read(&model.core, &model.handle, &model.name)?;
        Ok(model)
    }

    /// The NEFF's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The core that it is loaded on.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// What it takes and gives, in the NEFF's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What it takes.
    pub fn inputs(&self) -> impl Iterator<Item = &TensorInfo> {
        self.of(Usage::Input)
    }

    /// What it gives.
    pub fn outputs(&self) -> impl Iterator<Item = &TensorInfo> {
        self.of(Usage::Output)
    }

    /// Runs once and waits for the end. Both sets must hold exactly the model's tensors, which is checked first.
    ///
    /// # Errors
    ///
    /// Sets that do not fit, or libnrt's status. After a status the outputs, and state updated in place, are lost.
    pub fn execute(&self, inputs: &TensorSet, outputs: &mut TensorSet) -> Result<(), NeuronError> {
        self.check_sets(inputs, outputs)?;
        let (from, to): (*const RawTensorSet, _) = (inputs.pointer(), outputs.pointer());
        let _lock = self.core.lock();
        // SAFETY: model and sets are live and of one core; names and lengths are the model's.
        let code = unsafe { (self.core.api().execute)(self.handle.pointer(), from, to) };
        check("nrt_execute", code, || format!("model `{}`", self.name))
    }

    /// Runs `times` times, each run with the outputs of the last as inputs; the NEFF must be compiled for that.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`], and more times than C's `int` holds.
    pub fn execute_repeat(
        &self,
        inputs: &TensorSet,
        outputs: &mut TensorSet,
        times: NonZeroU32,
    ) -> Result<(), NeuronError> {
        self.check_sets(inputs, outputs)?;
        let count = c_int::try_from(times.get()).map_err(|_| NeuronError::BadOption {
            option: "times",
            found: times.to_string(),
            expected: "at most 2147483647",
        })?;
        let (from, to): (*const RawTensorSet, _) = (inputs.pointer(), outputs.pointer());
        let _lock = self.core.lock();
        // SAFETY: as in `execute`.
        let code = unsafe { (self.core.api().execute_repeat)(self.handle.pointer(), from, to, count) };
        check("nrt_execute_repeat", code, || format!("model `{}`", self.name))
    }

    fn of(&self, usage: Usage) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter().filter(move |tensor| tensor.usage == usage)
    }

    fn check_sets(&self, inputs: &TensorSet, outputs: &TensorSet) -> Result<(), NeuronError> {
        for (set, usage, good) in
            [(inputs, Usage::Input, &self.good_inputs), (outputs, Usage::Output, &self.good_outputs)]
        {
            if good.load(Ordering::Relaxed) != set.stamp() {
                self.check_set(set, usage)?;
                good.store(set.stamp(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn check_set(&self, set: &TensorSet, usage: Usage) -> Result<(), NeuronError> {
        if !set.core().is(&self.core) {
            return Err(NeuronError::OtherCore {
                subject: format!("the set of {}s", usage.name()),
                found: set.core().index(),
                user: format!("model `{}`", self.name),
                expected: self.core.index(),
            });
        }
        let (model, usage_name) = (|| self.name.clone(), usage.name());
        for info in self.of(usage) {
            let (tensor, expected) = (info.name.clone(), info.bytes);
            let Some(found) = set.get(&info.name).map(super::tensor::Tensor::bytes) else {
                return Err(NeuronError::MissingTensor { model: model(), usage: usage_name, tensor, bytes: expected });
            };
            if found != expected {
                return Err(NeuronError::TensorBytes { model: model(), usage: usage_name, tensor, expected, found });
            }
        }
        // Every name of the model is there, so a longer set has one that the model lacks.
        if let Some((tensor, _)) = set.iter().find(|(name, _)| self.of(usage).all(|info| info.name != *name)) {
            let known = self.of(usage).map(|info| format!("`{}`", info.name)).collect::<Vec<_>>().join(", ");
            let tensor = tensor.to_owned();
            return Err(NeuronError::UnknownTensor { model: model(), usage: usage_name, tensor, known });
        }
        Ok(())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _lock = self.core.lock();
        // SAFETY: the model is live and unloaded once.
        let code = unsafe { (self.core.api().unload)(self.handle.pointer()) };
        if let Err(error) = check("nrt_unload", code, || format!("model `{}`", self.name)) {
            tracing::warn!(%error, "a model could not be unloaded");
        }
    }
}
