//! Ops that move elements without computing: reshaping, broadcasting, slicing.

use super::{Recorder, Type, Value, names, types};
use std::ops::Range;

impl Recorder {
    /// The same elements in order, as other dimensions; nothing when they are the same.
    pub fn reshape(&mut self, x: &Value, dims: &[usize]) -> Value {
        if x.dims() == dims {
            return x.clone();
        }
        let ty = Type::new(dims, x.element());
        assert_eq!(x.ty().len(), ty.len(), "stablehlo.reshape of {} to {ty}", x.ty());
        self.push("stablehlo.reshape", &[x], ty, |ty| format!("stablehlo.reshape {} : ({}) -> {ty}", x.name(), x.ty()))
    }

    /// Repeats `x` over the dimensions it lacks: dimension `i` of `x` is dimension `to[i]` of the result.
    pub fn broadcast(&mut self, x: &Value, to: &[usize], dims: &[usize]) -> Value {
        if x.dims() == dims {
            return x.clone();
        }
        let guarded = if x.dims().is_empty() && self.guards(x.element(), dims) { Some(self.barrier(x)) } else { None };
        let x = guarded.as_ref().unwrap_or(x);
        let fits = x.dims().iter().zip(to).all(|(&len, &dim)| len == dims[dim] || len == 1);
        assert!(fits && to.len() == x.dims().len(), "stablehlo.broadcast_in_dim of {} to {dims:?} by {to:?}", x.ty());
        self.push("stablehlo.broadcast_in_dim", &[x], Type::new(dims, x.element()), |ty| {
            format!("stablehlo.broadcast_in_dim {}, dims = {to:?} : ({}) -> {ty}", x.name(), x.ty())
        })
    }

    /// Dimension `i` of the result is dimension `permutation[i]` of `x`.
    pub fn transpose(&mut self, x: &Value, permutation: &[usize]) -> Value {
        let dims: Vec<usize> = permutation.iter().map(|&dim| x.dims()[dim]).collect();
        self.push("stablehlo.transpose", &[x], Type::new(&dims, x.element()), |ty| {
            format!("stablehlo.transpose {}, dims = {permutation:?} : ({}) -> {ty}", x.name(), x.ty())
        })
    }

    /// The elements of `range` along `dim`; nothing when that is all of them.
    pub fn slice(&mut self, x: &Value, dim: usize, range: Range<usize>) -> Value {
        if range == (0..x.dims()[dim]) {
            return x.clone();
        }
        assert!(range.end <= x.dims()[dim], "stablehlo.slice {range:?} of {}", x.ty());
        let mut dims = x.dims().to_vec();
        dims[dim] = range.len();
        let of = |(i, &len): (usize, &usize)| match i == dim {
            true => format!("{}:{}", range.start, range.end),
            false => format!("0:{len}"),
        };
        let ranges: Vec<String> = x.dims().iter().enumerate().map(of).collect();
        self.push("stablehlo.slice", &[x], Type::new(&dims, x.element()), |ty| {
            format!("stablehlo.slice {} [{}] : ({}) -> {ty}", x.name(), ranges.join(", "), x.ty())
        })
    }

    /// The operands side by side along `dim`; empty ones are left out.
    pub fn concat(&mut self, xs: &[&Value], dim: usize) -> Value {
        let xs: Vec<&Value> = xs.iter().copied().filter(|x| !x.ty().is_empty()).collect();
        if let [x] = xs[..] {
            return x.clone();
        }
        let mut dims = xs[0].dims().to_vec();
        dims[dim] = xs.iter().map(|x| x.dims()[dim]).sum();
        self.push("stablehlo.concatenate", &xs, Type::new(&dims, xs[0].element()), |ty| {
            format!("stablehlo.concatenate {}, dim = {dim} : ({}) -> {ty}", names(&xs), types(&xs))
        })
    }

    /// `x` with `low` zeros before and `high` zeros behind it along `dim`.
    pub fn pad(&mut self, x: &Value, dim: usize, low: usize, high: usize) -> Value {
        if low + high == 0 {
            return x.clone();
        }
        let zero = self.splat(0.0, &[], x.element());
        let mut dims = x.dims().to_vec();
        dims[dim] += low + high;
        let edges = |edge: usize| (0..dims.len()).map(|i| if i == dim { edge } else { 0 }).collect::<Vec<_>>();
        let (low, high, interior) = (edges(low), edges(high), vec![0; dims.len()]);
        self.push("stablehlo.pad", &[x, &zero], Type::new(&dims, x.element()), |ty| {
            format!(
                "stablehlo.pad {}, {}, low = {low:?}, high = {high:?}, interior = {interior:?} : ({}) -> {ty}",
                x.name(),
                zero.name(),
                types(&[x, &zero])
            )
        })
    }
}
