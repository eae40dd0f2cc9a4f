//! The executor of traced devices: ranks are devices of one PJRT client.

mod plugin;

use crate::error::ExecutorError;
use crate::executor::{Executor, ModelInfo, StepId, StepOutput};
use crate::kv::{self, KvGroup, KvOptions};
use crate::options::ExecutorOptions;
use crate::steps::Steps;
use ndarray::ArrayView2;
use nxd_cpu::KvDtype;
use nxd_models::Model;
use nxd_modules::{Decoder, Sampler};
use nxd_ops::{Batch, Manifest, Mesh, Output, Params, RopeSpec, SamplingBatch};
use nxd_stablehlo::cache::ProgramCache;
use nxd_stablehlo::device::{TracedDevice, TracedOptions, TracedStep};
use nxd_stablehlo::kernel::Kernels;
use nxd_stablehlo::record::Element;
use std::cell::OnceCell;
use std::sync::Arc;

/// Bytes of compiled programs that are kept on disk.
const CACHE_BYTES: u64 = 4 << 30;

/// A model on the devices of a PJRT plugin.
pub struct TracedExecutor {
    info: ModelInfo,
    device: TracedDevice,
    decoder: Decoder,
    sampler: Sampler,
    steps: Steps,
    step: TracedStep,
    /// The newest step's hidden rows, once they have been asked for.
    hidden: OnceCell<Vec<f32>>,
}

impl TracedExecutor {
    /// Loads the plugin, binds the model's weights on every rank's device, and makes the KV cache.
    ///
    /// # Errors
    /// When the plugin cannot be loaded, has too few devices or fails, when the files do not fit the configuration, the layout is
    /// impossible, or the memory cannot be had.
    pub fn load(model: &Model, options: &ExecutorOptions) -> Result<Self, ExecutorError> {
        TracedExecutor::load_with(model, options, Kernels::default())
    }

    /// As [`TracedExecutor::load`], with kernels that take the place of composed ops.
    ///
    /// # Errors
    /// As [`TracedExecutor::load`].
    pub fn load_with(model: &Model, options: &ExecutorOptions, kernels: Kernels) -> Result<Self, ExecutorError> {
        let ranks = options.ranks()?;
        let element = match options.kv.dtype {
            KvDtype::F32 => Element::F32,
            KvDtype::F16 => Element::F16,
            KvDtype::BF16 => Element::BF16,
            dtype @ (KvDtype::I8 | KvDtype::E4M3) => {
                return Err(ExecutorError::KvDtype { device: options.device.clone(), dtype });
            }
        };
        let spec = model.spec();
        let mut manifest = Manifest::new(Mesh::tensor(ranks));
        let decoder = Decoder::new(&mut Params::new(&mut manifest), spec);
        let sampler = Sampler::new(&decoder);
        let manifest = Arc::new(manifest);
        let weights = model.weights(&manifest)?;

        let (client, target) = plugin::open(&options.device, ranks)?;
        let mut traced = TracedOptions::of(target);
        if let Some(dtype) = options.dtype {
            traced.dtype = plugin::element(dtype);
        }
        traced.kernels = kernels;
        traced.max_rows = options.kv.max_num_batched_tokens.max(1).next_power_of_two();
        traced.cache = ProgramCache::default_folder().map(|folder| ProgramCache::open(&folder, CACHE_BYTES));
        let mut device = TracedDevice::bind(client, Arc::clone(&manifest), &weights, traced)?;
        let budget_bytes = budget(&device, options.kv.budget_bytes);
        let groups = KvGroup::all(&manifest, options.kv.dtype);
        let plan = kv::plan(&groups, spec.max_position_embeddings, &options.kv, |_| budget_bytes)?;
        device.allocate_kv(&plan.num_blocks, options.kv.block_size, element)?;
        let info = ModelInfo {
            vocab_size: spec.vocab_size,
            hidden_size: spec.hidden_size,
            max_model_len: plan.max_model_len,
            block_size: options.kv.block_size,
            kv_groups: manifest.kv_groups().into_iter().zip(plan.num_blocks).collect(),
            kv_token_bytes: groups.iter().map(|group| group.token_bytes).collect(),
            weights_bytes: device.weights_bytes(),
            // Programs multiply with every expert and drop what was not chosen.
            mixtures: Vec::new(),
            kv_bytes: device.kv_bytes(),
            kernels: Vec::new(),
            kv_dtype: options.kv.dtype.to_string(),
            rope_lens_differ_from: manifest.ropes().iter().filter_map(RopeSpec::lengths_differ_from).min(),
        };
        let (step, hidden) = (TracedStep::default(), OnceCell::new());
        Ok(TracedExecutor { info, device, decoder, sampler, steps: Steps::default(), step, hidden })
    }

    /// The device, for a look at its programs.
    pub fn device(&self) -> &TracedDevice {
        &self.device
    }
}

/// The KV budget on all ranks together: what was asked for, within nine tenths of what the devices have free.
fn budget(device: &TracedDevice, asked: usize) -> usize {
    /// Where a plugin does not say what memory its devices have.
    const UNKNOWN: usize = 1 << 30;
    let free = |rank| {
        let memory = device.client().device_memory(rank).ok()?;
        usize::try_from(memory.limit_bytes?.checked_sub(memory.in_use_bytes)?).ok()
    };
    let least = (0..device.ranks()).map(free).min().flatten().filter(|free| *free > 0);
    match least {
        Some(free) => asked.min((free / 10 * 9).saturating_mul(device.ranks())),
        None if asked == KvOptions::WHAT_IS_LEFT => UNKNOWN,
        None => asked,
    }
}

impl Executor for TracedExecutor {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepId, ExecutorError> {
        batch.validate(self.info.vocab_size, &self.info.kv_groups, self.info.block_size)?;
        if let Some(id) = batch.adapters.iter().flatten().next() {
            return Err(ExecutorError::Adapter { id: id.0 });
        }
        let decoder = &self.decoder;
        self.step = self.device.forward(batch, |tracer| decoder.forward(tracer, batch.capture))?;
        self.hidden = OnceCell::new();
        Ok(self.steps.ran(batch))
    }

    fn sample(&mut self, step: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        self.steps.check_sampling(step, sampling)?;
        let sampler = &self.sampler;
        let (drawn, logits) = self.device.sample(&self.step, sampling, |tracer| sampler.forward(tracer))?;
        Ok(StepOutput { drawn, logits })
    }

    fn hidden(&self, step: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError> {
        self.steps.check(step)?;
        let values = match self.hidden.get() {
            Some(values) => values,
            None => {
                let values = self.device.hidden(&self.step)?;
                self.hidden.get_or_init(|| values)
            }
        };
        let shape = (self.steps.wanted(), self.info.hidden_size);
        Ok(ArrayView2::from_shape(shape, values).expect("a step keeps all wanted rows"))
    }

    fn captured(&self, step: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError> {
        self.steps.check(step)?;
        Ok(&self.step.layers)
    }
}
