//! The kernels: a scalar reference of every op, and the same arithmetic for each instruction set.
//!
//! Every kernel has one reduction order an output, whatever the batch, the tiling or the threads; the SIMD forms equal the scalar ones in
//! every bit. A safe shell round each kernel checks lengths; [`crate::Isa`] values are only made after the CPU was asked.
#![allow(unsafe_code, reason = "intrinsics and disjoint writes of the thread team; each block names its duty")]

pub mod attention;
mod cut;
pub mod elementwise;
mod exp;
pub mod experts;
pub mod gated;
mod lanes;
pub mod linear;
pub mod map;
pub mod norm;
pub mod rope;
pub mod route;
pub(crate) mod zeroed;
