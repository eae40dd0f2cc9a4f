//! One rank: a device, and the model that runs on it.

use nxd_cpu::{CpuDevice, CpuError, Outputs};
use nxd_modules::{Decoder, Sampler};
use nxd_ops::{Batch, SamplingBatch};
use std::sync::Arc;

/// Rows of logits that are made at once: bounds their memory, whatever the batch.
pub(crate) const TILE: usize = 64;

/// One rank of a model.
pub(crate) struct Rank {
    pub(crate) device: CpuDevice,
    decoder: Arc<Decoder>,
    sampler: Sampler,
    hidden_size: usize,
    /// The newest step's outputs.
    pub(crate) outputs: Outputs,
}

impl Rank {
    pub(crate) fn new(device: CpuDevice, decoder: Arc<Decoder>, hidden_size: usize) -> Self {
        let sampler = Sampler::new(&decoder);
        Rank { device, decoder, sampler, hidden_size, outputs: Outputs::default() }
    }

    /// Runs the decoder; the wanted rows stay with the rank.
    pub(crate) fn forward(&mut self, batch: &Batch) -> Result<(), CpuError> {
        let mut step = self.device.open(batch);
        self.decoder.forward(&mut step, batch.capture);
        self.outputs = step.close()?;
        Ok(())
    }

    /// Runs the head and draws, tile by tile, on the rows of the newest forward step.
    pub(crate) fn sample(&mut self, sampling: &SamplingBatch) -> Result<Outputs, CpuError> {
        let mut all = Outputs::default();
        let tiles = self.outputs.hidden.chunks(TILE * self.hidden_size).zip(sampling.rows.chunks(TILE));
        for (hidden, rows) in tiles {
            let tile = SamplingBatch { rows: rows.to_vec(), keep_logits: sampling.keep_logits };
            let mut step = self.device.open_sampling(hidden, &tile);
            self.sampler.forward(&mut step);
            let outputs = step.close()?;
            all.drawn.extend(outputs.drawn);
            all.logits.extend(outputs.logits);
        }
        Ok(all)
    }
}
