//! Latent attention over a compressed KV cache.
//!
//! The projections that would make each head's keys and values of the compressed rows are absorbed: a head's query meets the key's, and
//! what attention gives meets the value's. So the cache holds one row a token for all heads, and every row of a step, of a prompt or not,
//! takes the same way.

use crate::decoder::kept;
use crate::norm::Norm;
use crate::spec::{AttentionSpec, LatentSpec};
use nxd_ops::{AttendSpec, Axis, KvLayer, KvSpec, Ops, Params, Rope, Rows, ShardLayout, Values};
use nxd_parallel::{ColumnParallelLinear, HeadParallelLinear, HeadSharding, RowParallelLinear};
use std::sync::Arc;

/// Latent attention, its query heads spread over the ranks; each rank keeps all of the compressed rows.
#[derive(Clone, Debug)]
pub struct LatentAttention {
    /// To compressed queries, and their norm.
    compress: Option<(ColumnParallelLinear, Norm)>,
    query: ColumnParallelLinear,
    query_rope: ColumnParallelLinear,
    latent: ColumnParallelLinear,
    latent_norm: Norm,
    key_rope: ColumnParallelLinear,
    of_key: HeadParallelLinear,
    of_value: HeadParallelLinear,
    output: RowParallelLinear,
    rope: Option<Rope>,
    kv_layer: KvLayer,
    attend: AttendSpec,
}

impl LatentAttention {
    /// Declares, with names below those of the standard layout where a weight is a part of a stored one:
    ///
    /// - `q_proj.nope` and `q_proj.rope`, or `q_a_proj`, `q_a_layernorm`, `q_b_proj.nope` and `q_b_proj.rope` where queries are compressed;
    /// - `kv_a_proj_with_mqa.latent` and `kv_a_proj_with_mqa.rope`, `kv_a_layernorm`;
    /// - `kv_b_proj.key` `[H * kv_lora_rank, qk_nope_head_dim]`, of which each head's part is the other way round than stored, and
    ///   `kv_b_proj.value` `[H * v_head_dim, kv_lora_rank]`;
    /// - `o_proj`, and the layer's KV cache.
    pub fn new(params: &mut Params<'_>, hidden_size: usize, spec: &AttentionSpec, latent: &LatentSpec) -> Self {
        let &AttentionSpec { num_heads, qkv_bias, output_bias, window, scale, softcap, .. } = spec;
        let &LatentSpec { q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, norm } = latent;
        let ranks = params.mesh().size(Axis::Tensor);
        // Query heads as if they shared one KV head, each `unit` rows.
        let heads = |unit: usize| HeadSharding::new(num_heads, 1, unit, ranks);
        let on_every_rank = |len: usize| Arc::new(ShardLayout::replicated(len, ranks));
        let compress = q_lora_rank.map(|rank| {
            let layout = on_every_rank(rank);
            let down = ColumnParallelLinear::new(&mut params.scope("q_a_proj"), hidden_size, &layout, rank, qkv_bias);
            (down, Norm::new(&mut params.scope("q_a_layernorm"), rank, norm))
        });
        let (name, inputs) = q_lora_rank.map_or(("q_proj", hidden_size), |rank| ("q_b_proj", rank));
        let mut of_query = |part, unit: usize| {
            let (layout, outputs) = (heads(unit).query, num_heads * unit);
            ColumnParallelLinear::new(&mut params.scope(name).scope(part), inputs, &layout, outputs, false)
        };
        let (query, query_rope) = (of_query("nope", qk_nope_head_dim), of_query("rope", qk_rope_head_dim));
        let mut of_row = |part, width: usize| {
            let mut scope = params.scope("kv_a_proj_with_mqa");
            ColumnParallelLinear::new(&mut scope.scope(part), hidden_size, &on_every_rank(width), width, qkv_bias)
        };
        let (down, key_rope) = (of_row("latent", kv_lora_rank), of_row("rope", qk_rope_head_dim));
        let latent_norm = Norm::new(&mut params.scope("kv_a_layernorm"), kv_lora_rank, norm);
        let mut of_heads = |part, inputs: usize, outputs: usize| {
            let layout = heads(outputs).query;
            HeadParallelLinear::new(&mut params.scope("kv_b_proj").scope(part), &layout, num_heads, [outputs, inputs])
        };
        let of_key = of_heads("key", qk_nope_head_dim, kv_lora_rank);
        let of_value = of_heads("value", kv_lora_rank, v_head_dim);
        let HeadSharding { query: layout, num_heads: local_heads, .. } = heads(v_head_dim);
        let inner = num_heads * v_head_dim;
        LatentAttention {
            compress,
            query,
            query_rope,
            latent: down,
            latent_norm,
            key_rope,
            of_key,
            of_value,
            output: RowParallelLinear::new(&mut params.scope("o_proj"), &layout, inner, hidden_size, output_bias),
            rope: spec.rope.as_ref().map(|rope| params.rope(rope)),
            kv_layer: params.kv_layer(KvSpec {
                num_kv_heads: 1,
                head_dim: kv_lora_rank + qk_rope_head_dim,
                values: Values::OfKeys(kv_lora_rank),
                window,
            }),
            attend: AttendSpec { softcap, ..AttendSpec::new(local_heads, scale) },
        }
    }

    /// `[T, E]` to `[T, E]`, or to the `rows` of it; stores the rows' compressed keys and values on the way.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor, rows: Option<Rows>) -> O::Tensor {
        let [query, query_rope, latent, key_rope] = self.project(ops, x);
        let latent = self.latent_norm.forward(ops, &latent);
        let mut rotate = |x| match self.rope {
            Some(rope) => ops.rope(x, rope),
            None => x,
        };
        let (query_rope, key_rope) = (rotate(query_rope), rotate(key_rope));
        let row = ops.concat_heads(&latent, &key_rope, 1);
        ops.kv_write(self.kv_layer, &row, None);
        let query = self.of_key.forward(ops, &query);
        let query = ops.concat_heads(&query, &query_rope, self.attend.num_heads);
        let attended = ops.attend(&query, self.kv_layer, &self.attend);
        let attended = kept(ops, attended, rows);
        let values = self.of_value.forward(ops, &attended);
        self.output.forward(ops, &values)
    }

    /// Queries without positions and those to be rotated, compressed rows, and the part of the keys to be rotated.
    fn project<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> [O::Tensor; 4] {
        let Some((compress, norm)) = &self.compress else {
            return ColumnParallelLinear::forward_all(
                [&self.query, &self.query_rope, &self.latent, &self.key_rope],
                ops,
                x,
            );
        };
        let [compressed, latent, key_rope] =
            ColumnParallelLinear::forward_all([compress, &self.latent, &self.key_rope], ops, x);
        let compressed = norm.forward(ops, &compressed);
        let [query, query_rope] = ColumnParallelLinear::forward_all([&self.query, &self.query_rope], ops, &compressed);
        [query, query_rope, latent, key_rope]
    }
}
