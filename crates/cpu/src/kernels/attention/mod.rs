//! Attention over a paged KV cache: scores, softmax and weighted V of every row of a ragged batch, prefill chunks and decode rows alike.
//!
//! A row attends to K and V as stored, its own included, in partitions of 256 tokens that are anchored at position 0: softmax inside each
//! (`partition`), merged in order (`member`). A row's bits depend on its position and the layer's window alone, not on the batch, the
//! chunking, the block size, the tiling or the threads (`plan`).

mod blocks;
mod floats;
mod member;
mod partition;
mod plan;
mod queries;
mod rows;
mod scores;
pub(crate) mod store;
mod stored;
#[cfg(test)]
mod tests;
mod tiled;
mod weigh;

use self::member::Job;
use self::plan::{PlanKey, Plans};
use self::stored::{E4m3, Stored};
use crate::floats::Floats;
use crate::isa::Isa;
use crate::kernels::lanes::dispatch;
use crate::kv::{KvCache, KvDtype, Place, TILE};
use crate::team::{Chunks, Disjoint, Team};
use half::{bf16, f16};
use nxd_ops::{AttendSpec, KvSpec};
use std::marker::PhantomData;

/// Pairs of a row and a token, times `D`, below which the leader works alone: some 3 µs of work.
const ALONE: usize = 32 * 1024;

/// What rows attend to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// The cache of the layer's KV group; its spec has the window.
    pub cache: &'a KvCache,
    /// Layer, batch and tables.
    pub place: Place<'a>,
    /// Heads, scale and cap.
    pub spec: &'a AttendSpec,
    /// A logit for each query head that joins the sum and has no value.
    pub sinks: Option<&'a [f32]>,
}

/// Work space, which grows to what calls need and stays.
#[derive(Debug, Default)]
pub struct AttendScratch {
    plans: Plans,
    /// A part for each member.
    members: Floats,
    /// Results over single partitions.
    partials: Floats,
}

/// Attention of the queries `q` `[T, H * D]` over the blocks of their requests: causal, within the window if there is one, and query heads
/// `h * group..(h + 1) * group` with KV head `h`. Writes `out` `[T, H * D]`, of a head as many values as V has.
///
/// # Panics
/// If `q`, `out` or the sinks have another shape, the heads are not a multiple of the KV heads, or the tables do not cover the visible
/// tokens.
pub fn attend(team: &Team, isa: Isa, q: &[f32], attend: &Attend<'_>, out: &mut [f32], scratch: &mut AttendScratch) {
    let (spec, shape) = (attend.spec, attend.cache.shape());
    let heads = attend.place.batch.num_tokens() * spec.num_heads;
    assert!(
        q.len() == heads * shape.dim && out.len() == heads * shape.value_dim,
        "a row of H * D values for each token of the batch"
    );
    assert!(
        spec.num_heads > 0 && spec.num_heads.is_multiple_of(shape.heads),
        "{} query heads over {} KV heads",
        spec.num_heads,
        shape.heads
    );
    assert!(attend.sinks.is_none_or(|sinks| sinks.len() == spec.num_heads), "a sink for each query head");
    match attend.cache.dtype() {
        KvDtype::F32 => attend_as::<f32>(team, isa, q, attend, out, scratch),
        KvDtype::F16 => attend_as::<f16>(team, isa, q, attend, out, scratch),
        KvDtype::BF16 => attend_as::<bf16>(team, isa, q, attend, out, scratch),
        KvDtype::I8 => attend_as::<i8>(team, isa, q, attend, out, scratch),
        KvDtype::E4M3 => attend_as::<E4m3>(team, isa, q, attend, out, scratch),
    }
}

fn attend_as<T: Stored>(
    team: &Team,
    isa: Isa,
    q: &[f32],
    attend: &Attend<'_>,
    out: &mut [f32],
    scratch: &mut AttendScratch,
) {
    let shape = attend.cache.shape();
    let AttendScratch { plans, members, partials } = scratch;
    let group = attend.spec.num_heads / shape.heads;
    let (window, chunk) = (attend.cache.spec().window, attend.spec.chunk);
    let key = PlanKey { shape: *shape, group, window, chunk, members: team.threads() };
    let plan = plans.get(&key, attend.place.batch);
    let each = member::scratch_len(plan.most_rows, shape.dim, shape.padded);
    let members = members.grown(grown(each * team.threads()));
    let partials = partials.grown(grown(plan.partials));
    let job = Job::<T> {
        plan,
        chunks: &Chunks::new(plan.units.len()),
        attend,
        q,
        out: &Disjoint::new(out),
        partials: &Disjoint::new(partials),
        stored: PhantomData,
    };
    let members = Disjoint::new(members);
    if team.threads() == 1 || plan.cost * shape.dim < ALONE {
        // SAFETY: nobody else uses the scratch.
        let scratch = unsafe { members.slice(0..each) };
        return dispatch(isa, job.of(None, scratch));
    }
    team.run(&|member| {
        // SAFETY: each member takes the part of its number.
        let scratch = unsafe { members.slice(member.id * each..(member.id + 1) * each) };
        dispatch(isa, job.of(Some(member), scratch));
    });
}

/// Memory grows in powers of two, as a context grows with every token.
fn grown(len: usize) -> usize {
    len.checked_next_power_of_two().unwrap_or(usize::MAX)
}

/// Rows that a step may have, and what they attend with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Rows of all requests together.
    pub(crate) tokens: usize,
    /// Query heads.
    pub(crate) num_heads: usize,
    /// What the layer keeps.
    pub(crate) kv: KvSpec,
    /// Members of the team.
    pub(crate) threads: usize,
}

impl Demand {
    /// Bytes that [`AttendScratch`] grows to at most, where requests have up to `context` tokens.
    pub(crate) fn scratch_bytes(&self, context: usize) -> usize {
        let Demand { tokens, num_heads, kv, threads } = *self;
        let (dim, padded) = (kv.head_dim, kv.value_dim().next_multiple_of(TILE));
        let group = num_heads.div_ceil(kv.num_kv_heads.max(1)).max(1);
        let queries = plan::most_queries(group).min(tokens);
        let rows = queries * group;
        let members = member::scratch_len(rows, dim, padded).saturating_mul(threads);
        // Fewer tiles than this many are each large enough to be split; each of them has a partial result for every partition it sees.
        let split = if threads > 1 { plan::most_split(threads).min(tokens.saturating_mul(kv.num_kv_heads)) } else { 0 };
        let seen = context.min(kv.window.map_or(usize::MAX, |window| window.saturating_add(queries)));
        let parts = seen.div_ceil(plan::PART).saturating_add(1);
        let rows_split = split.saturating_mul(rows).min(tokens.saturating_mul(num_heads));
        let partials = plan::partial_len(rows, padded).saturating_mul(rows_split.div_ceil(rows.max(1)));
        let values = grown(members).saturating_add(grown(partials.saturating_mul(parts)));
        values.saturating_mul(size_of::<f32>())
    }
}
