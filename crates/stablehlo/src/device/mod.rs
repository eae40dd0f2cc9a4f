//! The traced device: weights and caches on every rank's device, and the programs that have been compiled.
//!
//! A step is a batch cut into rectangles ([`crate::inputs`]); each runs the program of its bucket, which is recorded and compiled when
//! it is first needed. All programs share the weights' buffers, and hand the caches' buffers on from one to the next.

mod copies;
mod programs;
mod step;

pub use step::TracedStep;

use crate::cache::ProgramCache;
use crate::error::DeviceError;
use crate::host::HostArray;
use crate::kernel::Kernels;
use crate::layout::{BoundWeight, WeightLayout};
use crate::program::{Part, Side};
use crate::record::Element;
use crate::target::{Spread, Target};
use crate::tracer::{KvShape, Setting};
use nxd_ops::{Axis, Manifest, WeightSource};
use nxd_runtime::pjrt::{Buffer, Client, ElementType, MemoryStats};
use programs::Programs;
use std::collections::HashMap;
use std::sync::Arc;

/// How programs are recorded and compiled.
#[derive(Debug)]
pub struct TracedOptions {
    /// What compiles and runs them.
    pub target: Target,
    /// The type of activations.
    pub dtype: Element,
    /// How ranks are told to the compiler.
    pub spread: Spread,
    /// Kernels that take the place of composed ops.
    pub kernels: Kernels,
    /// Compiled programs of earlier runs; `None` to compile always.
    pub cache: Option<ProgramCache>,
    /// Most rows of a program, unless one request has more.
    pub max_rows: usize,
}

impl TracedOptions {
    /// What `target` takes when the user says nothing.
    pub fn of(target: Target) -> Self {
        let (dtype, spread) = (target.dtype, target.spread);
        TracedOptions { target, dtype, spread, kernels: Kernels::default(), cache: None, max_rows: 512 }
    }
}

/// The devices of all ranks of a model.
pub struct TracedDevice {
    client: Client,
    manifest: Arc<Manifest>,
    options: TracedOptions,
    ranks: usize,
    layouts: Vec<WeightLayout>,
    /// Parts of weights on every rank, by weight.
    weights: Vec<Vec<(Part, Vec<Buffer>)>>,
    kv_shape: KvShape,
    /// Caches on every rank; of no use once a step has failed (`lost`).
    kv: HashMap<(u32, Side), Vec<Buffer>>,
    programs: Programs,
    lost: bool,
}

impl TracedDevice {
    /// Binds `manifest` to the weights of `source`, cut for the ranks of its mesh and uploaded to as many devices of `client`.
    ///
    /// # Errors
    /// When there are too few devices, a weight is missing or does not fit, or the plugin fails.
    pub fn bind(
        client: Client,
        manifest: Arc<Manifest>,
        source: &dyn WeightSource,
        options: TracedOptions,
    ) -> Result<Self, DeviceError> {
        let ranks = manifest.mesh().size(Axis::Tensor);
        let devices = client.devices().len();
        if ranks > devices {
            return Err(DeviceError::Devices { ranks, devices, platform: client.platform_name().to_owned() });
        }
        let refused = |source| DeviceError::Plugin { doing: "a kernel cannot be registered".to_owned(), source };
        options.kernels.install(client.plugin(), &options.target).map_err(refused)?;
        let (mut layouts, mut weights) = (Vec::new(), Vec::new());
        for spec in manifest.weights() {
            let bound = BoundWeight::new(spec, source, ranks, options.dtype)?;
            let mut parts: Vec<(Part, Vec<Buffer>)> =
                bound.parts().into_iter().map(|part| (part, Vec::with_capacity(ranks))).collect();
            for rank in 0..ranks {
                for ((_, buffers), array) in parts.iter_mut().zip(bound.arrays(rank)) {
                    buffers.push(upload(&client, rank, &array, || format!("cannot upload weight `{}`", spec.name))?);
                }
            }
            layouts.push(bound.layout);
            weights.push(parts);
        }
        let groups = manifest.kv_groups().len();
        let kv_shape = KvShape { element: options.dtype, block_size: 1, num_blocks: vec![0; groups] };
        let programs = Programs::new(&client);
        let kv = HashMap::new();
        Ok(TracedDevice { client, manifest, options, ranks, layouts, weights, kv_shape, kv, programs, lost: false })
    }

    /// Makes the KV cache: `num_blocks` blocks of `block_size` tokens for each KV group, and a block for padding.
    ///
    /// # Errors
    /// When the block size is not allowed or the plugin cannot give the memory.
    pub fn allocate_kv(
        &mut self,
        num_blocks: &[usize],
        block_size: usize,
        element: Element,
    ) -> Result<(), DeviceError> {
        if block_size == 0 || block_size > 4096 {
            return Err(DeviceError::BlockSize(block_size));
        }
        self.kv.clear();
        self.programs.clear();
        self.kv_shape = KvShape { element, block_size, num_blocks: num_blocks.to_vec() };
        let groups = self.manifest.kv_groups();
        let manifest = Arc::clone(&self.manifest);
        for (layer, spec) in manifest.kv_layers().iter().enumerate() {
            let group = groups.iter().position(|g| g == spec).expect("groups are made of the layers' specs");
            let dims = [self.kv_shape.slots(group), spec.num_kv_heads, spec.head_dim];
            for &side in Side::of(spec) {
                let buffers = self.zeros(&dims, element)?;
                self.kv.insert((layer as u32, side), buffers);
            }
        }
        self.lost = false;
        Ok(())
    }

    /// The parallel layout's ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// The client whose devices are used.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What compiles and runs programs.
    pub fn target(&self) -> &Target {
        &self.options.target
    }

    /// Bytes of weights on all ranks together.
    pub fn weights_bytes(&self) -> usize {
        self.layouts.iter().map(|layout| self.ranks * layout.bytes()).sum()
    }

    /// Bytes of the KV cache on all ranks together.
    pub fn kv_bytes(&self) -> usize {
        let bytes = |buffer: &Buffer| buffer.dims().iter().product::<usize>() * buffer.element().bytes();
        self.kv.values().flatten().map(bytes).sum()
    }

    /// Programs compiled or taken from the cache so far.
    pub fn num_programs(&self) -> usize {
        self.programs.len()
    }

    /// The memory that each compiled program takes, by name, where the plugin says.
    pub fn memory(&self) -> Vec<(String, MemoryStats)> {
        self.programs.memory()
    }

    /// What all recordings share.
    pub fn setting(&self) -> Setting<'_> {
        Setting {
            manifest: &self.manifest,
            layouts: &self.layouts,
            kv: &self.kv_shape,
            target: &self.options.target,
            kernels: &self.options.kernels,
            dtype: self.options.dtype,
            spread: self.options.spread,
        }
    }
}

/// Puts an array on the device of `rank`; `doing` says what for.
fn upload(
    client: &Client,
    rank: usize,
    array: &HostArray,
    doing: impl FnOnce() -> String,
) -> Result<Buffer, DeviceError> {
    client
        .upload(rank, element_type(array.element), &array.dims, &array.data)
        .map_err(|source| DeviceError::Plugin { doing: doing(), source })
}

/// The runtime's name of an element type.
fn element_type(element: Element) -> ElementType {
    match element {
        Element::I1 => ElementType::Pred,
        Element::I8 => ElementType::S8,
        Element::I32 => ElementType::S32,
        Element::I64 => ElementType::S64,
        Element::U32 => ElementType::U32,
        Element::U64 => ElementType::U64,
        Element::F8E4M3FN => ElementType::F8E4M3FN,
        Element::F8E5M2 => ElementType::F8E5M2,
        Element::F16 => ElementType::F16,
        Element::BF16 => ElementType::BF16,
        Element::F32 => ElementType::F32,
        Element::F64 => ElementType::F64,
    }
}
