//! Where a declared weight lies in a checkpoint.
//!
//! Modules declare the names of the standard Hugging Face layout; GGUF files use names of their own.

/// How a family's tensors are named and laid out.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Names inside a layer that GGUF files of this family use instead of the standard ones: (declared, stored).
    pub gguf: &'static [(&'static str, &'static str)],
    /// Whether GGUF files store the rows of each query and key head with its two halves interleaved.
    pub gguf_interleaves_heads: bool,
    /// Patterns (one `*` each) of stored tensors that are not weights of the decoder and may be left alone.
    pub ignored: &'static [&'static str],
}

/// Declared and stored names inside a GGUF layer.
const GGUF_LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Declared and stored names outside of layers.
const GGUF_MODEL: &[(&str, &str)] =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

impl Names {
    /// The names that most families share.
    pub const STANDARD: Names =
        Names { gguf: &[], gguf_interleaves_heads: false, ignored: &["*.rotary_emb.inv_freq", "rope_freqs.weight"] };

    /// The name in a GGUF file of the weight declared as `name`.
    pub fn in_gguf(&self, name: &str) -> String {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        if let Some((layer, module)) = module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            let stored = self.gguf.iter().chain(GGUF_LAYER).find(|(declared, _)| *declared == module);
            let stored = stored.map_or(module, |(_, stored)| stored);
            return format!("blk.{layer}.{stored}.{kind}");
        }
        let stored = GGUF_MODEL.iter().find(|(declared, _)| *declared == module).map_or(module, |(_, stored)| stored);
        format!("{stored}.{kind}")
    }

    /// Whether the weight declared as `name` belongs to a query or key projection, whose heads GGUF files may interleave.
    pub fn is_rotated(name: &str) -> bool {
        name.contains(".q_proj.") || name.contains(".k_proj.")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_names_reach_gguf() {
        let names = Names::STANDARD;
        assert_eq!(names.in_gguf("model.layers.11.self_attn.q_proj.bias"), "blk.11.attn_q.bias");
        assert_eq!(names.in_gguf("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(names.in_gguf("lm_head.weight"), "output.weight");
    }

    #[test]
    fn a_family_replaces_names() {
        let names = Names { gguf: &[("post_attention_layernorm", "post_attention_norm")], ..Names::STANDARD };
        assert_eq!(names.in_gguf("model.layers.0.post_attention_layernorm.weight"), "blk.0.post_attention_norm.weight");
    }
}
