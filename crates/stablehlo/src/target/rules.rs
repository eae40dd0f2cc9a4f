//! What a program must keep to, as data of a target.

use crate::record::Element;

/// Custom calls that a target's compiler takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Any: the plugin itself knows which handlers are registered, and names those that are not.
    Any,
    /// These.
    Listed(&'static [&'static str]),
}

/// The limits of a target's compiler. `check` says what each rule is and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Types that elements of any tensor may have.
    pub elements: &'static [Element],
    /// Types that operands of a product may have.
    pub dot: &'static [Element],
    /// Types that may be folded over ranks.
    pub folds_across_ranks: &'static [Element],
    /// Types that a scatter may fold into its table, rather than replace.
    pub folding_scatter: &'static [Element],
    /// Ops that may appear.
    pub ops: &'static [&'static str],
    /// Custom calls that may appear.
    pub calls: Calls,
    /// The longest dimension that may be sorted.
    pub longest_sort: Option<usize>,
    /// Bits that an integer constant may need.
    pub widest_constant_bits: u32,
    /// How many different groups of ranks a program may name.
    pub replica_groups: Option<usize>,
    /// Whether an integer that is repeated over a tensor must come out of an `optimization_barrier`.
    pub guarded_integers: bool,
    /// Whether rows that are looked up or replaced by counting must exist.
    pub iota_indices_in_range: bool,
}

impl Rules {
    /// What XLA's own compilers take of what the recorder can say.
    pub const XLA: Rules = Rules {
        elements: ALL,
        dot: ALL,
        folds_across_ranks: ALL,
        folding_scatter: ALL,
        ops: RECORDED_OPS,
        calls: Calls::Any,
        longest_sort: None,
        widest_constant_bits: 64,
        replica_groups: None,
        guarded_integers: false,
        iota_indices_in_range: false,
    };
}

const ALL: &[Element] = &[
    Element::I1,
    Element::I8,
    Element::I32,
    Element::I64,
    Element::U32,
    Element::U64,
    Element::F8E4M3FN,
    Element::F8E5M2,
    Element::F16,
    Element::BF16,
    Element::F32,
    Element::F64,
];

/// The ops that the recorder has: long-lived ones, which every compiler of StableHLO takes.
pub const RECORDED_OPS: &[&str] = &[
    "chlo.erf",
    "chlo.top_k",
    "stablehlo.abs",
    "stablehlo.add",
    "stablehlo.all_gather",
    "stablehlo.all_reduce",
    "stablehlo.and",
    "stablehlo.broadcast_in_dim",
    "stablehlo.compare",
    "stablehlo.concatenate",
    "stablehlo.constant",
    "stablehlo.convert",
    "stablehlo.cosine",
    "stablehlo.custom_call",
    "stablehlo.divide",
    "stablehlo.dot_general",
    "stablehlo.exponential",
    "stablehlo.gather",
    "stablehlo.iota",
    "stablehlo.log",
    "stablehlo.logistic",
    "stablehlo.maximum",
    "stablehlo.minimum",
    "stablehlo.multiply",
    "stablehlo.negate",
    "stablehlo.not",
    "stablehlo.optimization_barrier",
    "stablehlo.or",
    "stablehlo.pad",
    "stablehlo.reduce",
    "stablehlo.remainder",
    "stablehlo.reshape",
    "stablehlo.rsqrt",
    "stablehlo.scatter",
    "stablehlo.select",
    "stablehlo.shift_left",
    "stablehlo.shift_right_logical",
    "stablehlo.sine",
    "stablehlo.slice",
    "stablehlo.sort",
    "stablehlo.subtract",
    "stablehlo.tanh",
    "stablehlo.transpose",
    "stablehlo.xor",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_of_the_recorder_is_listed() {
        let sources = [
            include_str!("../record/mod.rs"),
            include_str!("../record/elementwise.rs"),
            include_str!("../record/shape.rs"),
            include_str!("../record/reduce.rs"),
            include_str!("../record/index.rs"),
            include_str!("../record/across.rs"),
        ];
        let mut seen = 0;
        for source in sources {
            for dialect in ["\"stablehlo.", "\"chlo."] {
                for (at, _) in source.match_indices(dialect) {
                    let name: String = source[at + 1..]
                        .chars()
                        .take_while(|c| c.is_ascii_lowercase() || "._0123456789".contains(*c))
                        .collect();
                    assert!(RECORDED_OPS.contains(&&name[..]), "`{name}` of the recorder is missing in RECORDED_OPS");
                    seen += 1;
                }
            }
        }
        assert!(seen > 40, "{seen} ops found");
        assert!(RECORDED_OPS.is_sorted());
    }
}
