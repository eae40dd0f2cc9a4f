//! Two products that meet: gate and up of an MLP.

use super::PANEL;
use super::call::Call;
use super::matrix::PackedMatrix;
use super::product::{Part, Place, Product};
use super::scratch::{PanelRow, Scratch};
use crate::isa::Isa;
use crate::kernels::gated::gated_part;
use crate::prefetch::ask_to_write;
use crate::team::{Team, share_of};
use nxd_ops::Gated;
use std::ops::Range;

/// Panel rows of a gate, and of what it meets, that are computed before they meet: they stay in the second-level cache.
pub(super) const NEAR: usize = 512;

/// How many rows ahead memory is asked for the lines of what comes of them.
const ROWS_AHEAD: usize = 8;

/// What [`linear_gated`] multiplies with.
#[derive(Clone, Copy)]
pub struct GatedPair<'a> {
    /// `[N, K]`
    pub gate: &'a PackedMatrix,
    /// `[N, K]`
    pub up: &'a PackedMatrix,
    /// What becomes of the gate before it multiplies.
    pub activation: Gated,
}

/// `act(x · gateᵀ) * (x · upᵀ)` in one job of the team: a member's results meet while they are near, and only what comes of them is
/// written. Equals [`linears`](super::linears) and then [`gated`](crate::kernels::gated::gated) in every bit.
///
/// # Shapes
/// `x` is `[rows, K]`, `out` is `[rows, N]`.
///
/// # Panics
/// As [`linears`](super::linears), and when the weights have different shapes.
pub fn linear_gated(
    team: &Team,
    isa: Isa,
    x: &[f32],
    rows: usize,
    pair: GatedPair<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let GatedPair { gate, up, activation } = pair;
    assert_eq!(gate.rows(), up.rows(), "gate and up have the same outputs");
    assert_eq!(out.len(), rows * gate.rows(), "an output of {rows} rows of {}", gate.rows());
    let (weights, out) = ([gate, up], (out.as_mut_ptr(), gate.rows()));
    let near = NEAR.max(rows);
    scratch.near.reserve(team.threads() * 2 * near);
    let Some(call) = Call::new(team, isa, x, rows, &weights, [out; 2].into_iter(), scratch) else { return };
    team.run(&|member| {
        // SAFETY: each member prepares once, and takes panels of its own, the same ones of both weights.
        unsafe {
            let area = call.prepare(member);
            let own = call.scratch.near.write(member.id * 2 * near..(member.id + 1) * 2 * near);
            let (gates, ups) = own.split_at_mut(near);
            let [gate, up] = [0, 1].map(|i| call.product(i, member));
            let share = |id, _| share_of(id, member.threads, gate.weight.panels());
            call.hand_out(member, 1, share, |_, part| {
                for rows in together(&gate, &up) {
                    meet(&gate, &up, activation, rows, &part, [&mut *gates, &mut *ups], area);
                }
            });
            call.finish(member);
        }
    });
}

/// Rows that two products of one input do in the same passes.
fn together(gate: &Product<'_>, up: &Product<'_>) -> impl Iterator<Item = Range<usize>> {
    let same = gate.input.tiles() == up.input.tiles();
    let passes = same.then(|| gate.passes().map(|pass| gate.rows(&pass)));
    let all = (!same).then_some(0..gate.input.rows());
    passes.into_iter().flatten().chain(all)
}

/// Writes `act(gate) * up` at `rows` of `part`, a few panels at a time, whose results meet in `near`.
///
/// # Safety
/// The duties of [`Product::pass`] for the gate's own output, which nobody else uses at these rows of `part`; `near` is as long as `rows`.
unsafe fn meet(
    gate: &Product<'_>,
    up: &Product<'_>,
    activation: Gated,
    rows: Range<usize>,
    part: &Part,
    near: [&mut [PanelRow]; 2],
    area: &mut [PanelRow],
) {
    let (n, at_once) = (gate.weight.rows(), near[0].len() / rows.len());
    let [gates, ups]: [&mut [f32]; 2] = near.map(bytemuck::cast_slice_mut);
    for start in part.panels.clone().step_by(at_once) {
        let panels = start..part.panels.end.min(start + at_once);
        let stride = panels.len() * PANEL;
        let place = |near: &mut [f32]| Place {
            start: near.as_mut_ptr(),
            stride,
            row: rows.start,
            panel: start,
            full: gate.weight.panels(),
        };
        let columns = stride.min(n - start * PANEL);
        let few = Part { panels, last: part.last };
        // SAFETY: by the caller's duties; what is near has these rows of so many panels.
        unsafe {
            gate.run(&rows, &few, place(gates), area);
            up.run(&rows, &few, place(ups), area);
        }
        for (row, (gates, ups)) in rows.clone().zip(gates.chunks_mut(stride).zip(ups.chunks(stride))) {
            let out = gate.out.wrapping_add(row * n + start * PANEL);
            for line in (0..stride).step_by(PANEL) {
                ask_to_write(out.wrapping_add(ROWS_AHEAD * n + line).cast());
            }
            let gates = &mut gates[..columns];
            gated_part(gate.isa, activation, gates, &ups[..columns]);
            // SAFETY: the caller's columns of a row.
            unsafe { out.copy_from_nonoverlapping(gates.as_ptr(), columns) };
        }
    }
}
