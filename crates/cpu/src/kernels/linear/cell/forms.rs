//! Cells as types, for kernels that are compiled for each: everything that a [`Cell`] says is a constant there.
#![allow(non_camel_case_types, reason = "the formats' own names")]

use super::Cell;
use nxd_ops::BlockFormat;

/// A cell that is known when a kernel is compiled.
pub(in crate::kernels::linear) trait Form {
    const CELL: Cell;
}

macro_rules! forms {
    ($($format:ident),*) => {$(
        pub(in crate::kernels::linear) struct $format;

        impl Form for $format {
            const CELL: Cell = Cell::of(BlockFormat::$format);
        }
    )*};
}

/// Plain int8.
pub(in crate::kernels::linear) struct I8;

impl Form for I8 {
    const CELL: Cell = Cell::I8;
}

forms!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, INT4, INT4_128, INT8);

/// Calls a function whose type parameter is a [`Form`] with that of a cell.
macro_rules! by_form {
    ($cell:expr, $function:ident($($argument:expr),*)) => {{
        use crate::kernels::linear::cell::forms;
        match $cell.format {
            None => $function::<forms::I8>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q4_0) => $function::<forms::Q4_0>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q4_1) => $function::<forms::Q4_1>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q5_0) => $function::<forms::Q5_0>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q5_1) => $function::<forms::Q5_1>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q8_0) => $function::<forms::Q8_0>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q2_K) => $function::<forms::Q2_K>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q3_K) => $function::<forms::Q3_K>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q4_K) => $function::<forms::Q4_K>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q5_K) => $function::<forms::Q5_K>($($argument),*),
            Some(::nxd_ops::BlockFormat::Q6_K) => $function::<forms::Q6_K>($($argument),*),
            Some(::nxd_ops::BlockFormat::IQ4_NL) => $function::<forms::IQ4_NL>($($argument),*),
            Some(::nxd_ops::BlockFormat::IQ4_XS) => $function::<forms::IQ4_XS>($($argument),*),
            Some(::nxd_ops::BlockFormat::MXFP4) => $function::<forms::MXFP4>($($argument),*),
            Some(::nxd_ops::BlockFormat::INT4) => $function::<forms::INT4>($($argument),*),
            Some(::nxd_ops::BlockFormat::INT4_128) => $function::<forms::INT4_128>($($argument),*),
            Some(::nxd_ops::BlockFormat::INT8) => $function::<forms::INT8>($($argument),*),
        }
    }};
}

pub(in crate::kernels::linear) use by_form;
