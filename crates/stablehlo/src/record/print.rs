//! The text of a whole module.

use super::{Op, Value};
use std::fmt::Write as _;

/// An argument of the module's function.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The value.
    pub value: Value,
    /// The result that takes over its buffer.
    pub alias: Option<usize>,
}

/// A module with one function `main`.
pub fn module_text(
    name: &str,
    replicas: usize,
    partitions: usize,
    parameters: &[Parameter],
    ops: &[Op],
    results: &[Value],
) -> String {
    let mut text = String::new();
    // A String takes every write.
    let _ = writeln!(
        text,
        "module @{name} attributes {{mhlo.num_partitions = {partitions} : i32, mhlo.num_replicas = {replicas} : i32}} {{"
    );
    text.push_str("  func.func public @main(");
    for (i, Parameter { value, alias }) in parameters.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\n    {}: {}", value.name(), value.ty());
        let mut attributes = Vec::new();
        if let Some(result) = alias {
            attributes.push(format!("tf.aliasing_output = {result} : i32"));
        }
        if partitions > 1 {
            attributes.push("mhlo.sharding = \"{manual}\"".to_owned());
        }
        if !attributes.is_empty() {
            let _ = write!(text, " {{{}}}", attributes.join(", "));
        }
    }
    let manual = if partitions > 1 { " {mhlo.sharding = \"{manual}\"}" } else { "" };
    let types: Vec<String> = results.iter().map(|v| format!("{}{manual}", v.ty())).collect();
    let _ = writeln!(text, "\n  ) -> ({}) {{", types.join(", "));
    for op in ops {
        let _ = writeln!(text, "    {}", op.text);
    }
    let names: Vec<&str> = results.iter().map(Value::name).collect();
    let types: Vec<String> = results.iter().map(|v| v.ty().to_string()).collect();
    let _ = writeln!(text, "    return {} : {}\n  }}\n}}", names.join(", "), types.join(", "));
    text
}
