//! Recording a program: typed values, one method an op, and the StableHLO text.
//!
//! [`Recorder`] knows StableHLO and nothing of models: shapes in, shapes out. Ops that take all operands of one type are checked
//! here, so that a mistake shows where it is made and not in a compiler's message. What the ops mean is in the StableHLO
//! specification; the text keeps to long-lived ops and to the generic form for gather, scatter, sort and collectives, which old
//! plugins read too. Constants are printed as the bits of their numbers: decimals would round.
//!
//! Reading order: [`Value`] and [`Type`], this file, `elementwise`, `shape`, `reduce`, `index`, `across` (collectives and custom
//! calls), `print`.

mod across;
mod elementwise;
mod index;
mod print;
mod reduce;
mod shape;
mod value;

pub(crate) use across::quoted;
pub use across::{CallConfig, CustomCall, Ranks};
pub use elementwise::Order;
pub use print::{Parameter, module_text};
pub use reduce::{Fold, Pairs};
pub use value::{Element, Type, Value};

use std::collections::HashMap;
use std::sync::Arc;

/// One recorded op, as text and as what a target's rules look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The op's name with its dialect, such as `stablehlo.add`.
    pub name: &'static str,
    /// What it takes.
    pub operands: Vec<Value>,
    /// What it gives.
    pub results: Vec<Value>,
    /// What the region of a reduction, a scatter or a collective computes, such as `add`; `None` without a region.
    pub body: Option<&'static str>,
    /// The target's name of a custom call.
    pub call: Option<String>,
    /// Its statement in the text.
    pub text: String,
}

/// A program while it is recorded.
#[derive(Debug, Default)]
pub struct Recorder {
    ops: Vec<Op>,
    next: usize,
    /// Constants that were used before, by text.
    constants: HashMap<(Type, String), Value>,
    /// Whether integers that are repeated over a tensor come out of a barrier.
    guarded: bool,
}

impl Recorder {
    /// An empty program.
    pub fn new() -> Self {
        Recorder::default()
    }

    /// From now on, integers that are repeated over a tensor come out of a barrier, so that no compiler writes the tensor out.
    /// Neuron's does, and then takes indexed updates for something else.
    pub fn guard_integers(&mut self) {
        self.guarded = true;
    }

    /// Whether repeating this takes a barrier.
    fn guards(&self, element: Element, dims: &[usize]) -> bool {
        self.guarded && !dims.is_empty() && element != Element::I1 && !element.is_float()
    }

    /// `x`, which compilers must not look behind.
    pub fn barrier(&mut self, x: &Value) -> Value {
        self.push("stablehlo.optimization_barrier", &[x], x.ty().clone(), |ty| {
            format!("stablehlo.optimization_barrier {} : {ty}", x.name())
        })
    }

    /// The ops so far, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// A value that comes from outside: an argument called `name`.
    pub fn argument(&self, name: &str, dims: &[usize], element: Element) -> Value {
        Value { name: format!("%{name}").into(), ty: Type::new(dims, element) }
    }

    /// A tensor whose elements are all `value`.
    pub fn splat(&mut self, value: f64, dims: &[usize], element: Element) -> Value {
        let text = literal(value, element);
        if !self.guards(element, dims) {
            return self.constant(text, Type::new(dims, element));
        }
        let key = (Type::new(dims, element), text);
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let scalar = self.constant(key.1.clone(), Type::new(&[], element));
        let repeated = self.broadcast(&scalar, &[], dims);
        self.constants.insert(key, repeated.clone());
        repeated
    }

    /// A vector of f32 constants.
    pub fn floats(&mut self, values: &[f32]) -> Value {
        let listed: Vec<String> = values.iter().map(|v| literal(f64::from(*v), Element::F32)).collect();
        self.constant(format!("[{}]", listed.join(", ")), Type::new(&[values.len()], Element::F32))
    }

    fn constant(&mut self, text: String, ty: Type) -> Value {
        let key = (ty.clone(), text);
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let body = format!("stablehlo.constant dense<{}> : {ty}", key.1);
        let value = self.push("stablehlo.constant", &[], ty, |_| body);
        self.constants.insert(key, value.clone());
        value
    }

    /// `0, 1, 2 …` along dimension `dim`.
    pub fn iota(&mut self, dim: usize, dims: &[usize], element: Element) -> Value {
        let ty = Type::new(dims, element);
        let key = (ty.clone(), format!("iota {dim}"));
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let body = format!("stablehlo.iota dim = {dim} : {ty}");
        let value = self.push("stablehlo.iota", &[], ty, |_| body);
        self.constants.insert(key, value.clone());
        value
    }

    /// Records an op with one result; `body` is what stands right of the equals sign.
    fn push(&mut self, name: &'static str, operands: &[&Value], ty: Type, body: impl FnOnce(&Type) -> String) -> Value {
        let text = body(&ty);
        let mut results = self.push_all(name, operands, &[ty], text, None, None);
        results.pop().expect("an op of one result type has one result")
    }

    /// Records an op with any number of results.
    fn push_all(
        &mut self,
        name: &'static str,
        operands: &[&Value],
        types: &[Type],
        right: String,
        body: Option<&'static str>,
        call: Option<String>,
    ) -> Vec<Value> {
        let id = self.next;
        self.next += 1;
        let (left, results): (String, Vec<Value>) = match types {
            [ty] => {
                let name: Arc<str> = format!("%{id}").into();
                (name.to_string(), vec![Value { name, ty: ty.clone() }])
            }
            _ => {
                let result = |(i, ty): (usize, &Type)| Value { name: format!("%{id}#{i}").into(), ty: ty.clone() };
                (format!("%{id}:{}", types.len()), types.iter().enumerate().map(result).collect())
            }
        };
        self.ops.push(Op {
            name,
            operands: operands.iter().map(|v| (*v).clone()).collect(),
            results: results.clone(),
            body,
            call,
            text: format!("{left} = {right}"),
        });
        results
    }
}

/// A number as MLIR reads it without rounding: floats by their bits.
fn literal(value: f64, element: Element) -> String {
    match element {
        Element::F64 => format!("0x{:016X}", value.to_bits()),
        Element::F32 => format!("0x{:08X}", (value as f32).to_bits()),
        Element::F16 => format!("0x{:04X}", half::f16::from_f64(value).to_bits()),
        Element::BF16 => format!("0x{:04X}", half::bf16::from_f64(value).to_bits()),
        Element::I1 => (value != 0.0).to_string(),
        // 8-bit floats are never constants of ours.
        Element::F8E4M3FN | Element::F8E5M2 => format!("{value:e}"),
        Element::I8 | Element::I32 | Element::I64 => format!("{}", value as i64),
        Element::U32 | Element::U64 => format!("{}", value as u64),
    }
}

/// `a, b, c`: the names of operands.
fn names(values: &[&Value]) -> String {
    values.iter().map(|v| v.name()).collect::<Vec<_>>().join(", ")
}

/// `t, u, v`: the types of operands.
fn types(values: &[&Value]) -> String {
    values.iter().map(|v| v.ty().to_string()).collect::<Vec<_>>().join(", ")
}
