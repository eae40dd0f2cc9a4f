//! Which attention heads each rank holds.

use nxd_ops::ShardLayout;
use std::sync::Arc;

/// The spread of query and KV heads over `ranks` ranks. Padded heads have zero weights: they attend, and add nothing.
///
/// | KV heads `K`, ranks `R` | KV heads a rank | query heads |
/// | --- | --- | --- |
/// | `K % R == 0` | `K / R` | with their KV head |
/// | `R % K == 0` | one, on `R / K` ranks each | a group is spread over these ranks, padded to an even split |
/// | otherwise | `K` padded to a multiple of `R` | with their KV head, padded groups for padded KV heads |
///
/// Source: the rule is that of NxD Inference's GQA sharding (`modules/attention/gqa.py`), with padding inside a group.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSharding {
    /// Query heads of each rank, as rows of the query projection.
    pub query: Arc<ShardLayout>,
    /// Query heads of each rank, as values of a vector that has one for each head.
    pub query_values: Arc<ShardLayout>,
    /// KV heads of each rank, as rows of the key and value projections.
    pub key_value: Arc<ShardLayout>,
    /// Query heads a rank, padding included.
    pub num_heads: usize,
    /// KV heads a rank, padding included.
    pub num_kv_heads: usize,
    /// On how many ranks each KV head is.
    pub kv_copies: usize,
}

impl HeadSharding {
    /// Spreads `num_heads` query heads and `num_kv_heads` KV heads of `head_dim` values over `ranks` ranks.
    ///
    /// # Panics
    /// When `num_kv_heads` is zero or does not divide `num_heads`, or `ranks` is zero: a spec is checked before.
    pub fn new(num_heads: usize, num_kv_heads: usize, head_dim: usize, ranks: usize) -> Self {
        assert!(
            ranks > 0 && num_kv_heads > 0 && num_heads.is_multiple_of(num_kv_heads),
            "{num_heads} heads, {num_kv_heads} KV heads"
        );
        let group = num_heads / num_kv_heads;
        let mut kv_copies = 1;
        let (mut query, mut key_value) = (Vec::new(), Vec::new());
        if num_kv_heads < ranks && ranks.is_multiple_of(num_kv_heads) {
            let sharers = ranks / num_kv_heads;
            kv_copies = sharers;
            let each = group.div_ceil(sharers);
            for rank in 0..ranks {
                let (kv_head, member) = (rank / sharers, rank % sharers);
                let in_group = member * each..(member + 1) * each;
                query.push(in_group.map(|i| (i < group).then_some(kv_head * group + i)).collect::<Vec<_>>());
                key_value.push(vec![Some(kv_head)]);
            }
        } else {
            let each = num_kv_heads.div_ceil(ranks);
            for rank in 0..ranks {
                let heads: Vec<_> = (rank * each..(rank + 1) * each).map(|h| (h < num_kv_heads).then_some(h)).collect();
                let of_group =
                    |h: &Option<usize>| (0..group).map(move |i| h.map(|h| h * group + i)).collect::<Vec<_>>();
                query.push(heads.iter().flat_map(of_group).collect());
                key_value.push(heads);
            }
        }
        HeadSharding {
            num_heads: query[0].len(),
            num_kv_heads: key_value[0].len(),
            kv_copies,
            query: Arc::new(ShardLayout::units(head_dim, &query)),
            query_values: Arc::new(ShardLayout::units(1, &query)),
            key_value: Arc::new(ShardLayout::units(head_dim, &key_value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_ops::Segment;
    use proptest::prelude::*;

    /// Head indices of a rank's part, `None` for padding.
    fn heads(layout: &ShardLayout, rank: usize, head_dim: usize) -> Vec<Option<usize>> {
        let of = |s: &Segment| match *s {
            Segment::Range { start, .. } => Some(start / head_dim),
            Segment::Zeros { .. } => None,
        };
        layout.part(rank).iter().map(of).collect()
    }

    #[test]
    fn kv_heads_are_sharded_when_tp_divides_them() {
        let sharding = HeadSharding::new(8, 4, 2, 2);
        assert_eq!(heads(&sharding.key_value, 1, 2), [Some(2), Some(3)]);
        assert_eq!(heads(&sharding.query, 1, 2), [Some(4), Some(5), Some(6), Some(7)]);
    }

    #[test]
    fn kv_heads_are_replicated_when_tp_exceeds_them() {
        let sharding = HeadSharding::new(6, 2, 2, 4);
        assert_eq!(heads(&sharding.key_value, 1, 2), [Some(0)]);
        assert_eq!(heads(&sharding.query, 0, 2), [Some(0), Some(1)]);
        assert_eq!(heads(&sharding.query, 1, 2), [Some(2), None], "padding stays inside the group");
        assert_eq!(heads(&sharding.query, 2, 2), [Some(3), Some(4)]);
    }

    #[test]
    fn kv_heads_are_padded_when_neither_divides() {
        let sharding = HeadSharding::new(9, 3, 2, 2);
        assert_eq!(heads(&sharding.key_value, 1, 2), [Some(2), None]);
        assert_eq!(heads(&sharding.query, 1, 2), [Some(6), Some(7), Some(8), None, None, None]);
    }

    proptest! {
        #[test]
        fn every_query_head_is_once_somewhere_beside_its_kv_head(kv in 1usize..9, group in 1usize..6, ranks in 1usize..9) {
            let sharding = HeadSharding::new(kv * group, kv, 4, ranks);
            let local_group = sharding.num_heads / sharding.num_kv_heads;
            prop_assert_eq!(sharding.num_heads % sharding.num_kv_heads, 0);
            let mut seen = vec![0; kv * group];
            for rank in 0..ranks {
                let kv_heads = heads(&sharding.key_value, rank, 4);
                for (i, head) in heads(&sharding.query, rank, 4).into_iter().enumerate() {
                    if let Some(head) = head {
                        seen[head] += 1;
                        prop_assert_eq!(kv_heads[i / local_group], Some(head / group));
                    }
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
