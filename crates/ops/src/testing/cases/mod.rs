//! The cases, by op. A case makes its model and batches from a seed, and panics where the device differs from the reference.

mod attend;
mod custom;
mod draw;
mod elementwise;
mod embed;
mod experts;
mod linear;
mod map;
mod norm;
mod parallel;
mod position;
mod rope;

pub use attend::{attend, attend_copied, attend_past_poison, attend_with_sinks_and_caps};
pub use custom::custom;
pub use draw::{
    draw_biased, draw_filtered, draw_forbidden, draw_greedy, draw_logprobs, draw_not_finite, draw_penalised,
    draw_targets,
};
pub use elementwise::{add, bias, gated, scale, shared_operands};
pub use embed::{embed, embed_tied, select_rows};
pub use experts::{experts, experts_over_ranks, route, route_by_groups, route_by_sparsemixer};
pub use linear::{head, linear_blocks, linear_floats, linear_gated, linear_permuted, linear_scaled, linears};
pub use map::map;
pub use norm::{add_norm, norm, norm_of_heads, norm_over_ranks};
pub use parallel::{
    all_reduce, attend_over_ranks, embed_over_ranks, gather_columns, head_over_ranks, linear_over_ranks,
};
pub use position::positions;
pub use rope::{rope, rope_of_request_length};

use crate::format::Format;

/// The formats that are numbers as they are.
const FLOATS: [Format; 3] = [Format::F32, Format::F16, Format::BF16];
/// The formats that are bytes under scales of a tensor, of its rows or of blocks.
const SCALED: [Format; 3] = [Format::I8, Format::E4M3, Format::E5M2];

/// Every format.
fn every_format() -> Vec<Format> {
    Format::all().collect()
}
