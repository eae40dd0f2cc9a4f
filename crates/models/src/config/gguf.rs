//! GGUF metadata under the keys of `config.json`.
//!
//! Source: the key list of `docs/gguf.md` in ggml, and the writers of `convert_hf_to_gguf.py` in llama.cpp.

use super::{Config, ConfigError, Container};
use serde_json::{Map, Value};

/// (key of `config.json`, key of the GGUF file without its architecture prefix)
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("value_head_dim", "attention.value_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("layer_norm_eps", "attention.layer_norm_epsilon"),
    ("max_position_embeddings", "context_length"),
    ("sliding_window", "attention.sliding_window"),
    ("sliding_window_pattern", "attention.sliding_window_pattern"),
    ("use_bidirectional_attention", "attention.causal"),
    ("attn_temperature_scale", "attention.temperature_scale"),
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("rotary_dim", "rope.dimension_count"),
    ("rope_sections", "rope.dimension_sections"),
    ("rope_finetuned", "rope.scaling.finetuned"),
    ("vocab_size", "vocab_size"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("num_experts", "expert_count"),
    ("q_lora_rank", "attention.q_lora_rank"),
    ("kv_lora_rank", "attention.kv_lora_rank"),
    ("key_length_mla", "attention.key_length_mla"),
    ("value_length_mla", "attention.value_length_mla"),
    ("first_k_dense_replace", "leading_dense_block_count"),
    ("interleave_moe_layer_step", "interleave_moe_layer_step"),
    ("n_shared_experts", "expert_shared_count"),
    ("n_group", "expert_group_count"),
    ("topk_group", "expert_group_used_count"),
    ("expert_gating_func", "expert_gating_func"),
    ("norm_topk_prob", "expert_weights_norm"),
    ("routed_scaling_factor", "expert_weights_scale"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ("logit_scale", "logit_scale"),
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("attention_multiplier", "attention.scale"),
    ("clip_qkv", "attention.clamp_kqv"),
];

/// (key inside `rope_scaling`, key of the GGUF file without its architecture prefix); where a key is there twice, the first that the file has counts.
const SCALING_KEYS: &[(&str, &str)] = &[
    ("rope_type", "rope.scaling.type"),
    ("factor", "rope.scaling.factor"),
    ("factor", "rope.scale_linear"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("attention_factor", "rope.scaling.yarn_attn_factor"),
    ("attention_factor", "rope.scaling.attn_factor"),
    ("beta_fast", "rope.scaling.yarn_beta_fast"),
    ("beta_slow", "rope.scaling.yarn_beta_slow"),
];

/// The key as a GGUF file spells it.
pub(super) fn key_in_file(architecture: &str, key: &str) -> String {
    let scaling = key.strip_prefix("rope_scaling.");
    let known = match scaling {
        Some(key) => SCALING_KEYS.iter().find(|(ours, _)| *ours == key),
        None => KEYS.iter().find(|(ours, _)| *ours == key),
    };
    match known {
        Some((_, theirs)) => format!("{architecture}.{theirs}"),
        None => key.to_owned(),
    }
}

/// (key of `config.json`, its value where one of the tensors is there, those tensors): what writers leave to the tensors to say.
const FLAGS: &[(&str, bool, &[&str])] = &[
    // Without a matrix of its own the head is the embedding.
    ("tie_word_embeddings", false, &["output.weight"]),
    ("attention_bias", true, &["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"]),
    ("attention_output_bias", true, &["blk.0.attn_output.bias"]),
    ("mlp_bias", true, &["blk.0.ffn_up.bias"]),
    ("lm_head_bias", true, &["output.bias"]),
    ("has_qk_norm", true, &["blk.0.attn_q_norm.weight"]),
    // There is a key for it, which some writers set without a reason; llama.cpp goes by the norm, too.
    ("use_parallel_residual", false, &["blk.0.ffn_norm.weight"]),
];

/// What a GGUF file says beside its metadata.
pub(crate) struct TensorFacts<'a> {
    /// Whether there is a tensor of this name.
    pub(crate) has: &'a dyn Fn(&str) -> bool,
    /// Rows of `token_embd.weight`.
    pub(crate) embedding_rows: Option<usize>,
    /// The values of `rope_freqs.weight`.
    pub(crate) rope_factors: Option<Vec<f64>>,
    /// The values of `rope_factors_short.weight` and `rope_factors_long.weight`.
    pub(crate) long_rope: Option<[Vec<f64>; 2]>,
}

/// The configuration of a GGUF file: `value` looks up a metadata key as JSON.
pub(crate) fn from_gguf(
    file: String,
    value: impl Fn(&str) -> Option<Value>,
    tensors: TensorFacts<'_>,
) -> Result<Config, ConfigError> {
    let architecture = match value("general.architecture") {
        Some(Value::String(name)) => name,
        Some(found) => {
            let (key, expected) = ("general.architecture".to_owned(), "a string".to_owned());
            return Err(ConfigError::Value { file, key, found: found.to_string(), expected });
        }
        None => return Err(ConfigError::Missing { file, key: "general.architecture".to_owned() }),
    };
    let mut fields = Map::new();
    for (ours, theirs) in KEYS {
        if let Some(found) = value(&format!("{architecture}.{theirs}")) {
            fields.insert((*ours).to_owned(), found);
        }
    }
    translate(&mut fields);
    if let Some(scaling) = rope_scaling(|key| value(&format!("{architecture}.{key}")), tensors.long_rope) {
        fields.insert("rope_scaling".to_owned(), Value::Object(scaling));
    }
    if let (false, Some(rows)) = (fields.contains_key("vocab_size"), tensors.embedding_rows) {
        fields.insert("vocab_size".to_owned(), Value::from(rows));
    }
    for (key, there, names) in FLAGS {
        let flag = *there == names.iter().any(|name| (tensors.has)(name));
        fields.insert((*key).to_owned(), Value::Bool(flag));
    }
    let rope_factors = tensors.rope_factors;
    let config = Config { file, container: Container::Gguf, architecture, fields, renamed: &[], rope_factors };
    config.check_gguf_heads()?;
    Ok(config)
}

/// Gives values the form that `config.json` has for them.
fn translate(fields: &mut Map<String, Value>) {
    let window = fields.get_mut("sliding_window");
    if let Some(none) = window.filter(|window| window.as_u64() == Some(0)) {
        *none = Value::Null;
    }
    // One flag a layer; a number is the length of a round.
    let slides = fields.get("sliding_window_pattern").and_then(Value::as_array);
    if let Some(slides) = slides.and_then(|layers| layers.iter().map(Value::as_bool).collect::<Option<Vec<bool>>>()) {
        let kind = |slides| Value::from(if slides { "sliding_attention" } else { "full_attention" });
        fields.insert("layer_types".to_owned(), slides.into_iter().map(kind).collect());
        fields.remove("sliding_window_pattern");
    }
    if let Some(Value::Bool(causal)) = fields.get_mut("use_bidirectional_attention") {
        *causal = !*causal;
    }
}

/// The section `rope_scaling`, of which `value` looks up the keys and the tensors have short and long factors.
fn rope_scaling(value: impl Fn(&str) -> Option<Value>, factors: Option<[Vec<f64>; 2]>) -> Option<Map<String, Value>> {
    let mut scaling = Map::new();
    for (ours, theirs) in SCALING_KEYS {
        if let (false, Some(found)) = (scaling.contains_key(*ours), value(theirs)) {
            scaling.insert((*ours).to_owned(), found);
        }
    }
    // A tenth of what `config.json` says, for queries and keys alike; cos and sin stay as they are then.
    if let Some(tenth) = value("rope.scaling.yarn_log_multiplier").and_then(|v| v.as_f64()) {
        scaling.extend(["mscale", "mscale_all_dim"].map(|key| (key.to_owned(), Value::from(10.0 * tenth))));
    }
    if let Some([short, long]) = factors {
        scaling.insert("rope_type".to_owned(), Value::from("longrope"));
        scaling.insert("short_factor".to_owned(), Value::from(short));
        scaling.insert("long_factor".to_owned(), Value::from(long));
        scaling.entry("attention_factor").or_insert(Value::from(1.0));
    }
    // A factor alone is a linear one; writers store the other keys at times where nothing is scaled.
    if scaling.contains_key("factor") {
        scaling.entry("rope_type").or_insert(Value::from("linear"));
    }
    scaling.contains_key("rope_type").then_some(scaling)
}

impl Config {
    /// Refuses what the shared key names cannot say.
    fn check_gguf_heads(&self) -> Result<(), ConfigError> {
        if self.has("kv_lora_rank") {
            // Of compressed heads no length says how long the others are.
            return Ok(());
        }
        if let (Some(key), Some(value)) = (self.get("head_dim"), self.get("value_head_dim"))
            && key != value
        {
            return Err(self.unsupported("value_head_dim", value, &format!("the key length, {key}")));
        }
        Ok(())
    }
}
