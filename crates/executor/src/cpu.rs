//! The executor of the eager device: ranks are threads of this process.

use crate::device::{Device, Dtype};
use crate::error::ExecutorError;
use crate::executor::{Executor, Mixture, ModelInfo, StepId, StepOutput};
use crate::memory;
use crate::options::ExecutorOptions;
use crate::plan::MemoryNeeds;
use crate::rank::Rank;
use crate::steps::Steps;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ndarray::ArrayView2;
use nxd_collectives::{ProcessGroup, ThreadGroup};
use nxd_cpu::{CpuDevice, CpuError};
use nxd_models::Model;
use nxd_modules::{Decoder, Moe};
use nxd_ops::{AdapterId, Batch, LowRank, Manifest, Mesh, Output, Params, RopeSpec, SamplingBatch};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A model on the CPU. The first rank runs on the caller's thread, the others on threads of their own.
pub struct CpuExecutor {
    info: ModelInfo,
    first: Rank,
    others: Vec<Other>,
    steps: Steps,
    step_timeout: Duration,
    adapters: BTreeSet<AdapterId>,
    next_adapter: u32,
}

/// A rank on a thread of its own.
struct Other {
    rank: usize,
    commands: Sender<Command>,
    replies: Receiver<Result<(), CpuError>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Forward(Arc<Batch>),
    Sample(Arc<SamplingBatch>),
    BindAdapter(AdapterId, Arc<[LowRank]>),
    DropAdapter(AdapterId),
}

impl CpuExecutor {
    /// Declares the model, binds its weights on every rank, and makes the KV cache. The options' device is not looked at.
    ///
    /// # Errors
    /// When another type than f32 is asked for, the files do not fit the configuration, the layout is impossible, or the memory cannot be had.
    pub fn load(model: &Model, options: &ExecutorOptions) -> Result<Self, ExecutorError> {
        // Arithmetic is f32 whatever the weights are stored as, so f32 asks for nothing else than the default.
        if let Some(dtype @ (Dtype::BF16 | Dtype::F16)) = options.dtype {
            return Err(ExecutorError::Dtype { device: Device::Cpu, dtype });
        }
        let ranks = options.ranks()?;
        let spec = model.spec();
        let mut manifest = Manifest::new(Mesh::tensor(ranks));
        let decoder = Arc::new(Decoder::new(&mut Params::new(&mut manifest), spec));
        let manifest = Arc::new(manifest);
        let weights = model.weights(&manifest)?;
        let plan =
            MemoryNeeds::declared(spec, &manifest, &decoder, &weights, options)?.plan(&options.kv, &memory::look())?;

        let cpu = options.of_rank(ranks);
        let groups: Vec<Option<ProcessGroup>> = match ranks {
            1 => vec![None],
            _ => ThreadGroup::new(ranks, options.step_timeout).into_iter().map(Some).collect(),
        };
        let bind = |(rank, group)| -> Result<Rank, ExecutorError> {
            let failed = |source| ExecutorError::Rank { rank, source };
            let mut device = CpuDevice::bind(Arc::clone(&manifest), &weights, rank, group, cpu).map_err(failed)?;
            device.allocate_kv(&plan.num_blocks, options.kv.block_size, options.kv.dtype).map_err(failed)?;
            Ok(Rank::new(device, Arc::clone(&decoder), spec.hidden_size))
        };
        let bound = groups.into_iter().enumerate().map(bind).collect::<Result<Vec<_>, _>>()?;

        let info = ModelInfo {
            vocab_size: spec.vocab_size,
            hidden_size: spec.hidden_size,
            max_model_len: plan.max_model_len,
            block_size: options.kv.block_size,
            kv_groups: manifest.kv_groups().into_iter().zip(plan.num_blocks).collect(),
            kv_token_bytes: plan.needs.kv_groups.iter().map(|group| group.token_bytes).collect(),
            weights_bytes: bound.iter().map(|r| r.device.weights_bytes()).sum(),
            mixtures: mixtures(&decoder, &bound),
            kv_bytes: bound.iter().map(|r| r.device.kv_bytes()).sum(),
            kernels: bound.first().map(|r| r.device.kernels()).unwrap_or_default(),
            kv_dtype: options.kv.dtype.to_string(),
            rope_lens_differ_from: manifest.ropes().iter().filter_map(RopeSpec::lengths_differ_from).min(),
        };
        let mut bound = bound.into_iter();
        let first = bound.next().expect("there is at least one rank");
        let others = bound.enumerate().map(|(i, rank)| Other::spawn(i + 1, rank)).collect::<Result<_, _>>()?;
        Ok(CpuExecutor {
            info,
            first,
            others,
            steps: Steps::default(),
            step_timeout: options.step_timeout,
            adapters: BTreeSet::new(),
            next_adapter: 0,
        })
    }

    /// Runs `run` on the first rank while the others run `command`.
    fn on_all_ranks<T>(
        &mut self,
        command: impl Fn() -> Command,
        run: impl FnOnce(&mut Rank) -> Result<T, CpuError>,
    ) -> Result<T, ExecutorError> {
        for other in &self.others {
            other.commands.send(command()).map_err(|_| other.lost("has ended"))?;
        }
        let result = run(&mut self.first);
        // Every rank is heard, so that none is left within the step; the first error is the one reported.
        let mut failure = None;
        for other in &self.others {
            let reply = match other.replies.recv_timeout(self.step_timeout) {
                Ok(Ok(())) => continue,
                Ok(Err(source)) => ExecutorError::Rank { rank: other.rank, source },
                Err(RecvTimeoutError::Timeout) => other.lost(&format!("did not answer within {:?}", self.step_timeout)),
                Err(RecvTimeoutError::Disconnected) => other.lost("has ended"),
            };
            failure.get_or_insert(reply);
        }
        match (failure, result) {
            (None, Ok(value)) => Ok(value),
            (Some(failure), Ok(_)) => Err(failure),
            (_, Err(source)) => Err(ExecutorError::Rank { rank: 0, source }),
        }
    }
}

impl Executor for CpuExecutor {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepId, ExecutorError> {
        batch.validate(self.info.vocab_size, &self.info.kv_groups, self.info.block_size)?;
        if let Some(id) = batch.adapters.iter().flatten().find(|id| !self.adapters.contains(id)) {
            return Err(ExecutorError::Adapter { id: id.0 });
        }
        let shared = if self.others.is_empty() { None } else { Some(Arc::new(batch.clone())) };
        self.on_all_ranks(|| Command::Forward(shared.clone().unwrap_or_default()), |rank| rank.forward(batch))?;
        Ok(self.steps.ran(batch))
    }

    fn sample(&mut self, step: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        self.steps.check_sampling(step, sampling)?;
        let shared = if self.others.is_empty() { None } else { Some(Arc::new(sampling.clone())) };
        let outputs =
            self.on_all_ranks(|| Command::Sample(shared.clone().unwrap_or_default()), |rank| rank.sample(sampling))?;
        Ok(StepOutput { drawn: outputs.drawn, logits: outputs.logits })
    }

    fn hidden(&self, step: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError> {
        self.steps.check(step)?;
        let shape = (self.steps.wanted(), self.info.hidden_size);
        Ok(ArrayView2::from_shape(shape, &self.first.outputs.hidden).expect("a step keeps all wanted rows"))
    }

    fn captured(&self, step: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError> {
        self.steps.check(step)?;
        Ok(&self.first.outputs.layers)
    }

    fn load_adapter(&mut self, parts: &Arc<[LowRank]>) -> Result<AdapterId, ExecutorError> {
        let id = AdapterId(self.next_adapter);
        let bound = self
            .on_all_ranks(|| Command::BindAdapter(id, Arc::clone(parts)), |rank| rank.device.bind_adapter(id, parts));
        // A rank that has it keeps it for nobody else: the number is not used again.
        self.next_adapter += 1;
        if let Err(error) = bound {
            self.on_all_ranks(
                || Command::DropAdapter(id),
                |rank| {
                    rank.device.drop_adapter(id);
                    Ok(())
                },
            )?;
            return Err(error);
        }
        self.adapters.insert(id);
        Ok(id)
    }

    fn unload_adapter(&mut self, id: AdapterId) -> Result<(), ExecutorError> {
        if !self.adapters.remove(&id) {
            return Err(ExecutorError::Adapter { id: id.0 });
        }
        self.on_all_ranks(
            || Command::DropAdapter(id),
            |rank| {
                rank.device.drop_adapter(id);
                Ok(())
            },
        )
    }
}

impl Other {
    fn spawn(index: usize, rank: Rank) -> Result<Self, ExecutorError> {
        let (commands, inbox) = bounded::<Command>(1);
        let (outbox, replies) = bounded(1);
        let serve = move || serve(rank, &inbox, &outbox);
        let thread = std::thread::Builder::new().name(format!("nxd-rank-{index}")).spawn(serve);
        match thread {
            Ok(thread) => Ok(Other { rank: index, commands, replies, thread: Some(thread) }),
            Err(error) => Err(ExecutorError::Lost { rank: index, what: format!("could not be started: {error}") }),
        }
    }

    fn lost(&self, what: &str) -> ExecutorError {
        ExecutorError::Lost { rank: self.rank, what: what.to_owned() }
    }
}

/// The mixtures of a decoder, those that are alike together.
fn mixtures(decoder: &Decoder, ranks: &[Rank]) -> Vec<Mixture> {
    let mut found: Vec<Mixture> = Vec::new();
    for (experts, chosen) in decoder.mixtures().map(Moe::choice) {
        let of_rank = |rank: &Rank| experts.iter().map(|expert| rank.device.expert_bytes(expert)).sum::<usize>();
        let bytes: usize = ranks.iter().map(of_rank).sum();
        match found.iter_mut().find(|m| (m.num_experts, m.chosen) == (experts.len(), chosen)) {
            Some(mixture) => mixture.bytes += bytes,
            None => found.push(Mixture { num_experts: experts.len(), chosen, bytes }),
        }
    }
    found
}

/// Serves commands until the executor is dropped.
fn serve(mut rank: Rank, inbox: &Receiver<Command>, outbox: &Sender<Result<(), CpuError>>) {
    // Iterating ends when the executor drops its sender: an idle wait without work, which needs no deadline.
    for command in inbox {
        let run = AssertUnwindSafe(|| match &command {
            Command::Forward(batch) => rank.forward(batch),
            Command::Sample(sampling) => rank.sample(sampling).map(drop),
            Command::BindAdapter(id, parts) => rank.device.bind_adapter(*id, parts),
            Command::DropAdapter(id) => {
                rank.device.drop_adapter(*id);
                Ok(())
            }
        });
        // A panic ends this thread; the dropped process group tells the peers.
        let Ok(result) = catch_unwind(run) else { return };
        if outbox.send(result).is_err() {
            return;
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let (closed, _) = bounded(0);
        self.commands = closed;
        if let Some(thread) = self.thread.take() {
            // A rank that panicked was reported by the step in which it did.
            let _ = thread.join();
        }
    }
}
