//! Which step is the newest, and how many rows it has: what every executor checks before it reads a step.

use crate::error::ExecutorError;
use crate::executor::StepId;
use nxd_ops::{Batch, SamplingBatch};

/// The count of an executor's steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    newest: u64,
    wanted: usize,
}

impl Steps {
    /// Counts a step that has run.
    pub(crate) fn ran(&mut self, batch: &Batch) -> StepId {
        self.newest += 1;
        self.wanted = batch.wanted.len();
        StepId(self.newest)
    }

    /// Rows that the newest step has.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Only the newest step can be read.
    pub(crate) fn check(&self, step: StepId) -> Result<(), ExecutorError> {
        if step.0 == self.newest { Ok(()) } else { Err(ExecutorError::Step { asked: step.0, newest: self.newest }) }
    }

    /// Only the newest step can be sampled, with a row for each of its own.
    pub(crate) fn check_sampling(&self, step: StepId, sampling: &SamplingBatch) -> Result<(), ExecutorError> {
        self.check(step)?;
        let (found, expected) = (sampling.rows.len(), self.wanted);
        if found == expected { Ok(()) } else { Err(ExecutorError::SamplingRows { found, expected }) }
    }
}
