//! A recorded program: its text, and what its arguments and results stand for.

use crate::record::{Element, Op, Parameter, Recorder, Type, Value, module_text};
use crate::target::Spread;
use nxd_ops::{KvSpec, Output, Values};
use std::collections::BTreeMap;

/// What an argument stands for. The order of the variants is the order of a program's arguments; weights stand as in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArgumentKey {
    /// A part of a weight.
    Weight {
        /// Its index in the manifest.
        weight: u32,
        /// Which part.
        part: Part,
    },
    /// Keys or values of a layer's cache: donated, and given back updated.
    Kv {
        /// The layer's index in the manifest.
        layer: u32,
        /// Which of both.
        side: Side,
    },
    /// Something of the step, by name.
    Step(String),
}

/// A part of a bound weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Its numbers, as stored or as integers to be scaled.
    Values,
    /// One factor a group.
    Scales,
    /// One summand a group.
    Mins,
    /// Which column of the rank's input each column of the weight meets.
    Columns,
    /// The first row that the rank holds.
    FirstRow,
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the sides' own names")]
pub enum Side {
    Keys,
    Values,
}

impl Side {
    /// What is kept of a layer.
    pub fn of(spec: &KvSpec) -> &'static [Side] {
        match spec.values {
            Values::Own => &[Side::Keys, Side::Values],
            Values::OfKeys(_) => &[Side::Keys],
        }
    }
}

/// What a result stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultKey {
    /// Keys or values of a layer, in the buffer of the argument of the same name.
    Kv {
        /// The layer's index in the manifest.
        layer: u32,
        /// Which of both.
        side: Side,
    },
    /// Something that the model emitted.
    Output(Output),
    /// Something else, by name.
    Named(&'static str),
}

/// An argument of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// What it stands for.
    pub key: ArgumentKey,
    /// Its type on one rank.
    pub ty: Type,
}

/// A program of one bucket: text for a compiler, and how to call what comes out.
#[derive(Clone, Debug)]
pub struct Program {
    /// The module.
    pub text: String,
    /// The arguments in order.
    pub arguments: Vec<Argument>,
    /// The results in order, with their types.
    pub results: Vec<(ResultKey, Type)>,
    /// Ranks that run it together.
    pub ranks: usize,
    /// How the ranks are told to the compiler.
    pub spread: Spread,
    /// What was recorded, for rules to look at.
    pub ops: Vec<Op>,
}

impl Program {
    /// The arguments whose buffers the program takes over.
    pub fn donated(&self) -> Vec<usize> {
        let replaced = |argument: &Argument| match argument.key {
            ArgumentKey::Kv { layer, side } => self.result(&ResultKey::Kv { layer, side }).is_some(),
            _ => false,
        };
        (0..self.arguments.len()).filter(|&i| replaced(&self.arguments[i])).collect()
    }

    /// Where a result stands.
    pub fn result(&self, key: &ResultKey) -> Option<usize> {
        self.results.iter().position(|(k, _)| k == key)
    }
}

/// A program while it is recorded.
#[derive(Debug, Default)]
pub struct ProgramBuilder {
    /// The ops.
    pub rec: Recorder,
    arguments: BTreeMap<ArgumentKey, Value>,
    /// Caches as they are now.
    kv: BTreeMap<(u32, Side), Value>,
    results: Vec<(ResultKey, Value)>,
}

impl ProgramBuilder {
    /// An empty program.
    pub fn new() -> Self {
        ProgramBuilder::default()
    }

    /// Part of a weight; the same value whenever it is asked for.
    pub fn weight(&mut self, weight: u32, part: Part, dims: &[usize], element: Element) -> Value {
        let suffix = match part {
            Part::Values => "",
            Part::Scales => "_scales",
            Part::Mins => "_mins",
            Part::Columns => "_columns",
            Part::FirstRow => "_first",
        };
        self.argument(ArgumentKey::Weight { weight, part }, &format!("w{weight}{suffix}"), dims, element)
    }

    /// Something of the step by name; the same value whenever it is asked for.
    pub fn input(&mut self, name: &str, dims: &[usize], element: Element) -> Value {
        self.argument(ArgumentKey::Step(name.to_owned()), name, dims, element)
    }

    /// A layer's cache as it is now.
    pub fn kv(&mut self, layer: u32, side: Side, dims: &[usize], element: Element) -> Value {
        if let Some(now) = self.kv.get(&(layer, side)) {
            return now.clone();
        }
        let name = match side {
            Side::Keys => format!("keys{layer}"),
            Side::Values => format!("values{layer}"),
        };
        self.argument(ArgumentKey::Kv { layer, side }, &name, dims, element)
    }

    /// Replaces a layer's cache.
    pub fn set_kv(&mut self, layer: u32, side: Side, value: Value) {
        self.kv.insert((layer, side), value);
    }

    /// Makes `value` a result.
    pub fn result(&mut self, key: ResultKey, value: &Value) {
        self.results.push((key, value.clone()));
    }

    fn argument(&mut self, key: ArgumentKey, name: &str, dims: &[usize], element: Element) -> Value {
        if let Some(known) = self.arguments.get(&key) {
            assert_eq!((known.dims(), known.element()), (dims, element), "argument `{name}` is asked for as two types");
            return known.clone();
        }
        let value = self.rec.argument(name, dims, element);
        self.arguments.insert(key, value.clone());
        value
    }

    /// Ends the recording: caches become the first results, each in the buffer of its argument.
    pub fn finish(mut self, name: &str, ranks: usize, spread: Spread) -> Program {
        // A cache that is only read has no new value, and its buffer stays with the caller.
        let mut results: Vec<(ResultKey, Value)> = std::mem::take(&mut self.kv)
            .into_iter()
            .map(|((layer, side), value)| (ResultKey::Kv { layer, side }, value))
            .collect();
        results.append(&mut self.results);
        let alias = |key: &ArgumentKey| match *key {
            ArgumentKey::Kv { layer, side } => {
                results.iter().position(|(key, _)| *key == ResultKey::Kv { layer, side })
            }
            _ => None,
        };
        let parameters: Vec<Parameter> =
            self.arguments.iter().map(|(key, value)| Parameter { value: value.clone(), alias: alias(key) }).collect();
        let values: Vec<Value> = results.iter().map(|(_, value)| value.clone()).collect();
        let (replicas, partitions) = spread.counts(ranks);
        let text = module_text(name, replicas, partitions, &parameters, self.rec.ops(), &values);
        let arguments = self.arguments.into_iter().map(|(key, value)| Argument { key, ty: value.ty().clone() });
        Program {
            text,
            arguments: arguments.collect(),
            results: results.into_iter().map(|(key, value)| (key, value.ty().clone())).collect(),
            ranks,
            spread,
            ops: self.rec.ops().to_vec(),
        }
    }
}
