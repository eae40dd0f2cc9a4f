//! Where a declared weight lies in a checkpoint, as tables.
//!
//! Modules declare the names of the standard Hugging Face layout. Families whose files have other names, fuse projections or stack experts say so
//! in a [`Layout`] for each container.

use crate::checkpoint::{RowBlocks, RowOrder, Slab, TensorRef};
use crate::config::Container;
use nxd_modules::{AttentionSpec, DecoderSpec, LatentSpec};
use nxd_ops::{Role, RopeSpec, WeightSpec};

/// How a family's tensors are named and laid out.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// In folders of Hugging Face.
    pub hf: Layout,
    /// In GGUF files.
    pub gguf: Layout,
    /// Patterns (one `*` each) of stored tensors that are not weights of the decoder and may be left alone.
    pub ignored: &'static [&'static str],
}

/// The tensors of one container.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// What stands before a layer's number.
    pub layers: &'static str,
    /// What differs inside a layer. Of the entries that fit, the first holds whose tensor is there, or the first of all.
    pub layer: &'static [Place],
    /// What differs outside of layers.
    pub model: &'static [Place],
    /// Whether the rotated values of query and key heads are stored in neighbouring pairs.
    pub pairs: bool,
}

/// Where a weight is: `declared` is a module, whose weight and bias keep their kinds, or a whole name; a `*` in it stands for a number (of an
/// expert), which a `*` in `stored` repeats.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The declared name.
    pub declared: &'static str,
    /// The stored one.
    pub stored: &'static str,
    /// Which part of the stored tensor it is.
    pub part: Part,
    /// Whether each expert's matrix is stored as `[inputs, outputs]`.
    pub transposed: bool,
    /// Whether the stored tensor holds the matrices of all experts, one after the other.
    pub stacked: bool,
}

/// A part of a fused tensor, along its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The query heads of queries, keys and values one after the other.
    Query,
    /// The key heads.
    Key,
    /// The value heads.
    Value,
    /// The first of two halves.
    First,
    /// The second of two halves.
    Second,
    /// Rows 0, 2, 4 …
    Even,
    /// Rows 1, 3, 5 …
    Odd,
    /// Of each query head the rows without positions.
    QueryNope,
    /// Of each query head the rows that are rotated.
    QueryRope,
    /// The compressed row.
    Latent,
    /// What is rotated, behind the compressed row.
    LatentRope,
    /// What makes each head's keys of the compressed row, the other way round.
    KeyOfLatent,
    /// What makes each head's values of it, behind its keys.
    ValueOfLatent,
}

impl Place {
    /// `declared` is all of `stored`.
    pub const fn new(declared: &'static str, stored: &'static str) -> Place {
        Place { declared, stored, part: Part::Whole, transposed: false, stacked: false }
    }

    /// `declared` is a part of `stored`.
    pub const fn part(declared: &'static str, stored: &'static str, part: Part) -> Place {
        Place { part, ..Place::new(declared, stored) }
    }

    /// The same, of which each expert has one, stacked in one tensor.
    pub const fn stacked(self) -> Place {
        Place { stacked: true, ..self }
    }

    /// The same, stored as `[inputs, outputs]`.
    pub const fn transposed(self) -> Place {
        Place { transposed: true, ..self }
    }

    /// The stored name of the weight `name` of this place, and the expert's number; `None` when `name` is of another one.
    fn find(&self, name: &str) -> Option<(String, Option<usize>)> {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let whole = matches(self.declared, name).map(|number| (number, None));
        let (number, kind) = whole.or_else(|| Some((matches(self.declared, module)?, Some(kind))))?;
        let stored = match number {
            Some(number) => self.stored.replacen('*', &number.to_string(), 1),
            None => self.stored.to_owned(),
        };
        Some((kind.map_or(stored.clone(), |kind| format!("{stored}.{kind}")), number))
    }
}

/// The number that the `*` of `pattern` stands for in `name`, if it has one; `None` where they differ.
fn matches(pattern: &str, name: &str) -> Option<Option<usize>> {
    let Some((start, end)) = pattern.split_once('*') else { return (pattern == name).then_some(None) };
    let number = name.strip_prefix(start)?.strip_suffix(end)?;
    number.parse().ok().map(Some)
}

impl Layout {
    /// Names as they are declared.
    pub const DECLARED: Layout = Layout { layers: "model.layers", layer: &[], model: &[], pairs: false };

    /// Names of GGUF files.
    pub const GGUF: Layout = Layout { layers: "blk", ..Layout::DECLARED };
}

/// Names inside a GGUF layer that most families share.
const GGUF_LAYER: &[Place] = &[
    Place::new("input_layernorm", "attn_norm"),
    Place::new("self_attn.q_proj", "attn_q"),
    Place::new("self_attn.k_proj", "attn_k"),
    Place::new("self_attn.v_proj", "attn_v"),
    // Some families have them in one, and of the others a converter can be told to make one.
    Place::part("self_attn.q_proj", "attn_qkv", Part::Query),
    Place::part("self_attn.k_proj", "attn_qkv", Part::Key),
    Place::part("self_attn.v_proj", "attn_qkv", Part::Value),
    Place::new("self_attn.o_proj", "attn_output"),
    Place::new("self_attn.q_norm", "attn_q_norm"),
    Place::new("self_attn.k_norm", "attn_k_norm"),
    Place::new("post_attention_layernorm", "ffn_norm"),
    Place::new("mlp.gate_proj", "ffn_gate"),
    Place::new("mlp.up_proj", "ffn_up"),
    Place::new("mlp.down_proj", "ffn_down"),
    Place::new("mlp.gate", "ffn_gate_inp"),
    Place::new("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    Place::new("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    Place::new("self_attn.sinks", "attn_sinks.weight"),
    Place::new("mlp.experts.*.gate_proj", "ffn_gate_exps").stacked(),
    Place::new("mlp.experts.*.up_proj", "ffn_up_exps").stacked(),
    Place::new("mlp.experts.*.down_proj", "ffn_down_exps").stacked(),
    Place::part("mlp.experts.*.gate_proj", "ffn_gate_up_exps", Part::First).stacked(),
    Place::part("mlp.experts.*.up_proj", "ffn_gate_up_exps", Part::Second).stacked(),
    // Files of 2023 have them one by one.
    Place::new("mlp.experts.*.gate_proj", "ffn_gate.*"),
    Place::new("mlp.experts.*.up_proj", "ffn_up.*"),
    Place::new("mlp.experts.*.down_proj", "ffn_down.*"),
    Place::new("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    Place::new("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    Place::new("mlp.shared_expert.down_proj", "ffn_down_shexp"),
];

/// Names outside of layers that GGUF families share.
const GGUF_MODEL: &[Place] = &[
    Place::new("model.embed_tokens", "token_embd"),
    Place::new("model.norm", "output_norm"),
    Place::new("lm_head", "output"),
];

impl Names {
    /// The names that most families share.
    pub const STANDARD: Names = Names {
        hf: Layout::DECLARED,
        gguf: Layout::GGUF,
        ignored: &[
            "*.rotary_emb.inv_freq",
            "rope_freqs.weight",
            "rope_factors_short.weight",
            "rope_factors_long.weight",
            // The other parts of a model that takes more than text.
            "vision_tower.*",
            "model.vision_tower.*",
            "vision_model.*",
            "model.vision_model.*",
            "multi_modal_projector.*",
            "model.multi_modal_projector.*",
        ],
    };

    /// Where a declared weight lies in a checkpoint of which `is_stored` knows the tensors.
    pub fn find(
        &self,
        spec: &DecoderSpec,
        container: Container,
        weight: &WeightSpec,
        is_stored: impl Fn(&str) -> bool,
    ) -> TensorRef {
        let (layout, shared_layer, shared_model) = match container {
            Container::HuggingFace => (&self.hf, &[][..], &[][..]),
            Container::Gguf => (&self.gguf, GGUF_LAYER, GGUF_MODEL),
        };
        let within = weight.name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let layer = within.and_then(|(number, _)| spec.layers.get(number.parse::<usize>().ok()?));
        let (name, prefix, tables) = match within {
            Some((number, name)) => (name, format!("{}.{number}.", layout.layers), [layout.layer, shared_layer]),
            None => (weight.name.as_str(), String::new(), [layout.model, shared_model]),
        };
        let fitting = || tables.iter().copied().flatten().filter_map(|place| Some((place, place.find(name)?)));
        let found =
            fitting().find(|(_, (stored, _))| is_stored(&format!("{prefix}{stored}"))).or_else(|| fitting().next());
        let stored = found.as_ref().map_or(name, |(_, (stored, _))| stored);
        let mut reference = TensorRef::whole(format!("{prefix}{stored}"));
        if let (Some(layer), true) = (layer, layout.pairs) {
            reference.order = order(&layer.attention, name, weight.shape[0]);
        }
        if let Some((place, (_, number))) = found {
            let count = layer.map_or(0, |layer| layer.mlp.num_experts());
            reference.slab = number.filter(|_| place.stacked).map(|index| Slab { index, count });
            reference.transposed = place.transposed && weight.role != Role::Vector;
            reference.rows = rows(place.part, weight.shape[0], layer.map(|layer| &layer.attention));
            reference.turned = place.part == Part::KeyOfLatent;
        }
        reference
    }

    /// Whether a stored tensor may be left alone. A tied head stored once more is the embedding's copy.
    pub fn ignores(&self, stored: &str) -> bool {
        let matches = |pattern: &&str| match pattern.split_once('*') {
            Some((start, end)) => stored.starts_with(start) && stored.ends_with(end),
            None => stored == *pattern,
        };
        self.ignored.iter().any(matches)
    }
}

/// The order of a weight's rows where rotated values are stored in pairs.
fn order(attention: &AttentionSpec, name: &str, rows: usize) -> RowOrder {
    let (module, part) = (name.split('.').nth(1), name.split('.').nth(2));
    let rotated = match attention.latent {
        Some(_) => part == Some("rope"),
        None => matches!(module, Some("q_proj" | "k_proj" | "q_norm" | "k_norm")),
    };
    // Of a compressed head only what is rotated is declared by itself.
    let head_dim = |rope: &RopeSpec| if attention.latent.is_some() { rope.head_dim } else { attention.head_dim };
    match &attention.rope {
        Some(rope) if rotated => RowOrder::Pairs {
            heads: rows / head_dim(rope),
            rotary_dim: (rope.rotary_dim < head_dim(rope)).then_some(rope.rotary_dim),
        },
        _ => RowOrder::AsStored,
    }
}

/// The rows of a part of `count` rows.
fn rows(part: Part, count: usize, attention: Option<&AttentionSpec>) -> Option<RowBlocks> {
    let block = |first| Some(RowBlocks { first, len: count, stride: count });
    let strided = |first| Some(RowBlocks { first, len: 1, stride: 2 });
    let latent = |rows: fn(&LatentSpec) -> RowBlocks| attention.and_then(|a| a.latent.as_ref()).map(rows);
    // Neighbouring rows of a head, of which `first` belong to something else, and `behind` do behind them.
    const fn of_head(first: usize, len: usize, behind: usize) -> RowBlocks {
        RowBlocks { first, len, stride: first + len + behind }
    }
    let heads = |heads: fn(&AttentionSpec) -> usize| attention.map_or(0, |a| heads(a) * a.head_dim);
    match part {
        Part::Whole => None,
        Part::Query | Part::First => block(0),
        Part::Key => block(heads(|a| a.num_heads)),
        Part::Value => block(heads(|a| a.num_heads + a.num_kv_heads)),
        Part::Second => block(count),
        Part::Even => strided(0),
        Part::Odd => strided(1),
        Part::QueryNope => latent(|l| of_head(0, l.qk_nope_head_dim, l.qk_rope_head_dim)),
        Part::QueryRope => latent(|l| of_head(l.qk_nope_head_dim, l.qk_rope_head_dim, 0)),
        Part::Latent => block(0),
        Part::LatentRope => block(attention.and_then(|a| a.latent).map_or(0, |l| l.kv_lora_rank)),
        Part::KeyOfLatent => latent(|l| of_head(0, l.qk_nope_head_dim, l.v_head_dim)),
        Part::ValueOfLatent => latent(|l| of_head(l.qk_nope_head_dim, l.v_head_dim, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(places: &[Place], name: &str) -> Option<(String, Option<usize>)> {
        places.iter().find_map(|place| place.find(name))
    }

    #[test]
    fn standard_names_reach_gguf() {
        assert_eq!(stored(GGUF_LAYER, "self_attn.q_proj.bias"), Some(("attn_q.bias".to_owned(), None)));
        assert_eq!(
            stored(GGUF_LAYER, "mlp.experts.11.up_proj.weight"),
            Some(("ffn_up_exps.weight".to_owned(), Some(11)))
        );
        assert_eq!(stored(GGUF_MODEL, "lm_head.weight"), Some(("output.weight".to_owned(), None)));
        assert_eq!(stored(GGUF_LAYER, "mlp.experts.x.up_proj.weight"), None);
    }

    #[test]
    fn a_whole_name_takes_the_place_of_module_and_kind() {
        let places =
            [Place::new("mlp.experts.*.down_proj.bias", "mlp.experts.down_proj_bias"), Place::new("a.*.b", "c.*.d")];
        assert_eq!(
            stored(&places, "mlp.experts.3.down_proj.bias"),
            Some(("mlp.experts.down_proj_bias".to_owned(), Some(3)))
        );
        assert_eq!(stored(&places, "mlp.experts.3.down_proj.weight"), None);
        assert_eq!(stored(&places, "a.7.b.weight"), Some(("c.7.d.weight".to_owned(), Some(7))));
    }

    #[test]
    fn parts_lie_one_after_the_other() {
        assert_eq!(rows(Part::Second, 4, None), Some(RowBlocks { first: 4, len: 4, stride: 4 }));
        assert_eq!(rows(Part::Odd, 4, None), Some(RowBlocks { first: 1, len: 1, stride: 2 }));
        assert_eq!(rows(Part::Whole, 4, None), None);
    }
}
