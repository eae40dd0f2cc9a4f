//! Meshes, process groups and collective operations with deadlines, between the ranks of one model.
//!
//! ```
//! use std::time::Duration;
//! use nxd_collectives::ThreadGroup;
//!
//! let groups = ThreadGroup::new(2, Duration::from_secs(10));
//! std::thread::scope(|scope| {
//!     for group in groups {
//!         scope.spawn(move || {
//!             let mut values = [1.0, group.rank() as f32];
//!             group.all_reduce_sum(&mut values)?;
//!             assert_eq!(values, [2.0, 1.0]);
//!             Ok::<_, nxd_collectives::CollectiveError>(())
//!         });
//!     }
//! });
//! ```
//!
//! **Does not know** tensors, devices or models: it moves slices of plain values. Three promises hold for every operation:
//!
//! - *Sums have one order.* Every element is `((r0 + r1) + r2) + …` over the ranks, at every length and group size, so its
//!   bits depend on the inputs alone.
//! - *Nothing hangs.* Every operation has a deadline, and a rank that ends, panics or aborts ends the group: all others get a
//!   [`CollectiveError`] that names it, now and on every later call.
//! - *No allocation* once the buffers have grown to the longest message.
//!
//! Reading order: `mesh` (the layout as data), `error`, `group` (the operations, and how each cuts its buffers), `threads`
//! (how blocks travel between threads of one process). Another transport takes the place of `threads::Place`: it has to post
//! a block, meet, and read the blocks of the others; cuts, checks and the order of sums are in `group`.

mod error;
mod group;
mod mesh;
mod threads;

pub use error::{CollectiveError, Operation};
pub use group::{ProcessGroup, share_of};
pub use mesh::{Axis, Mesh};
pub use threads::ThreadGroup;
