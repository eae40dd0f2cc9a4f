//! Attention over the paged KV cache.

use crate::norm::Norm;
use crate::spec::AttentionSpec;
use nxd_ops::Axis;
use nxd_ops::{AttendSpec, Dim, KvLayer, KvSpec, Ops, Params, Role, Rope, Sharding};
use nxd_parallel::{ColumnParallelLinear, HeadSharding, RowParallelLinear};

/// Multi-head attention, its heads spread over the ranks.
#[derive(Clone, Debug)]
pub struct Attention {
    query: ColumnParallelLinear,
    key: ColumnParallelLinear,
    value: ColumnParallelLinear,
    output: RowParallelLinear,
    qk_norm: Option<(Norm, Norm)>,
    rope: Rope,
    kv_layer: KvLayer,
    attend: AttendSpec,
}

impl Attention {
    /// Declares `q_proj`, `k_proj`, `v_proj`, `o_proj`, with `q_norm`, `k_norm` and `sinks` where the spec has them, and the layer's KV cache.
    pub fn new(params: &mut Params<'_>, hidden_size: usize, spec: &AttentionSpec) -> Self {
        let &AttentionSpec { num_heads, num_kv_heads, head_dim, window, .. } = spec;
        let ranks = params.mesh().size(Axis::Tensor);
        let heads = HeadSharding::new(num_heads, num_kv_heads, head_dim, ranks);
        let mut column = |name, layout, count: usize| {
            ColumnParallelLinear::new(&mut params.scope(name), hidden_size, layout, count * head_dim, spec.qkv_bias)
        };
        let query = column("q_proj", &heads.query, num_heads);
        let key = column("k_proj", &heads.key_value, num_kv_heads);
        let value = column("v_proj", &heads.key_value, num_kv_heads);
        let inner = num_heads * head_dim;
        let sinks = spec.sinks.then(|| {
            let layout = HeadSharding::new(num_heads, num_kv_heads, 1, ranks).query;
            let sharding = Sharding::Split { dim: Dim::Rows, axis: Axis::Tensor, layout };
            params.weight("sinks", Role::Vector, [num_heads, 1], sharding)
        });
        Attention {
            query,
            key,
            value,
            output: RowParallelLinear::new(
                &mut params.scope("o_proj"),
                &heads.query,
                inner,
                hidden_size,
                spec.output_bias,
            ),
            qk_norm: spec.qk_norm.map(|norm| {
                let mut of_heads = |name| Norm::new(&mut params.scope(name), head_dim, norm);
                (of_heads("q_norm"), of_heads("k_norm"))
            }),
            rope: params.rope(&spec.rope),
            kv_layer: params.kv_layer(KvSpec { num_kv_heads: heads.num_kv_heads, head_dim, window }),
            attend: AttendSpec { sinks, ..AttendSpec::new(heads.num_heads, spec.scale) },
        }
    }

    /// `[T, E]` to `[T, E]`; stores the rows' K and V on the way.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        let [mut q, mut k, v] = ColumnParallelLinear::forward_all([&self.query, &self.key, &self.value], ops, x);
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(ops, &q), k_norm.forward(ops, &k));
        }
        let (q, k) = (ops.rope(q, self.rope), ops.rope(k, self.rope));
        ops.kv_write(self.kv_layer, &k, &v);
        let attended = ops.attend(&q, self.kv_layer, &self.attend);
        self.output.forward(ops, &attended)
    }
}
