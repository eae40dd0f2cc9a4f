//! Writing K and V rows into their slots.

use super::stored::{E4m3, Stored};
use crate::isa::Isa;
use crate::kernels::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::kv::{KvDtype, Place, Shape, TILE};
use crate::team::{Disjoint, Team};
use bytemuck::cast_slice_mut;
use half::{bf16, f16};
use std::marker::PhantomData;

/// Values below which the leader writes alone: some 5 µs of work, most of it waiting for lines that no step has read since the last one.
const ALONE: usize = 1024;

/// A step's rows of K and V, both `[T, K * D]`, and where they go; no V where keys are values too.
pub(crate) struct Rows<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) place: &'a Place<'a>,
    pub(crate) k: &'a [f32],
    pub(crate) v: Option<&'a [f32]>,
}

/// Writes `rows` into a cache's `memory`.
pub(crate) fn store(team: &Team, isa: Isa, memory: &mut [u8], rows: &Rows<'_>) {
    let values = rows.place.batch.num_tokens() * rows.shape.heads * rows.shape.dim;
    assert!(
        rows.k.len() == values && rows.v.is_none_or(|v| v.len() == values),
        "K and V have a row for each token of the batch"
    );
    assert_eq!(rows.v.is_none(), rows.shape.shared, "V is stored where keys are not values too");
    match rows.shape.dtype {
        KvDtype::F32 => store_as::<f32>(team, isa, memory, rows),
        KvDtype::F16 => store_as::<f16>(team, isa, memory, rows),
        KvDtype::BF16 => store_as::<bf16>(team, isa, memory, rows),
        KvDtype::I8 => store_as::<i8>(team, isa, memory, rows),
        KvDtype::E4M3 => store_as::<E4m3>(team, isa, memory, rows),
    }
}

fn store_as<T: Stored>(team: &Team, isa: Isa, memory: &mut [u8], rows: &Rows<'_>) {
    let memory = &Disjoint::new(memory);
    let part = |member, members| Store::<T> { member, members, memory, rows, stored: PhantomData };
    if rows.k.len() < ALONE || team.threads() == 1 {
        return dispatch(isa, part(0, 1));
    }
    team.run(&|member| dispatch(isa, part(member.id, member.threads)));
}

/// One member's part: the heads of blocks where the numbers of both together leave its own when divided by the members, so that no two
/// write the same head of one block, whatever the tables say.
struct Store<'a, T> {
    member: usize,
    members: usize,
    memory: &'a Disjoint<'a, u8>,
    rows: &'a Rows<'a>,
    stored: PhantomData<T>,
}

impl<T: Stored> Kernel for Store<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let Rows { shape, place, k, v } = *self.rows;
        let (width, lens) = (shape.heads * shape.dim, shape.parts());
        for r in 0..place.batch.num_requests() {
            let table = place.table(r);
            for row in place.batch.rows(r) {
                let position = place.batch.positions[row] as usize;
                let block = table.block(position / shape.block_size);
                let slot = position % shape.block_size;
                for h in (0..shape.heads).filter(|h| (block + h) % self.members == self.member) {
                    let [keys, values, scales] = shape.starts_of(place.layer, h)(block);
                    // SAFETY: only this member writes heads of blocks with this remainder, and its last slices are out of use.
                    let head = unsafe {
                        [
                            self.memory.slice(keys..keys + lens[0]),
                            self.memory.slice(values..values + lens[1]),
                            self.memory.slice(scales..scales + lens[2]),
                        ]
                    };
                    let own = row * width + h * shape.dim..row * width + (h + 1) * shape.dim;
                    put::<L, T>(zero, shape, &k[own.clone()], v.map(|v| &v[own]), head, slot);
                }
            }
        }
    }
}

/// Writes one token's K and V into `slot` of what its block has in a head: K, V and scales.
#[inline(always)]
fn put<L: Lanes, T: Stored>(
    zero: L,
    shape: &Shape,
    k: &[f32],
    v: Option<&[f32]>,
    [keys, values, scales]: [&mut [u8]; 3],
    slot: usize,
) {
    let (row, scales) = (&mut values[slot * shape.value()..][..shape.value()], cast_slice_mut(scales));
    let Some(v) = v else {
        let (scale, factor) = T::scale(zero, k);
        put_row::<L, T>(zero, k, factor, cast_slice_mut(row));
        if T::SCALED {
            scales[slot] = scale;
        }
        return;
    };
    let tile = &mut keys[slot / TILE * TILE * shape.key()..][..TILE * shape.key()];
    let ((key_scale, key_factor), (value_scale, value_factor)) = (T::scale(zero, k), T::scale(zero, v));
    put_key::<L, T>(zero, k, key_factor, cast_slice_mut(tile), slot % TILE);
    put_row::<L, T>(zero, v, value_factor, cast_slice_mut(row));
    if T::SCALED {
        (scales[slot], scales[shape.block_size + slot]) = (key_scale, value_scale);
    }
}

/// Writes `k` into a lane of its tile.
#[inline(always)]
fn put_key<L: Lanes, T: Stored>(zero: L, k: &[f32], factor: f32, tile: &mut [T], lane: usize) {
    let mut stored = [T::zeroed(); LANES];
    for (k, units) in k.chunks(LANES).zip(tile.chunks_mut(LANES * TILE)) {
        T::store(scaled::<L, T>(zero.load_part(k), factor), &mut stored);
        for (unit, &value) in units.chunks_exact_mut(TILE).zip(&stored) {
            unit[lane] = value;
        }
    }
}

/// Writes `values` into their row, whose last vector is filled up with zeros: keys are multiplied with whole ones.
#[inline(always)]
fn put_row<L: Lanes, T: Stored>(zero: L, values: &[f32], factor: f32, row: &mut [T]) {
    let ((values, last), (row, _)) = (values.as_chunks::<LANES>(), row.as_chunks_mut::<LANES>());
    for (values, row) in values.iter().zip(&mut *row) {
        T::store(scaled::<L, T>(zero.load(values), factor), row);
    }
    if let (false, Some(row)) = (last.is_empty(), row.last_mut()) {
        T::store(scaled::<L, T>(zero.load_part(last), factor), row);
    }
}

#[inline(always)]
fn scaled<L: Lanes, T: Stored>(values: L, factor: f32) -> L {
    if T::SCALED { values * values.splat(factor) } else { values }
}
