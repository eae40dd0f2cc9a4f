//! How many KV blocks there are.

use crate::error::ExecutorError;
use nxd_cpu::KvDtype;
use nxd_cpu::kv::TILE;
use nxd_ops::{Axis, KvSpec, Manifest};

/// What the KV cache is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvOptions {
    /// Tokens a block.
    pub block_size: usize,
    /// Type of the stored K and V.
    pub dtype: KvDtype,
    /// Most bytes, all ranks together; [`KvOptions::WHAT_IS_LEFT`] for what weights and work space leave of the device's memory.
    pub budget_bytes: usize,
    /// Longest request; `None` for the model's own limit, or what fits.
    pub max_model_len: Option<usize>,
    /// Most requests that run at once.
    pub max_num_seqs: usize,
    /// Most tokens a step: a window must hold a step's tokens beside those that stay visible.
    pub max_num_batched_tokens: usize,
}

impl KvOptions {
    /// A budget of what a device has left: most of its free memory, or 1 GiB where it does not say.
    pub const WHAT_IS_LEFT: usize = usize::MAX;
}

/// Layers that keep the same of each token, and so share block tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// What each of them keeps on a rank.
    pub spec: KvSpec,
    /// How many they are.
    pub layers: usize,
    /// Bytes of a token, all layers and ranks together.
    pub token_bytes: usize,
}

impl KvGroup {
    /// The groups of a model whose keys and values are stored as `dtype`, in the order of [`Manifest::kv_groups`].
    pub fn all(manifest: &Manifest, dtype: KvDtype) -> Vec<KvGroup> {
        let ranks = manifest.mesh().size(Axis::Tensor);
        let group = |spec: KvSpec| {
            let layers = manifest.kv_layers().iter().filter(|s| **s == spec).count();
            // Sizes come from a file and from flags: what overflows is more than any budget.
            let values =
                spec.head_dim.saturating_add(spec.head_dim.checked_next_multiple_of(TILE).unwrap_or(usize::MAX));
            let head_bytes = values.saturating_mul(dtype.value_bytes()).saturating_add(2 * dtype.scale_bytes());
            let factors = [spec.num_kv_heads, head_bytes, layers, ranks];
            KvGroup { spec, layers, token_bytes: factors.into_iter().fold(1, usize::saturating_mul) }
        };
        manifest.kv_groups().into_iter().map(group).collect()
    }

    /// Bytes of a block.
    pub fn block_bytes(&self, block_size: usize) -> usize {
        self.token_bytes.saturating_mul(block_size)
    }

    /// Blocks that one request of `len` tokens holds at most.
    pub fn blocks_of_one(&self, len: usize, options: &KvOptions) -> usize {
        // The cache names the rule when it refuses blocks of 0 tokens.
        blocks_of_one(self.spec.window, len, options.max_num_batched_tokens.max(1), options.block_size.max(1))
    }
}

/// Blocks of `block_size` tokens that one request of `len` tokens holds at most in a group with this window, when its steps compute up to
/// `chunk` tokens; both are at least 1. Planners count with it, and so do those who hand blocks out.
pub fn blocks_of_one(window: Option<usize>, len: usize, chunk: usize, block_size: usize) -> usize {
    let whole = len.div_ceil(block_size);
    match window {
        // The first row sees `window - 1` older tokens; both ends of the stretch may lie inside a block.
        Some(window) => {
            whole.min(window.saturating_add(chunk).saturating_add(block_size).saturating_sub(3) / block_size + 1)
        }
        None => whole,
    }
}

/// The cache that fits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KvPlan {
    /// Bytes that it was to fit.
    pub(crate) budget_bytes: usize,
    /// Blocks of each group.
    pub(crate) num_blocks: Vec<usize>,
    /// Longest request.
    pub(crate) max_model_len: usize,
}

/// Plans the blocks of every group for `model_len`, the context the model was configured for. `budget` tells how many bytes there are
/// where requests have up to so many tokens: no more of them for longer ones.
pub(crate) fn plan(
    groups: &[KvGroup],
    model_len: usize,
    options: &KvOptions,
    budget: impl Fn(usize) -> usize,
) -> Result<KvPlan, ExecutorError> {
    let block_size = options.block_size.max(1);
    let asked = options.max_model_len.unwrap_or(model_len);
    let bytes_of_one = |len: usize| bytes_of_one(groups, len, options);
    let fits = |len: usize| bytes_of_one(len) <= budget(len);
    let max_model_len = if fits(asked) {
        asked
    } else {
        let tokens = largest(asked, fits);
        if options.max_model_len.is_some() || tokens == 0 {
            let (budget, needed) = (budget(asked), bytes_of_one(asked));
            return Err(ExecutorError::KvBudget { budget, tokens, max_model_len: asked, needed });
        }
        tokens
    };
    let budget_bytes = budget(max_model_len);
    let most = options.max_num_seqs.max(1);
    let seqs = largest(most, |seqs| bytes_of_one(max_model_len).saturating_mul(seqs) <= budget_bytes);
    // Requests are rarely as long as they may be: what is left of the budget makes further blocks, up to what all could use.
    let left = budget_bytes - bytes_of_one(max_model_len) * seqs;
    let block_bytes = groups.iter().map(|g| g.block_bytes(block_size)).fold(0, usize::saturating_add);
    let further = left / block_bytes.max(1);
    let of_group = |group: &KvGroup| {
        let of_one = group.blocks_of_one(max_model_len, options);
        (of_one * seqs).saturating_add(further).min(of_one.saturating_mul(most))
    };
    Ok(KvPlan { budget_bytes, num_blocks: groups.iter().map(of_group).collect(), max_model_len })
}

/// Bytes that one request of `len` tokens holds at most, in all groups.
pub(crate) fn bytes_of_one(groups: &[KvGroup], len: usize, options: &KvOptions) -> usize {
    let bytes = |g: &KvGroup| g.blocks_of_one(len, options).saturating_mul(g.block_bytes(options.block_size.max(1)));
    groups.iter().map(bytes).fold(0, usize::saturating_add)
}

/// The largest number up to `most` that `fits`, 0 if none does; what fits a number fits all smaller ones.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}
