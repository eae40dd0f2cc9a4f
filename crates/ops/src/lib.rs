//! The vocabulary between models and devices.
//!
//! A model is written once, against [`Ops`], and runs on any device that implements it. This crate holds that trait and the plain
//! data both sides speak: weight declarations ([`Manifest`], [`Params`], [`WeightSpec`]), storage formats ([`Format`]), the specs of
//! ops ([`NormSpec`], [`RopeSpec`], [`AttendSpec`], [`KvSpec`]), one step's input ([`Batch`], [`SamplingBatch`]) and its result.
//!
//! ```
//! use nxd_collectives::Mesh;
//! use nxd_ops::{Manifest, Params, Role, Sharding};
//!
//! let mut manifest = Manifest::new(Mesh::single());
//! let mut params = Params::new(&mut manifest);
//! let weight = params.scope("model").scope("norm").weight("weight", Role::Vector, [64, 1], Sharding::Replicated);
//! assert_eq!(manifest.spec(weight).name, "model.norm.weight");
//! ```
//!
//! *Does not know*: any device, file format container, model family, or thread. Of the collectives it knows `Mesh` and `Axis` only.
//!
//! Reading order: [`format`](mod@format), [`quant`], [`weight`], [`spec`], [`experts`], [`ops`], [`kernel`], [`adapter`], [`batch`], [`sampling`],
//! [`philox`]; with the feature `testing` also `testing`, the op suite that every device's tests run.

pub mod adapter;
pub mod batch;
pub mod experts;
pub mod format;
pub mod kernel;
pub mod ops;
pub mod philox;
pub mod quant;
pub mod sampling;
pub mod spec;
#[cfg(feature = "testing")]
pub mod testing;
pub mod weight;

pub use nxd_collectives::{Axis, Mesh};

pub use adapter::{AdapterId, LowRank};
pub use batch::{Batch, BatchError, Capture, GroupTables};
pub use experts::{Expert, ExpertsSpec, GroupWorth, Projection, RouterGroups, RouterSpec, Score, TopKRouter, Weighing};
pub use format::{BlockFormat, Format};
pub use kernel::{Attribute, Kernel};
pub use ops::{Input, Ops, Output, Rows};
pub use sampling::{Drawn, SamplingBatch, SamplingParams, SamplingRow, TokenLogprob};
pub use spec::{
    AttendSpec, Centre, Gated, KvLayer, KvSpec, Map, NormSpec, Rope, RopeScaling, RopeSpec, Spread, Temperature, Values,
};
pub use weight::{
    Dim, LocalWeight, Manifest, Params, Role, Scales, Segment, ShardLayout, Sharding, SharedBytes, SourceError,
    StoredData, StoredRows, StoredWeight, Weight, WeightSource, WeightSpec,
};
