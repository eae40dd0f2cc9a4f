//! How many KV blocks there are.

use crate::error::ExecutorError;
use nxd_cpu::KvDtype;
use nxd_ops::{KvSpec, Manifest};

/// What the KV cache is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvOptions {
    /// Tokens a block.
    pub block_size: usize,
    /// Type of the stored K and V.
    pub dtype: KvDtype,
    /// Most bytes, all ranks together; [`KvOptions::DEVICE_MEMORY`] leaves it to a traced device.
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
    pub const DEVICE_MEMORY: usize = usize::MAX;
}

/// The cache that fits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KvPlan {
    /// Blocks of each group.
    pub(crate) num_blocks: Vec<usize>,
    /// Bytes of a token in each group, all its layers and ranks together.
    pub(crate) token_bytes: Vec<usize>,
    /// Longest request.
    pub(crate) max_model_len: usize,
}

/// Plans the blocks of every group for `model_len`, the context the model was configured for.
pub(crate) fn plan(
    manifest: &Manifest,
    ranks: usize,
    model_len: usize,
    options: &KvOptions,
) -> Result<KvPlan, ExecutorError> {
    let block_size = options.block_size.max(1); // the cache names the rule when it refuses 0
    let options = &KvOptions { block_size, ..*options };
    let groups: Vec<Group> =
        manifest.kv_groups().iter().map(|spec| Group::new(manifest, spec, ranks, options)).collect();
    let asked = options.max_model_len.unwrap_or(model_len);
    let bytes_of_one = |len: usize| {
        groups
            .iter()
            .map(|g| g.blocks_of_one(len, options).saturating_mul(g.block_bytes()))
            .fold(0, usize::saturating_add)
    };
    let max_model_len = if bytes_of_one(asked) <= options.budget_bytes {
        asked
    } else {
        let tokens = largest(asked, |len| bytes_of_one(len) <= options.budget_bytes);
        if options.max_model_len.is_some() || tokens == 0 {
            return Err(ExecutorError::KvBudget { budget: options.budget_bytes, tokens, max_model_len: asked });
        }
        tokens
    };
    let seqs = largest(options.max_num_seqs.max(1), |seqs| {
        bytes_of_one(max_model_len).saturating_mul(seqs) <= options.budget_bytes
    });
    // Requests are rarely as long as they may be: what is left of the budget makes further blocks, up to what all could use.
    let left = options.budget_bytes - bytes_of_one(max_model_len) * seqs;
    let block_bytes = groups.iter().map(Group::block_bytes).fold(0, usize::saturating_add);
    let further = if seqs < options.max_num_seqs { left / block_bytes.max(1) } else { 0 };
    let num_blocks = groups.iter().map(|g| g.blocks_of_one(max_model_len, options) * seqs + further).collect();
    let token_bytes = groups.iter().map(|g| g.token_bytes).collect();
    Ok(KvPlan { num_blocks, token_bytes, max_model_len })
}

struct Group {
    window: Option<usize>,
    token_bytes: usize,
    block_size: usize,
}

impl Group {
    fn new(manifest: &Manifest, spec: &KvSpec, ranks: usize, options: &KvOptions) -> Self {
        let layers = manifest.kv_layers().iter().filter(|s| *s == spec).count();
        // Sizes come from a file and from flags: what overflows is more than any budget.
        let head_bytes = spec.head_dim.saturating_mul(options.dtype.value_bytes());
        let head_bytes = head_bytes.saturating_add(options.dtype.scale_bytes());
        let factors = [spec.num_kv_heads, head_bytes, layers, ranks];
        let token_bytes = factors.into_iter().fold(2, usize::saturating_mul);
        Group { window: spec.window, token_bytes, block_size: options.block_size }
    }

    fn block_bytes(&self) -> usize {
        self.token_bytes.saturating_mul(self.block_size)
    }

    /// Blocks that one request of `len` tokens holds at most.
    fn blocks_of_one(&self, len: usize, options: &KvOptions) -> usize {
        let live = match self.window {
            // Both ends of the live stretch may lie inside a block.
            Some(window) => {
                len.min(window.saturating_add(options.max_num_batched_tokens).saturating_add(options.block_size))
            }
            None => len,
        };
        live.div_ceil(options.block_size)
    }
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
