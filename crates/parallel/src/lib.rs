//! Parallel primitives: linear layers, embedding and head whose weights are spread over the ranks of an axis.
//!
//! A layer declares its weights once, with their sharding, and its `forward` asks the open step for the collective that its cut needs.
//! One declaration and one program serve every rank: no layer knows which rank it runs on.
//!
//! ```
//! use nxd_collectives::Mesh;
//! use nxd_ops::{Manifest, Params, ShardLayout};
//! use nxd_parallel::{ColumnParallelLinear, RowParallelLinear};
//! use std::sync::Arc;
//!
//! let mut manifest = Manifest::new(Mesh::tensor(2));
//! let mut params = Params::new(&mut manifest);
//! let hidden = Arc::new(ShardLayout::even(96, 2)); // the 96 hidden columns, 48 on each rank
//! let up = ColumnParallelLinear::new(&mut params.scope("up"), 32, &hidden, 96, false);
//! let down = RowParallelLinear::new(&mut params.scope("down"), &hidden, 96, 32, false);
//! # let _ = (up, down);
//! ```
//!
//! *Does not know*: devices, checkpoints, attention, or what a layer is for.

mod embedding;
mod expert;
mod heads;
mod linear;

pub use embedding::{VocabParallelEmbedding, VocabParallelHead};
pub use expert::{expert, router};
pub use heads::HeadSharding;
pub use linear::{ColumnParallelLinear, HeadParallelLinear, RowParallelLinear};
