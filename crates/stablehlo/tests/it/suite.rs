//! The op suite on the traced device.

use crate::plugin::client;
use nxd_ops::testing::{Emitted, Harness, KvSetup, Model, Op, Program, SampleResult};
use nxd_ops::{Batch, BlockFormat, Format, Output, SamplingBatch};
use nxd_stablehlo::device::{TracedDevice, TracedOptions};
use nxd_stablehlo::record::Element;
use nxd_stablehlo::target::Target;
use std::sync::Arc;

struct Traced;

impl Traced {
    fn bind(model: &Model) -> TracedDevice {
        let manifest = Arc::clone(&model.manifest);
        TracedDevice::bind(client(), manifest, model, TracedOptions::of(Target::CPU)).unwrap()
    }
}

impl Harness for Traced {
    fn forward<P: Program>(&mut self, model: &Model, kv: &KvSetup, batches: &[Batch], program: &P) -> Vec<Emitted> {
        let mut device = Traced::bind(model);
        device.allocate_kv(&kv.num_blocks, kv.block_size.max(1), Element::F32).unwrap();
        let step = |batch| {
            let step = device.forward(batch, |tracer| program.record(tracer)).unwrap();
            let hidden = device.hidden(&step).unwrap();
            step.layers.into_iter().chain([(Output::Hidden, hidden)]).collect()
        };
        batches.iter().map(step).collect()
    }

    fn sample<P: Program>(
        &mut self,
        model: &Model,
        hidden: &[f32],
        sampling: &SamplingBatch,
        program: &P,
    ) -> SampleResult {
        let mut device = Traced::bind(model);
        let step = device.open_rows(hidden, hidden.len() / sampling.rows.len()).unwrap();
        let (drawn, logits) = device.sample(&step, sampling, |tracer| program.record(tracer)).unwrap();
        SampleResult { logits, drawn }
    }

    fn tolerance(&self, op: Op) -> f64 {
        match op {
            // `scale * q + minimum` for `scale * (q - zero)`: the minimum is rounded.
            Op::Embed(Format::Blocks(BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8)) => 1e-6,
            Op::Embed(_) | Op::SelectRows | Op::Collective => 0.0,
            // The compiler's own sines and exponentials, and sums in its own order.
            _ => 1e-5,
        }
    }

    fn rounds(&self) -> u64 {
        // Every round compiles programs of its own.
        1
    }
}

nxd_ops::op_suite!(Traced);
