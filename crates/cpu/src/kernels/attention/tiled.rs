//! How many rows and columns a product takes at once.

use crate::kernels::lanes::Lanes;

/// A product of some rows that is compiled for several numbers of rows.
pub(super) trait ByRows: Sized {
    /// Of `R` rows, `N` columns at a time.
    fn run<L: Lanes, const R: usize, const N: usize>(self, zero: L);

    /// Of `rows` rows, as many as [`rows_at_once`] says.
    #[inline(always)]
    fn of_rows<L: Lanes>(self, zero: L, rows: usize) {
        if L::ROWS == 1 {
            // Without vectors there is nothing to keep in registers, and tiles of many rows are much code.
            return self.run::<L, 1, 1>(zero);
        }
        if L::ROWS < 12 {
            return match rows {
                1 => self.run::<L, 1, 8>(zero),
                2 => self.run::<L, 2, 4>(zero),
                3 => self.run::<L, 3, 4>(zero),
                4 => self.run::<L, 4, 2>(zero),
                5 => self.run::<L, 5, 2>(zero),
                _ => self.run::<L, 6, 2>(zero),
            };
        }
        match rows {
            1 => self.run::<L, 1, 8>(zero),
            2 => self.run::<L, 2, 8>(zero),
            3 => self.run::<L, 3, 8>(zero),
            4 => self.run::<L, 4, 4>(zero),
            5 => self.run::<L, 5, 4>(zero),
            6 => self.run::<L, 6, 4>(zero),
            8 => self.run::<L, 8, 2>(zero),
            _ => self.run::<L, 12, 2>(zero),
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
