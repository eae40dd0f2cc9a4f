//! Cuts rowwise work among the members of a team.

use crate::team::Team;
use std::ops::Range;

/// Values below which the leader works alone: some 3 µs of work, where waking the others costs up to 14 µs.
const ALONE: usize = 32 * 1024;

/// Calls `f` with ranges that cover `0..n`, borders at multiples of `multiple`: one of all for little work, else one a member.
/// `values` counts what all of it writes.
pub(super) fn cut(team: &Team, n: usize, multiple: usize, values: usize, f: impl Fn(Range<usize>) + Sync) {
    if values < ALONE || team.threads() == 1 {
        return f(0..n);
    }
    team.run(&|member| f(member.share_by(n, multiple)));
}
