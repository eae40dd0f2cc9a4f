//! Attention over a paged KV cache: scores, softmax and weighted V of every row of a ragged batch, prefill chunks and decode rows alike.
//!
//! A row attends to K and V as stored, its own included, in partitions of 256 tokens that are anchored at position 0: softmax inside each
//! (`partition`), merged in order (`member`). A row's bits depend on its position and the layer's window alone, not on the batch, the
//! chunking, the block size, the tiling or the threads (`plan`).

mod blocks;
mod member;
mod partition;
mod plan;
mod queries;
mod scores;
pub(crate) mod store;
mod stored;
#[cfg(test)]
mod tests;
mod tiled;
mod weigh;

use self::member::Job;
use self::plan::{PlanKey, Plans};
use self::stored::Stored;
use crate::isa::Isa;
use crate::kernels::lanes::dispatch;
use crate::kv::{KvCache, KvDtype, Place};
use crate::team::{Chunks, Disjoint, Team};
use half::{bf16, f16};
use nxd_ops::AttendSpec;
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
    members: Vec<f32>,
    /// Results over single partitions.
    partials: Vec<f32>,
}

/// Attention of the queries `q` `[T, H * D]` over the blocks of their requests: causal, within the window if there is one, and query heads
/// `h * group..(h + 1) * group` with KV head `h`. Writes `out` `[T, H * D]`.
///
/// # Panics
/// If `q`, `out` or the sinks have another shape, the heads are not a multiple of the KV heads, or the tables do not cover the visible
/// tokens.
pub fn attend(team: &Team, isa: Isa, q: &[f32], attend: &Attend<'_>, out: &mut [f32], scratch: &mut AttendScratch) {
    let (spec, shape) = (attend.spec, attend.cache.shape());
    let values = attend.place.batch.num_tokens() * spec.num_heads * shape.dim;
    assert!(q.len() == values && out.len() == values, "a row of H * D values for each token of the batch");
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
    let key = PlanKey { shape: *shape, group, window: attend.cache.spec().window, members: team.threads() };
    let plan = plans.get(&key, attend.place.batch);
    let each = member::scratch_len(plan.most_rows, shape);
    grow(members, each * team.threads());
    grow(partials, plan.partials);
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

/// Grows in powers of two, as a context grows with every token.
fn grow(values: &mut Vec<f32>, len: usize) {
    if values.len() < len {
        values.resize(len.next_power_of_two(), 0.0);
    }
}
