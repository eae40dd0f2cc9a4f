//! Writing K and V rows into their slots.

use super::stored::Stored;
use crate::isa::Isa;
use crate::kernels::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::kv::{KvDtype, Place, Shape, TILE};
use crate::team::{Disjoint, Team};
use half::{bf16, f16};

/// Values below which the leader writes alone.
const ALONE: usize = 16 * 1024;

/// A step's rows of K and V, both `[T, K * D]`, and where they go.
pub(crate) struct Rows<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) place: &'a Place<'a>,
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// Writes `rows` into a cache's `memory`.
pub(crate) fn store(team: &Team, isa: Isa, dtype: KvDtype, memory: &mut [u8], rows: &Rows<'_>) {
    let values = rows.place.batch.num_tokens() * rows.shape.heads * rows.shape.dim;
    assert!(rows.k.len() == values && rows.v.len() == values, "K and V have a row for each token of the batch");
    match dtype {
        KvDtype::F32 => store_as::<f32>(team, isa, memory, rows),
        KvDtype::F16 => store_as::<f16>(team, isa, memory, rows),
        KvDtype::BF16 => store_as::<bf16>(team, isa, memory, rows),
    }
}

fn store_as<T: Stored>(team: &Team, isa: Isa, memory: &mut [u8], rows: &Rows<'_>) {
    let memory = &Disjoint::<T>::new(bytemuck::cast_slice_mut(memory));
    if rows.k.len() < ALONE || team.threads() == 1 {
        return dispatch(isa, Store { member: 0, members: 1, memory, rows });
    }
    team.run(&|member| dispatch(isa, Store { member: member.id, members: member.threads, memory, rows }));
}

/// One member's part: the blocks whose number leaves its own when divided by the members, so that no two write one block, whatever the
/// tables say.
struct Store<'a, T> {
    member: usize,
    members: usize,
    memory: &'a Disjoint<'a, T>,
    rows: &'a Rows<'a>,
}

impl<T: Stored> Kernel for Store<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let Rows { shape, place, k, v } = *self.rows;
        let width = shape.heads * shape.dim;
        for r in 0..place.batch.num_requests() {
            for row in place.batch.rows(r) {
                let position = place.batch.positions[row] as usize;
                let block = place.block(r, position / shape.block_size);
                if block % self.members != self.member {
                    continue;
                }
                let start = shape.block_at(place.layer, block);
                // SAFETY: only this member writes blocks with this remainder, and its last slice is out of use.
                let block = unsafe { self.memory.slice(start..start + shape.block()) };
                let slot = position % shape.block_size;
                let (k, v) = (&k[row * width..][..width], &v[row * width..][..width]);
                let heads = k.chunks_exact(shape.dim).zip(v.chunks_exact(shape.dim));
                for (head, (k, v)) in block.chunks_exact_mut(shape.head()).zip(heads) {
                    let (keys, values) = head.split_at_mut(shape.keys());
                    put_key(zero, k, &mut keys[slot / TILE * TILE * shape.dim..][..TILE * shape.dim], slot % TILE);
                    put_value(zero, v, &mut values[slot * shape.padded..][..shape.dim]);
                }
            }
        }
    }
}

/// Writes `k` into a lane of its tile.
#[inline(always)]
fn put_key<L: Lanes, T: Stored>(zero: L, k: &[f32], tile: &mut [T], lane: usize) {
    let mut stored = [T::zeroed(); LANES];
    for (k, units) in k.chunks(LANES).zip(tile.chunks_mut(LANES * TILE)) {
        T::store(zero.load_part(k), &mut stored);
        for (unit, &value) in units.chunks_exact_mut(TILE).zip(&stored) {
            unit[lane] = value;
        }
    }
}

#[inline(always)]
fn put_value<L: Lanes, T: Stored>(zero: L, v: &[f32], row: &mut [T]) {
    let ((v, last_v), (row, last_row)) = (v.as_chunks::<LANES>(), row.as_chunks_mut::<LANES>());
    for (v, row) in v.iter().zip(row) {
        T::store(zero.load(v), row);
    }
    let mut stored = [T::zeroed(); LANES];
    T::store(zero.load_part(last_v), &mut stored);
    last_row.copy_from_slice(&stored[..last_row.len()]);
}
