//! Products and reductions.

use super::{Element, Recorder, Type, Value, types};

/// How elements are folded into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Their sum.
    Add,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Whether any is true.
    Or,
}

impl Fold {
    /// The op of two elements, with its dialect.
    pub(super) const fn op(self) -> &'static str {
        match self {
            Fold::Add => "stablehlo.add",
            Fold::Max => "stablehlo.maximum",
            Fold::Min => "stablehlo.minimum",
            Fold::Or => "stablehlo.or",
        }
    }

    /// The op of two elements, without its dialect.
    pub(super) const fn body(self) -> &'static str {
        match self {
            Fold::Add => "add",
            Fold::Max => "maximum",
            Fold::Min => "minimum",
            Fold::Or => "or",
        }
    }

    /// What leaves every element as it is.
    fn neutral(self, element: Element) -> f64 {
        match (self, element.is_float()) {
            (Fold::Add | Fold::Or, _) => 0.0,
            (Fold::Max, true) => f64::NEG_INFINITY,
            (Fold::Min, true) => f64::INFINITY,
            (Fold::Max, false) => f64::from(i32::MIN),
            (Fold::Min, false) => f64::from(i32::MAX),
        }
    }
}

/// Which dimensions of a product go together, as in `stablehlo.dot_general`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pairs<'a> {
    /// Dimensions of left and right that are kept once.
    pub batch: (&'a [usize], &'a [usize]),
    /// Dimensions of left and right that are summed over.
    pub contract: (&'a [usize], &'a [usize]),
}

impl Recorder {
    /// The general product: batch dimensions, then what is left of `x`, then what is left of `y`; sums and result in f32.
    pub fn dot(&mut self, x: &Value, y: &Value, pairs: Pairs<'_>) -> Value {
        let Pairs { batch, contract } = pairs;
        let both = |i: &[usize], j: &[usize]| i.iter().zip(j).all(|(&i, &j)| x.dims()[i] == y.dims()[j]);
        assert!(
            both(batch.0, batch.1) && both(contract.0, contract.1),
            "stablehlo.dot_general of {} and {} by {pairs:?}",
            x.ty(),
            y.ty()
        );
        let rest = |v: &Value, batch: &[usize], contract: &[usize]| -> Vec<usize> {
            let dims = v.dims().iter().enumerate();
            dims.filter(|(i, _)| !batch.contains(i) && !contract.contains(i)).map(|(_, &len)| len).collect()
        };
        let mut dims: Vec<usize> = batch.0.iter().map(|&i| x.dims()[i]).collect();
        dims.extend(rest(x, batch.0, contract.0));
        dims.extend(rest(y, batch.1, contract.1));
        // Products of f32 would be cut to fewer bits on some devices.
        let f32s = x.element() == Element::F32 && y.element() == Element::F32;
        let precision = if f32s { ", precision = [HIGHEST, HIGHEST]" } else { "" };
        let batching = match batch.0.is_empty() {
            true => String::new(),
            false => format!("batching_dims = {:?} x {:?}, ", batch.0, batch.1),
        };
        self.push("stablehlo.dot_general", &[x, y], Type::new(&dims, Element::F32), |ty| {
            format!(
                "stablehlo.dot_general {}, {}, {batching}contracting_dims = {:?} x {:?}{precision} : ({}) -> {ty}",
                x.name(),
                y.name(),
                contract.0,
                contract.1,
                types(&[x, y])
            )
        })
    }

    /// Folds dimension `dim` of `x` away.
    pub fn reduce(&mut self, x: &Value, fold: Fold, dim: usize) -> Value {
        let start = self.splat(fold.neutral(x.element()), &[], x.element());
        let mut dims = x.dims().to_vec();
        dims.remove(dim);
        let ty = Type::new(&dims, x.element());
        let text = format!(
            "stablehlo.reduce({} init: {}) applies {} across dimensions = [{dim}] : ({}) -> {ty}",
            x.name(),
            start.name(),
            fold.op(),
            types(&[x, &start])
        );
        let mut results = self.push_all("stablehlo.reduce", &[x, &start], &[ty], text, Some(fold.body()), None);
        results.pop().expect("a reduction of one operand has one result")
    }

    /// As [`Recorder::reduce`], repeated over the dimension that was folded: the result has the dimensions of `x`.
    pub fn reduce_keep(&mut self, x: &Value, fold: Fold, dim: usize) -> Value {
        let folded = self.reduce(x, fold, dim);
        let to: Vec<usize> = (0..x.dims().len()).filter(|&i| i != dim).collect();
        let dims = x.dims().to_vec();
        self.broadcast(&folded, &to, &dims)
    }
}
