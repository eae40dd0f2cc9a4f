//! The CPU device under the op suite.

use nxd_collectives::{ProcessGroup, ThreadGroup};
use nxd_cpu::{Activations, CpuDevice, CpuOptions, KvDtype, Outputs};
use nxd_ops::testing::{Emitted, Harness, KvSetup, Model, Op, Program, SampleResult};
use nxd_ops::{Batch, Format, Output, SamplingBatch};
use std::sync::Arc;
use std::time::Duration;

/// One numeric mode of the device.
#[derive(Clone, Copy)]
pub(super) struct Cpu {
    pub(super) options: CpuOptions,
    pub(super) kv: KvDtype,
}

impl Cpu {
    /// What `on_rank` gives on the first rank, while all ranks of the model run it.
    fn run<T: Send>(self, model: &Model, on_rank: impl Fn(CpuDevice) -> T + Sync) -> T {
        let device = |rank: usize, group: Option<ProcessGroup>| {
            CpuDevice::bind(Arc::clone(&model.manifest), model, rank, group, self.options).unwrap()
        };
        if model.ranks() == 1 {
            return on_rank(device(0, None));
        }
        let on_rank = &on_rank;
        std::thread::scope(|scope| {
            let groups = ThreadGroup::new(model.ranks(), Duration::from_secs(60));
            let spawn = |(rank, group)| scope.spawn(move || on_rank(device(rank, Some(group))));
            let ranks: Vec<_> = groups.into_iter().enumerate().map(spawn).collect();
            let mut results = ranks.into_iter().map(|rank| rank.join().unwrap());
            let first = results.next().unwrap();
            results.for_each(drop);
            first
        })
    }
}

impl Harness for Cpu {
    fn forward<P: Program>(&mut self, model: &Model, kv: &KvSetup, batches: &[Batch], program: &P) -> Vec<Emitted> {
        self.run(model, |mut device| {
            device.allocate_kv(&kv.num_blocks, kv.block_size, self.kv).unwrap();
            let step = |batch| {
                let mut step = device.open(batch);
                program.record(&mut step);
                let Outputs { hidden, layers, .. } = step.close().unwrap();
                layers.into_iter().chain([(Output::Hidden, hidden)]).collect()
            };
            batches.iter().map(step).collect()
        })
    }

    fn sample<P: Program>(
        &mut self,
        model: &Model,
        hidden: &[f32],
        sampling: &SamplingBatch,
        program: &P,
    ) -> SampleResult {
        self.run(model, |mut device| {
            let mut step = device.open_sampling(hidden, sampling);
            program.record(&mut step);
            let Outputs { logits, drawn, .. } = step.close().unwrap();
            SampleResult { logits, drawn }
        })
    }

    fn tolerance(&self, op: Op) -> f64 {
        let int8 = self.options.activations == Activations::Int8;
        match op {
            // Rows are copied; scales of blocks are the reference's own.
            Op::Embed(_) | Op::SelectRows | Op::Collective => 0.0,
            // Activations become 127 steps of the largest of 32.
            Op::Linear(format) | Op::Head(format) if int8 && format.is_quantised() => 0.02,
            // Both sides become 8192 steps.
            Op::Linear(Format::F16 | Format::BF16) | Op::Head(Format::F16 | Format::BF16) if int8 => 1e-3,
            // Half precision has 11 bits.
            Op::Attend if self.kv == KvDtype::F16 => 2e-3,
            _ => 5e-6,
        }
    }
}
