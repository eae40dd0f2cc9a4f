//! Weights: declared by modules, stored in checkpoints, cut for a rank.
//!
//! Declaring needs no bytes and no device. A module asks [`Params`] for a [`Weight`] handle and says name, shape and sharding once;
//! the resulting [`Manifest`] is what loaders, planners, sharders and devices work from. A device binds a manifest to a
//! [`WeightSource`] and takes each weight as a [`LocalWeight`]: the stored rows, seen through one rank's shard.

mod local;
mod manifest;
mod shard;
mod source;

pub use local::{InputSpan, LocalWeight, RowReader, ScaleRun};
pub use manifest::{Manifest, Params, Role, Weight, WeightSpec};
pub use shard::{Dim, Segment, ShardLayout, Sharding};
pub use source::{ByteOwner, Scales, SharedBytes, SourceError, StoredData, StoredRows, StoredWeight, WeightSource};
