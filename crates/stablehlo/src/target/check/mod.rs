//! Holds a program against a target's rules.
//!
//! Each rule is an entry of a list: a name, a sentence, where it is documented, and a function that looks at one statement.
//! What no rule can see: that indices which are data stay within their tables (a lookup outside is still issued on Neuron,
//! aws-neuron-sdk issue 1335; the tracer therefore points rows that only fill a bucket at a block of their own), how many
//! instructions a program becomes, and how much memory it takes. Complex numbers, the FNUZ types, 4-bit floats and dimensions that
//! are not known cannot be said by the recorder; the rules for them look at the text, as custom texts can be recorded too.

use super::{Calls, Rules, Target, TopK};
use crate::program::Program;
use crate::record::{Element, Op, Type, Value};
use std::collections::{HashMap, HashSet};

/// A statement of a program breaks a rule of the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{op}` {found}; rule `{rule}` of target `{target}`: {sentence} ({source_text}); in `{text}`")]
pub struct RuleBroken {
    /// The op, `argument` for an argument, or `program`.
    pub op: String,
    /// Its line in the program's text, from 1; 0 for the program as a whole.
    pub line: usize,
    /// What is wrong with it.
    pub found: String,
    /// The rule's name.
    pub rule: &'static str,
    /// What the rule says.
    pub sentence: &'static str,
    /// Where it is documented.
    pub source_text: &'static str,
    /// The target whose rule it is.
    pub target: &'static str,
    /// The beginning of the statement.
    pub text: String,
}

/// Holds `program` against the rules of `target`.
///
/// # Errors
/// The first statement that breaks a rule.
pub fn check(program: &Program, target: &Target) -> Result<(), Box<RuleBroken>> {
    let context = Context::new(program, target);
    for argument in &program.arguments {
        if let Some(found) = types_broken(std::iter::once(&argument.ty), &target.rules) {
            let key = format!("{:?}", argument.key);
            return Err(broken(target, &TYPES, "argument", 0, found, key));
        }
    }
    let mut groups = HashSet::new();
    for op in &program.ops {
        let fail = |rule: &Rule, found| broken(target, rule, op.name, context.line(op), found, op.text.clone());
        for rule in RULES {
            if let Some(found) = (rule.broken)(op, &context) {
                return Err(fail(rule, found));
            }
        }
        groups.extend(attribute(&op.text, "replica_groups = "));
        if target.rules.replica_groups.is_some_and(|limit| groups.len() > limit) {
            return Err(fail(&GROUPS, format!("brings the groups of ranks to {}", groups.len())));
        }
    }
    Ok(())
}

/// One rule.
struct Rule {
    name: &'static str,
    sentence: &'static str,
    source: &'static str,
    /// What is wrong with a statement, as the end of a sentence that begins with the op.
    broken: fn(&Op, &Context<'_>) -> Option<String>,
}

/// What a rule may look at besides the statement.
struct Context<'p> {
    program: &'p Program,
    rules: Rules,
    top_k: TopK,
    /// The op that makes each value.
    makers: HashMap<&'p str, &'p Op>,
}

impl<'p> Context<'p> {
    fn new(program: &'p Program, target: &Target) -> Self {
        let made = |op: &'p Op| op.results.iter().map(move |value| (value.name(), op));
        let makers = program.ops.iter().flat_map(made).collect();
        Context { program, rules: target.rules, top_k: target.top_k, makers }
    }

    /// The op that made a value, through ops that only give it other dimensions.
    fn origin(&self, value: &Value) -> Option<&'p Op> {
        let mut op = *self.makers.get(value.name())?;
        while op.name == "stablehlo.reshape" {
            op = *self.makers.get(op.operands.first()?.name())?;
        }
        Some(op)
    }

    fn line(&self, op: &Op) -> usize {
        let first = op.text.lines().next().unwrap_or_default();
        self.program.text.lines().position(|line| line.trim_start() == first).map_or(0, |at| at + 1)
    }
}

fn broken(target: &Target, rule: &Rule, op: &str, line: usize, found: String, text: String) -> Box<RuleBroken> {
    let first = text.lines().next().unwrap_or_default();
    let text =
        if first.chars().count() > 160 { first.chars().take(160).chain(['…']).collect() } else { first.to_owned() };
    let Rule { name: rule, sentence, source: source_text, .. } = *rule;
    Box::new(RuleBroken { op: op.to_owned(), line, found, rule, sentence, source_text, target: target.name, text })
}

const TYPES: Rule = Rule {
    name: "element types",
    sentence: "a tensor's elements are of a type that the device has; 64-bit numbers are narrowed there, and 8-bit floats of the kind \
               F8E4M3FN are for trn3 and later",
    source: "aws-neuron-sdk NCC_EVRF051, NCC_ESPP047, NCC_ESPP004, data-types.rst",
    broken: |op, context| types_broken(op.operands.iter().chain(&op.results).map(Value::ty), &context.rules),
};

const GROUPS: Rule = Rule {
    name: "replica groups",
    sentence: "a program names at most 16 different groups of ranks",
    source: "aws-neuron-sdk, communicators of a NEFF",
    broken: |_, _| None,
};

/// The rules, those first that say most about what they find.
const RULES: &[Rule] = &[
    Rule {
        name: "known ops",
        sentence: "only ops that the target's compiler is known to take may appear",
        source: "aws-neuron-sdk NCC_EUOC002, NCC_EVRF001",
        broken: |op, context| (!context.rules.ops.contains(&op.name)).then(|| "is not among them".to_owned()),
    },
    Rule {
        name: "no complex numbers",
        sentence: "complex types are not there on Neuron, and nothing here needs them",
        source: "aws-neuron-sdk NCC_EVRF004",
        broken: |op, _| op.text.contains("complex<").then(|| "has a complex type".to_owned()),
    },
    Rule {
        name: "no exotic small floats",
        sentence: "8-bit floats of the kinds FNUZ and 4-bit floats are taken by no compiler alike",
        source: "aws-neuron-sdk NCC_EVRF005, NCC_ESPP004",
        broken: |op, _| {
            let found = ["FNUZ", "f4E2M1FN"].into_iter().find(|name| op.text.contains(name))?;
            Some(format!("has elements of a type `…{found}`"))
        },
    },
    Rule {
        name: "static shapes",
        sentence: "every dimension is known, and none is 0",
        source: "XLA: programs are compiled for shapes",
        broken: |op, _| {
            let empty = op.operands.iter().chain(&op.results).find(|value| value.ty().is_empty());
            match empty {
                Some(value) => Some(format!("has `{}` of {}", value.name(), value.ty())),
                None => op.text.contains("tensor<?").then(|| "has a dimension `?`".to_owned()),
            }
        },
    },
    Rule {
        name: "narrow constants",
        sentence: "an integer constant fits 32 bits",
        source: "aws-neuron-sdk NCC_ESFH002",
        broken: wide_constant,
    },
    TYPES,
    Rule {
        name: "products of floats",
        sentence: "operands of a product are floating-point numbers: there is no integer path",
        source: "aws-neuron-sdk NCC_EVRF035",
        broken: |op, context| {
            (op.name == "stablehlo.dot_general").then_some(())?;
            elements_outside(op.operands.iter(), context.rules.dot)
        },
    },
    Rule {
        name: "sums over ranks of floats",
        sentence: "what is folded over ranks is floating-point: there is no integer path",
        source: "aws-neuron-sdk NCC_EVRF061, NCC_EVRF063",
        broken: |op, context| {
            matches!(op.name, "stablehlo.all_reduce" | "stablehlo.reduce_scatter").then_some(())?;
            elements_outside(op.operands.iter(), context.rules.folds_across_ranks)
        },
    },
    Rule {
        name: "folding scatters of floats",
        sentence: "a scatter that computes takes floating-point numbers only; integers may be replaced, not added",
        source: "aws-neuron-sdk NCC_EVRF016, NCC_EVRF060",
        broken: |op, context| {
            (op.name == "stablehlo.scatter" && op.body != Some("assign")).then_some(())?;
            elements_outside(op.results.iter(), context.rules.folding_scatter)
        },
    },
    Rule {
        name: "short sorts",
        sentence: "at most 16384 elements are sorted: a sort becomes a top-k of all of them",
        source: "aws-neuron-sdk issue 1339",
        broken: |op, context| {
            (op.name == "stablehlo.sort").then_some(())?;
            let longest = op.operands.iter().flat_map(|value| value.dims().last().copied()).max()?;
            (longest > context.rules.longest_sort?).then(|| format!("sorts {longest} elements"))
        },
    },
    Rule {
        name: "top-k by call",
        sentence: "the largest elements are asked for by `AwsNeuronTopK`, of rows of floats that are not too long, at most 16384",
        source: "aws-neuron-sdk issue 1339, NCC_EVRF013",
        broken: top_k,
    },
    Rule {
        name: "recognised custom calls",
        sentence: "only custom calls that the compiler knows may appear; kernels of one's own go through AwsNeuronCustomNativeKernel",
        source: "aws-neuron-sdk NCC_EVRF015",
        broken: |op, context| {
            let (Calls::Listed(known), Some(call)) = (context.rules.calls, &op.call) else { return None };
            (!known.contains(&&call[..])).then(|| format!("calls `{call}`"))
        },
    },
    Rule {
        name: "guarded integers",
        sentence: "an integer that is repeated over a tensor comes out of an `optimization_barrier`",
        source: "zml, zml/ops.zig, preserveIntegerScalarBroadcast",
        broken: unguarded,
    },
    Rule {
        name: "counted indices",
        sentence: "rows that are looked up or replaced by counting are in the table",
        source: "aws-neuron-sdk NCC_EVRF031, NCC_EVRF056",
        broken: counted_outside,
    },
];

fn types_broken<'t>(mut types: impl Iterator<Item = &'t Type>, rules: &Rules) -> Option<String> {
    let ty = types.find(|ty| !rules.elements.contains(&ty.element))?;
    Some(format!("has a {ty}"))
}

fn elements_outside<'v>(mut values: impl Iterator<Item = &'v Value>, allowed: &[Element]) -> Option<String> {
    let value = values.find(|value| !allowed.contains(&value.element()))?;
    Some(format!("computes on `{}` of {}", value.name(), value.ty()))
}

fn wide_constant(op: &Op, context: &Context<'_>) -> Option<String> {
    let element = op.results.first()?.element();
    if op.name != "stablehlo.constant" || element.is_float() {
        return None;
    }
    let listed = op.text.split_once("dense<")?.1.split_once('>')?.0;
    let bits = context.rules.widest_constant_bits;
    // Signed numbers have one bit less to count with, and one number more below zero.
    let fits = |number: i128| match element {
        Element::U32 | Element::U64 => number < 1 << bits,
        _ => (-(1i128 << (bits - 1))..1i128 << (bits - 1)).contains(&number),
    };
    let numbers = listed.split(|c: char| !(c.is_ascii_digit() || c == '-')).filter_map(|text| text.parse().ok());
    numbers.into_iter().find(|&number| !fits(number)).map(|number| format!("holds {number}"))
}

fn top_k(op: &Op, context: &Context<'_>) -> Option<String> {
    let TopK::NeuronCall { widest } = context.top_k else { return None };
    if op.name == "chlo.top_k" {
        return Some("is used".to_owned());
    }
    if op.call.as_deref() != Some("AwsNeuronTopK") {
        return None;
    }
    let x = op.operands.first()?;
    let columns = x.dims().last().copied().unwrap_or(0);
    match columns > widest || !x.element().is_float() {
        true => Some(format!("is given a {}", x.ty())),
        false => None,
    }
}

fn unguarded(op: &Op, context: &Context<'_>) -> Option<String> {
    let result = op.results.first()?;
    let integer = !result.element().is_float() && result.element() != Element::I1;
    if !context.rules.guarded_integers || !integer || result.dims().is_empty() {
        return None;
    }
    match op.name {
        "stablehlo.constant" if !op.text.contains("dense<[") => Some("repeats one number".to_owned()),
        "stablehlo.broadcast_in_dim" => {
            let x = op.operands.first().filter(|x| x.dims().is_empty())?;
            let guarded = context.makers.get(x.name()).is_some_and(|op| op.name == "stablehlo.optimization_barrier");
            (!guarded).then(|| format!("repeats `{}` without one", x.name()))
        }
        _ => None,
    }
}

fn counted_outside(op: &Op, context: &Context<'_>) -> Option<String> {
    if !context.rules.iota_indices_in_range || !matches!(op.name, "stablehlo.gather" | "stablehlo.scatter") {
        return None;
    }
    let [table, indices, ..] = &op.operands[..] else { return None };
    let counted = context.origin(indices).filter(|origin| origin.name == "stablehlo.iota")?;
    let rows = table.dims().first().copied().unwrap_or(0);
    let dim: usize = attribute(&counted.text, "dim = ")?.parse().ok()?;
    let count = counted.results.first()?.dims().get(dim).copied()?;
    (count > rows).then(|| format!("counts to {count} in a table of {rows} rows"))
}

/// What stands behind `name` in a statement, up to the type of the attribute.
fn attribute(text: &str, name: &str) -> Option<String> {
    let rest = text.split_once(name)?.1;
    Some(rest.split(" :").next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
