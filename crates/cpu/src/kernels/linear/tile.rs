//! How the rows of a product are cut into tiles, and where a tile's results go.

use super::PANEL;
use crate::prefetch::ask_to_write;
use std::ops::Range;

/// `rows` in tiles of at most `most`, as even as can be: a narrow last tile would cost as much as a full one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tiles {
    most: usize,
    count: usize,
    /// Rows of a tile, and how many tiles have one more. Kept, as divisions for each tile of each panel are 1 % of a prompt.
    each: usize,
    wider: usize,
}

impl Tiles {
    pub(super) fn new(rows: usize, most: usize) -> Self {
        let count = rows.div_ceil(most);
        Self { most, count, each: rows / count.max(1), wider: rows % count.max(1) }
    }

    /// Rows of a tile at most.
    pub(super) fn most(self) -> usize {
        self.most
    }

    /// The number of tiles.
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// The rows of `tile`.
    pub(super) fn rows(self, tile: usize) -> Range<usize> {
        self.start(tile)..self.start(tile + 1)
    }

    /// The tiles in groups of at most `rows` rows.
    pub(super) fn passes(self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let each = rows / self.most;
        (0..self.count).step_by(each).map(move |first| first..self.count.min(first + each))
    }

    /// The tiles `tiles` in groups that have as many rows each: two at most.
    pub(super) fn alike(self, tiles: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let wider = self.wider.clamp(tiles.start, tiles.end);
        [tiles.start..wider, wider..tiles.end].into_iter().filter(|alike| !alike.is_empty())
    }

    fn start(self, tile: usize) -> usize {
        tile * self.each + tile.min(self.wider)
    }
}

/// Where a kernel adds its results: some rows of 16 outputs, `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct Target {
    start: *mut f32,
    stride: usize,
}

impl Target {
    /// # Safety
    /// Every row and panel that is asked for later lies in one buffer behind `start`, and nobody else uses its 16 values meanwhile.
    pub(super) unsafe fn new(start: *mut f32, stride: usize) -> Self {
        Self { start, stride }
    }

    /// Asks memory for `panels` panels of the rows `rows`: a store that misses the caches holds up those behind it.
    #[inline]
    pub(super) fn ask(self, rows: Range<usize>, panels: usize) {
        for row in rows {
            for panel in 0..panels {
                ask_to_write(self.start.wrapping_add(row * self.stride + panel * PANEL).cast());
            }
        }
    }

    /// The rows that begin `rows` rows below.
    pub(super) fn below(self, rows: usize) -> Self {
        Self { start: self.start.wrapping_add(rows * self.stride), ..self }
    }

    /// The same rows from the `panel`-th panel on.
    pub(super) fn panel(self, panel: usize) -> Self {
        Self { start: self.start.wrapping_add(panel * PANEL), ..self }
    }

    /// The 16 outputs of `row`, in the `panel`-th panel from here.
    ///
    /// # Safety
    /// The duties of [`Target::new`]; one reference to a row at a time.
    #[inline(always)]
    pub(super) unsafe fn row<'a>(self, row: usize, panel: usize) -> &'a mut [f32; PANEL] {
        // SAFETY: within the buffer and used by nobody else, by the duties of `new`.
        unsafe { &mut *self.start.add(row * self.stride + panel * PANEL).cast::<[f32; PANEL]>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_rows_and_differ_by_one_at_most() {
        for most in [4, 6] {
            for rows in 1..100 {
                let tiles = Tiles::new(rows, most);
                let lens: Vec<usize> = (0..tiles.count()).map(|t| tiles.rows(t).len()).collect();
                assert_eq!(lens.iter().sum::<usize>(), rows);
                assert!(lens.iter().all(|&len| (1..=most).contains(&len)));
                assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1);
                for part in [0..lens.len(), 0..lens.len() / 2, lens.len() / 2..lens.len()] {
                    let groups: Vec<_> = tiles.alike(&part).collect();
                    assert!(groups.len() <= 2 && groups.iter().cloned().flatten().eq(part));
                    assert!(
                        groups.into_iter().all(|alike| lens[alike.clone()].iter().all(|&l| l == lens[alike.start]))
                    );
                }
            }
        }
    }
}
