//! Collectives over the ranks, and custom calls.

use super::{Fold, Recorder, Type, Value, names, types};
use std::fmt::Write as _;

/// The ranks that a collective joins, and how the program is spread over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// How many.
    pub count: usize,
    /// Whether they are partitions of one program rather than replicas of it.
    pub partitions: bool,
}

/// What a custom call is told.
#[derive(Clone, Debug, PartialEq)]
pub enum CallConfig {
    /// A dictionary for a typed handler (`api_version = 4`): name and MLIR attribute.
    Typed(Vec<(String, String)>),
    /// Text that the target's compiler reads.
    Text(String),
}

/// A call of a kernel that the target or the user brings.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomCall {
    /// The name it is registered under.
    pub name: String,
    /// What it is told.
    pub config: CallConfig,
    /// Pairs of operand and result that share a buffer.
    pub aliases: Vec<(usize, usize)>,
    /// Whether the call says that its tensors are row-major; a compiler may choose otherwise where nothing is said.
    pub row_major: bool,
}

impl Recorder {
    /// The sum of `x` over the ranks.
    pub fn all_reduce(&mut self, x: &Value, fold: Fold, ranks: Ranks) -> Value {
        let element = Type::new(&[], x.element());
        let text = format!(
            "\"stablehlo.all_reduce\"({}) <{{{}}}> ({{\n    ^bb0(%a: {element}, %b: {element}):\n      \
             %c = {} %a, %b : {element}\n      stablehlo.return %c : {element}\n    }}) : ({}) -> {}",
            x.name(),
            self.groups(ranks),
            fold.op(),
            x.ty(),
            x.ty()
        );
        let types = [x.ty().clone()];
        let mut results = self.push_all("stablehlo.all_reduce", &[x], &types, text, Some(fold.body()), None);
        results.pop().expect("an all-reduce has one result")
    }

    /// The ranks' `x` side by side along `dim`, in rank order.
    pub fn all_gather(&mut self, x: &Value, dim: usize, ranks: Ranks) -> Value {
        let mut dims = x.dims().to_vec();
        dims[dim] *= ranks.count;
        let groups = self.groups(ranks);
        self.push("stablehlo.all_gather", &[x], Type::new(&dims, x.element()), |ty| {
            format!(
                "\"stablehlo.all_gather\"({}) <{{all_gather_dim = {dim} : i64, {groups}}}> : ({}) -> {ty}",
                x.name(),
                x.ty()
            )
        })
    }

    /// The attributes that say which ranks take part.
    fn groups(&self, ranks: Ranks) -> String {
        let members: Vec<String> = (0..ranks.count).map(|rank| rank.to_string()).collect();
        let mut text = format!("replica_groups = dense<[[{}]]> : tensor<1x{}xi64>", members.join(", "), ranks.count);
        if ranks.partitions {
            // Handle 0 stands for none; collectives of partitions each need their own.
            let handle = self.next + 1;
            let _ = write!(
                text,
                ", channel_handle = #stablehlo.channel_handle<handle = {handle}, type = 1>, use_global_device_ids"
            );
        }
        text
    }

    /// Calls a kernel that is not StableHLO.
    pub fn custom_call(&mut self, call: &CustomCall, operands: &[&Value], results: &[Type]) -> Vec<Value> {
        let config = match &call.config {
            CallConfig::Typed(attributes) => {
                let listed: Vec<String> = attributes.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                format!("api_version = 4 : i32, backend_config = {{{}}}", listed.join(", "))
            }
            CallConfig::Text(text) => format!("backend_config = {}", quoted(text)),
        };
        let alias = |(operand, result): &(usize, usize)| {
            let tuple = if results.len() == 1 { String::new() } else { result.to_string() };
            format!(
                "#stablehlo.output_operand_alias<output_tuple_indices = [{tuple}], operand_index = {operand}, \
                 operand_tuple_indices = []>"
            )
        };
        let aliases: Vec<String> = call.aliases.iter().map(alias).collect();
        let aliases = match aliases.is_empty() {
            true => String::new(),
            false => format!(", output_operand_aliases = [{}]", aliases.join(", ")),
        };
        let layouts = match call.row_major {
            true => {
                let (of, to) = (row_major(operands.iter().map(|v| v.ty())), row_major(results.iter()));
                format!(", operand_layouts = [{of}], result_layouts = [{to}]")
            }
            false => String::new(),
        };
        let given: Vec<String> = results.iter().map(Type::to_string).collect();
        let given = if let [one] = &given[..] { one.clone() } else { format!("({})", given.join(", ")) };
        let text = format!(
            "stablehlo.custom_call @{}({}) {{{config}{aliases}{layouts}}} : ({}) -> {given}",
            call.name,
            names(operands),
            types(operands)
        );
        self.push_all("stablehlo.custom_call", operands, results, text, None, Some(call.name.clone()))
    }
}

/// Layouts by dimension, innermost first.
fn row_major<'t>(types: impl Iterator<Item = &'t Type>) -> String {
    let layout = |ty: &Type| {
        let dims: Vec<usize> = (0..ty.dims.len()).rev().collect();
        // An empty list has no brackets in MLIR.
        let listed = if dims.is_empty() { String::new() } else { format!("{dims:?}") };
        format!("dense<{listed}> : tensor<{}xindex>", dims.len())
    };
    types.map(layout).collect::<Vec<_>>().join(", ")
}

/// A string attribute: MLIR escapes quotes, backslashes and everything that cannot be printed as two hex digits.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(byte as char);
            }
            b' '..=b'~' => out.push(byte as char),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
    out.push('"');
    out
}
