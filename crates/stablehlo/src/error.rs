//! What the traced device reports.

use crate::kernel::NkiError;
use crate::target::RuleBroken;
use nxd_ops::SourceError;
use nxd_runtime::pjrt::PjrtError;

/// An error of the traced device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The plugin failed.
    #[error("{doing}")]
    Plugin {
        /// What was asked of it.
        doing: String,
        /// What it says.
        #[source]
        source: PjrtError,
    },
    /// A weight cannot be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A kernel could not be compiled.
    #[error("program `{program}` holds a kernel that is not compiled")]
    Nki {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: Box<NkiError>,
    },
    /// The program breaks a rule of its target.
    #[error("program `{program}` cannot run on {target}")]
    Rule {
        /// The program.
        program: String,
        /// The target.
        target: &'static str,
        /// The op and the rule.
        #[source]
        source: Box<RuleBroken>,
    },
    /// More ranks than devices.
    #[error("{ranks} ranks need as many devices, {platform} has {devices}")]
    Devices {
        /// Ranks asked for.
        ranks: usize,
        /// Devices there are.
        devices: usize,
        /// The platform.
        platform: String,
    },
    /// An earlier step failed after it had taken over the cache.
    #[error("the KV cache was lost when an earlier step failed; load the model again")]
    CacheLost,
    /// A block size that cannot be.
    #[error("a KV block of {0} tokens is not possible; use 1 to 4096")]
    BlockSize(usize),
    /// The results of a compiled program are not those that were recorded.
    #[error("program `{program}` was compiled to {found} results, {expected} were recorded; remove the program cache")]
    Results {
        /// The program.
        program: String,
        /// Results of the executable.
        found: usize,
        /// Results of the recording.
        expected: usize,
    },
}
