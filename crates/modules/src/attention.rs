//! Attention over the paged KV cache.

use crate::decoder::kept;
use crate::norm::Norm;
use crate::spec::{AttentionSpec, QkNorm, QkNormOver};
use nxd_ops::{
    AttendSpec, Axis, Dim, KvLayer, KvSpec, Map, Ops, Params, Role, Rope, Rows, ShardLayout, Sharding, Spread,
    Temperature, Values,
};
use nxd_parallel::{ColumnParallelLinear, HeadSharding, RowParallelLinear};
use std::sync::Arc;

/// Multi-head attention, its heads spread over the ranks.
#[derive(Clone, Debug)]
pub struct Attention {
    query: ColumnParallelLinear,
    key: ColumnParallelLinear,
    value: ColumnParallelLinear,
    output: RowParallelLinear,
    clip: Option<f32>,
    norms: Option<QkNorms>,
    rope: Option<Rope>,
    temperature: Option<Temperature>,
    kv_layer: KvLayer,
    attend: AttendSpec,
}

/// The norms of queries and keys.
#[derive(Clone, Copy, Debug)]
struct QkNorms {
    query: Norm,
    key: Norm,
    after_rope: bool,
}

impl Attention {
    /// Declares `q_proj`, `k_proj`, `v_proj`, `o_proj`, with `q_norm`, `k_norm` and `sinks` where the spec has them, and the layer's KV cache.
    pub fn new(params: &mut Params<'_>, hidden_size: usize, spec: &AttentionSpec) -> Self {
        let &AttentionSpec { num_heads, num_kv_heads, head_dim, window, chunk, .. } = spec;
        let ranks = params.mesh().size(Axis::Tensor);
        let heads = HeadSharding::new(num_heads, num_kv_heads, head_dim, ranks);
        let mut column = |name, layout, count: usize| {
            ColumnParallelLinear::new(&mut params.scope(name), hidden_size, layout, count * head_dim, spec.qkv_bias)
        };
        let query = column("q_proj", &heads.query, num_heads);
        let key = column("k_proj", &heads.key_value, num_kv_heads);
        let value = column("v_proj", &heads.key_value, num_kv_heads);
        let inner = num_heads * head_dim;
        let output = &mut params.scope("o_proj");
        let output = RowParallelLinear::new(output, &heads.query, inner, hidden_size, spec.output_bias);
        let sinks = spec.sinks.then(|| {
            let layout = Arc::clone(&heads.query_values);
            let rows = Sharding::Split { dim: Dim::Rows, axis: Axis::Tensor, layout };
            params.weight("sinks", Role::Vector, [num_heads, 1], rows)
        });
        Attention {
            query,
            key,
            value,
            output,
            clip: spec.clip,
            norms: spec.qk_norm.map(|norm| QkNorms::new(params, norm, spec, &heads)),
            rope: spec.rope.as_ref().map(|rope| params.rope(rope)),
            temperature: spec.temperature,
            // What lies further back than a chunk is long is not seen again.
            kv_layer: params.kv_layer(KvSpec {
                num_kv_heads: heads.num_kv_heads,
                head_dim,
                values: Values::Own,
                window: window.or(chunk),
            }),
            attend: AttendSpec { softcap: spec.softcap, sinks, chunk, ..AttendSpec::new(heads.num_heads, spec.scale) },
        }
    }

    /// `[T, E]` to `[T, E]`, or to the `rows` of it; stores the rows' K and V on the way.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor, rows: Option<Rows>) -> O::Tensor {
        let [mut q, mut k, mut v] = ColumnParallelLinear::forward_all([&self.query, &self.key, &self.value], ops, x);
        if let Some(norms) = self.norms.filter(|norms| !norms.after_rope) {
            (q, k) = norms.forward(ops, &q, &k);
        }
        if let Some(limit) = self.clip {
            [q, k, v] = [q, k, v].map(|x| ops.map(x, Map::Clamp(limit)));
        }
        if let Some(rope) = self.rope {
            (q, k) = (ops.rope(q, rope), ops.rope(k, rope));
        }
        if let Some(norms) = self.norms.filter(|norms| norms.after_rope) {
            (q, k) = norms.forward(ops, &q, &k);
        }
        if let Some(temperature) = &self.temperature {
            q = ops.temper(q, temperature);
        }
        ops.kv_write(self.kv_layer, &k, Some(&v));
        let attended = ops.attend(&q, self.kv_layer, &self.attend);
        let attended = kept(ops, attended, rows);
        self.output.forward(ops, &attended)
    }
}

impl QkNorms {
    fn new(params: &mut Params<'_>, spec: QkNorm, attention: &AttentionSpec, heads: &HeadSharding) -> Self {
        let ranks = params.mesh().size(Axis::Tensor);
        let head_dim = attention.head_dim;
        let mut norm = |name, count: usize, layout: &Arc<ShardLayout>, copies| {
            let mut params = params.scope(name);
            let rows = Sharding::Split { dim: Dim::Rows, axis: Axis::Tensor, layout: Arc::clone(layout) };
            let columns = count * head_dim;
            match spec.over {
                QkNormOver::Head => Norm::new(&mut params, head_dim, spec.norm),
                QkNormOver::OwnHead => Norm::of_columns(&mut params, head_dim, spec.norm, columns, rows, None),
                QkNormOver::Projection => {
                    let spread = (ranks > 1).then_some(Spread { axis: Axis::Tensor, copies });
                    Norm::of_columns(&mut params, columns, spec.norm, columns, rows, spread)
                }
            }
        };
        let query = norm("q_norm", attention.num_heads, &heads.query, 1);
        let key = norm("k_norm", attention.num_kv_heads, &heads.key_value, heads.kv_copies);
        QkNorms { query, key, after_rope: spec.after_rope }
    }

    fn forward<O: Ops>(&self, ops: &mut O, q: &O::Tensor, k: &O::Tensor) -> (O::Tensor, O::Tensor) {
        (self.query.forward(ops, q), self.key.forward(ops, k))
    }
}
