//! How many rows and columns a product takes at once.

use crate::kernels::lanes::{Kernel, Lanes, Wide};

/// A product of some rows that is compiled for several numbers of rows.
pub(super) trait ByRows: Sized {
    /// Of `R` rows, as many whole groups of `N` columns as are left. A column is as many vectors as `C`; a single one may be the last
    /// vector twice. Must be `#[inline(always)]`.
    fn columns<L: Lanes, C: Wide<L>, const R: usize, const N: usize>(&mut self, zero: L);

    /// Of `rows` rows, as many as [`rows_at_once`] says.
    #[inline(always)]
    fn of_rows<L: Lanes>(mut self, zero: L, rows: usize) {
        if const { L::ROWS == 1 } {
            // Without vectors there is nothing to keep in registers, and tiles of many rows are much code.
            return self.columns::<L, L, 1, 1>(zero);
        }
        if const { L::ROWS < 12 } {
            return match rows {
                1 => zero.apart(Tile::<_, 1, 8>(self)),
                2 => zero.apart(Tile::<_, 2, 4>(self)),
                // Of four columns one sum would have no register: Zen 3, which waits for what it has just written, takes x1.4 as long.
                3 => zero.apart(Tile::<_, 3, 3>(self)),
                4 => zero.apart(Tile::<_, 4, 2>(self)),
                5 => zero.apart(Tile::<_, 5, 2>(self)),
                _ => zero.apart(Tile::<_, 6, 2>(self)),
            };
        }
        match rows {
            1 => zero.apart(Tile::<_, 1, 4>(self)),
            2 => zero.apart(Tile::<_, 2, 4>(self)),
            3 => zero.apart(Tile::<_, 3, 4>(self)),
            4 => zero.apart(Tile::<_, 4, 4>(self)),
            5 => zero.apart(Tile::<_, 5, 2>(self)),
            6 => zero.apart(Tile::<_, 6, 2>(self)),
            8 => zero.apart(Tile::<_, 8, 2>(self)),
            _ => zero.apart(Tile::<_, 12, 2>(self)),
        }
    }
}

/// A product of `R` rows and `N` columns at a time, then of fewer.
struct Tile<P, const R: usize, const N: usize>(P);

impl<P: ByRows, const R: usize, const N: usize> Tile<P, R, N> {
    #[inline(always)]
    fn of<L: Lanes, C: Wide<L>>(mut self, zero: L) {
        self.0.columns::<L, C, R, N>(zero);
        if const { N > 2 } {
            self.0.columns::<L, C, R, 2>(zero);
        }
        if const { N > 1 } {
            self.0.columns::<L, C, R, 1>(zero);
        }
    }
}

impl<P: ByRows, const R: usize, const N: usize> Kernel for Tile<P, R, N> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        if const { L::ROWS < 12 } {
            self.of::<L, L>(zero);
        } else {
            self.of::<L, L::Wide>(zero);
        }
    }
}

/// The rows to take next when `left` are left.
#[inline(always)]
pub(super) fn rows_at_once<L: Lanes>(left: usize) -> usize {
    match left {
        12.. if L::ROWS == 12 => 12,
        8.. if L::ROWS == 12 => 8,
        _ => left.min(6).min(L::ROWS),
    }
}

/// Adds to `sums[r][n]` the product of a row's factor and a column's vector. The shorter side is loaded first and stays in registers,
/// the other one comes as it is used. A macro, as closures might be compiled without the vector instructions.
macro_rules! add_products {
    ($sums:ident[$R:ident][$N:ident] += |$r:ident| $row:expr, |$n:ident| $column:expr) => {
        if $N <= $R {
            let mut columns = [$sums[0][0]; $N];
            for ($n, column) in columns.iter_mut().enumerate() {
                *column = $column;
            }
            for ($r, sums) in $sums.iter_mut().enumerate() {
                let row = $row;
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = row.mul_add(column, *sum);
                }
            }
        } else {
            let mut rows = [$sums[0][0]; $R];
            for ($r, row) in rows.iter_mut().enumerate() {
                *row = $row;
            }
            for $n in 0..$N {
                let column = $column;
                for (sums, row) in $sums.iter_mut().zip(rows) {
                    sums[$n] = row.mul_add(column, sums[$n]);
                }
            }
        }
    };
}
pub(super) use add_products;

/// A column's vectors, `$vector` for each `$i`: of one alone the first. A macro, as above.
macro_rules! wide {
    ($C:ident, |$i:ident| $vector:expr) => {{
        let first = {
            let $i = 0;
            $vector
        };
        if $C::VECTORS == 1 {
            $C::of(first, first)
        } else {
            let $i = 1;
            $C::of(first, $vector)
        }
    }};
}
pub(super) use wide;

/// A vector as each of a column's.
macro_rules! both {
    ($C:ident, $vector:expr) => {{
        let vector = $vector;
        $C::of(vector, vector)
    }};
}
pub(super) use both;
