//! Kernels that users bring: an op of their own, with a composition of other ops that every device can fall back on.

use crate::ops::Ops;
use crate::weight::Weight;

/// A setting of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
}

/// An op that is not part of [`Ops`]: what it computes is said by its composition, how fast by what a device has under its name.
pub trait Kernel {
    /// The name that implementations are registered under.
    fn name(&self) -> &str;

    /// Rows and columns of each result, from those of the inputs.
    fn outputs(&self, inputs: &[[usize; 2]]) -> Vec<[usize; 2]>;

    /// What an implementation is told besides tensors.
    fn attributes(&self) -> Vec<(&'static str, Attribute)>;

    /// The same results from other ops; implementations must agree with it.
    fn compose<O: Ops>(&self, ops: &mut O, inputs: &[&O::Tensor], weights: &[Weight]) -> Vec<O::Tensor>;
}
