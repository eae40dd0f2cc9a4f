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
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("rotary_dim", "rope.dimension_count"),
    ("vocab_size", "vocab_size"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("num_experts", "expert_count"),
    ("q_lora_rank", "attention.q_lora_rank"),
    ("kv_lora_rank", "attention.kv_lora_rank"),
    ("key_length_mla", "attention.key_length_mla"),
    ("value_length_mla", "attention.value_length_mla"),
    ("first_k_dense_replace", "leading_dense_block_count"),
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
    ("use_parallel_residual", "use_parallel_residual"),
    ("clip_qkv", "attention.clamp_kqv"),
];

/// (key inside `rope_scaling`, key of the GGUF file without its architecture prefix)
const SCALING_KEYS: &[(&str, &str)] = &[
    ("rope_type", "rope.scaling.type"),
    ("factor", "rope.scaling.factor"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
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

/// What a GGUF file says beside its metadata.
pub(crate) struct TensorFacts {
    /// Whether there is an `output.weight`: without one the head is the embedding.
    pub(crate) has_output: bool,
    /// Whether the query projection has a bias.
    pub(crate) has_query_bias: bool,
    /// Whether the output projection has a bias.
    pub(crate) has_attention_output_bias: bool,
    /// Whether the MLP has biases.
    pub(crate) has_mlp_bias: bool,
    /// Rows of `token_embd.weight`.
    pub(crate) embedding_rows: Option<usize>,
    /// The values of `rope_freqs.weight`.
    pub(crate) rope_factors: Option<Vec<f64>>,
}

/// The configuration of a GGUF file: `value` looks up a metadata key as JSON.
pub(crate) fn from_gguf(
    file: String,
    value: impl Fn(&str) -> Option<Value>,
    tensors: TensorFacts,
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
    let mut scaling: Map<String, Value> = SCALING_KEYS
        .iter()
        .filter_map(|(ours, theirs)| Some(((*ours).to_owned(), value(&format!("{architecture}.{theirs}"))?)))
        .collect();
    // A tenth of what `config.json` says, for queries and keys alike; cos and sin stay as they are then.
    if let Some(tenth) = value(&format!("{architecture}.rope.scaling.yarn_log_multiplier")).and_then(|v| v.as_f64()) {
        scaling.extend(["mscale", "mscale_all_dim"].map(|key| (key.to_owned(), Value::from(10.0 * tenth))));
    }
    // Writers store the other scaling keys at times without a type, which then means none.
    if scaling.contains_key("rope_type") {
        fields.insert("rope_scaling".to_owned(), Value::Object(scaling));
    }
    if let (false, Some(rows)) = (fields.contains_key("vocab_size"), tensors.embedding_rows) {
        fields.insert("vocab_size".to_owned(), Value::from(rows));
    }
    for (key, flag) in [
        ("tie_word_embeddings", !tensors.has_output),
        ("attention_bias", tensors.has_query_bias),
        ("attention_output_bias", tensors.has_attention_output_bias),
        ("mlp_bias", tensors.has_mlp_bias),
    ] {
        fields.insert(key.to_owned(), Value::Bool(flag));
    }
    let rope_factors = tensors.rope_factors;
    let config = Config { file, container: Container::Gguf, architecture, fields, renamed: &[], rope_factors };
    config.check_gguf_heads()?;
    Ok(config)
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
