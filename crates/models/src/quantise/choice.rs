//! Which format each tensor of a GGUF file gets.
//!
//! Source: `llama_tensor_get_type` of `llama-quant.cpp` in llama.cpp, for `Q8_0`, `Q4_0` and `Q4_K_M`, without its exceptions for single models.

use super::Scheme;
use nxd_ops::{BlockFormat, Format};

/// What the choice depends on beside the tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    scheme: Scheme,
    num_layers: usize,
    /// Whether the embedding is the head, too.
    is_tied: bool,
}

impl Choice {
    /// The choice for a file that holds tensors of these names.
    pub(super) fn new<'n>(scheme: Scheme, names: impl Iterator<Item = &'n str>) -> Choice {
        let (mut num_layers, mut is_tied) = (0, true);
        for name in names {
            num_layers = num_layers.max(layer_of(name).map_or(0, |layer| layer.saturating_add(1)));
            is_tied &= name != "output.weight";
        }
        Choice { scheme, num_layers, is_tied }
    }

    /// The format of a tensor, rows first.
    pub(super) fn format(&self, name: &str, shape: &[usize]) -> Format {
        let cols = match shape {
            [_, .., cols] if is_matrix(name) => *cols,
            // Vectors are added or multiplied as f32, and routers and positions are small.
            _ => return Format::F32,
        };
        fitting(self.wanted(name), cols)
    }

    fn wanted(&self, name: &str) -> BlockFormat {
        let is_head = name == "output.weight" || self.is_tied && name == "token_embd.weight";
        match self.scheme {
            Scheme::Q8_0 => BlockFormat::Q8_0,
            Scheme::Q4_0 | Scheme::Q4_K if is_head => BlockFormat::Q6_K,
            Scheme::Q4_K if self.counts_more(name) => BlockFormat::Q6_K,
            Scheme::Q4_K => BlockFormat::Q4_K,
            // Folders have no blocks.
            Scheme::Q4_0 | Scheme::Int8 | Scheme::Fp8 => BlockFormat::Q4_0,
        }
    }

    /// Whether a tensor is one whose errors show most: values and down projections of the first and last eighth of the layers and of every third
    /// between them.
    fn counts_more(&self, name: &str) -> bool {
        let Some(layer) = layer_of(name) else { return false };
        let (first, last) = (self.num_layers / 8, 7 * self.num_layers / 8);
        let kind = name.split('.').nth(2).unwrap_or("");
        let is_kind = kind == "attn_v" || kind.starts_with("ffn_down");
        is_kind && (layer < first || layer >= last || (layer - first) % 3 == 2)
    }
}

/// Whether a tensor of several dimensions is a matrix that activations of many values meet.
fn is_matrix(name: &str) -> bool {
    let is_apart = ["ffn_gate_inp", "position_embd", "token_types"].iter().any(|kind| name.contains(kind));
    name.ends_with(".weight") && !is_apart
}

/// The wanted format, or the next with whole blocks in rows of `cols` values.
fn fitting(wanted: BlockFormat, cols: usize) -> Format {
    let others: &[BlockFormat] = match wanted {
        BlockFormat::Q4_K => &[BlockFormat::Q5_0],
        BlockFormat::Q6_K => &[BlockFormat::Q8_0],
        _ => &[],
    };
    let fits = |block: &&BlockFormat| cols.is_multiple_of(block.block_len());
    let block = [wanted].iter().chain(others).find(fits).copied();
    block.map_or(Format::F16, Format::Blocks)
}

/// The number of the layer that a tensor belongs to.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(scheme: Scheme, name: &str, shape: &[usize]) -> &'static str {
        let names = ["token_embd.weight", "blk.23.attn_v.weight", "output.weight"];
        Choice::new(scheme, names.into_iter()).format(name, shape).name()
    }

    #[test]
    fn matrices_are_quantised_and_the_rest_is_not() {
        for scheme in [Scheme::Q8_0, Scheme::Q4_0, Scheme::Q4_K] {
            assert_eq!(chosen(scheme, "blk.0.attn_norm.weight", &[512]), "F32");
            assert_eq!(chosen(scheme, "blk.0.ffn_gate_inp.weight", &[8, 512]), "F32");
            assert_eq!(chosen(scheme, "blk.0.ffn_gate_exps.bias", &[8, 512]), "F32");
            assert_eq!(chosen(scheme, "blk.0.ffn_up.weight", &[512, 33]), "F16");
        }
        assert_eq!(chosen(Scheme::Q8_0, "blk.0.ffn_up_exps.weight", &[8, 512, 64]), "Q8_0");
        assert_eq!(chosen(Scheme::Q4_0, "blk.0.ffn_up.weight", &[512, 64]), "Q4_0");
        assert_eq!(chosen(Scheme::Q4_0, "output.weight", &[512, 256]), "Q6_K");
    }

    #[test]
    fn four_bits_are_six_where_errors_count_most() {
        let of = |layer: usize, kind: &str| chosen(Scheme::Q4_K, &format!("blk.{layer}.{kind}.weight"), &[64, 512]);
        let more: Vec<usize> = (0..24).filter(|&layer| of(layer, "ffn_down") == "Q6_K").collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        assert_eq!((of(0, "attn_v"), of(3, "attn_v"), of(0, "attn_k")), ("Q6_K", "Q4_K", "Q4_K"));
        assert_eq!(chosen(Scheme::Q4_K, "blk.0.attn_v.weight", &[64, 96]), "Q8_0");
        assert_eq!(chosen(Scheme::Q4_K, "blk.3.attn_v.weight", &[64, 96]), "Q5_0");
        assert_eq!(chosen(Scheme::Q4_K, "token_embd.weight", &[64, 512]), "Q4_K");
        let tied = Choice::new(Scheme::Q4_K, ["token_embd.weight"].into_iter());
        assert_eq!(tied.format("token_embd.weight", &[64, 512]).name(), "Q6_K");
    }
}
