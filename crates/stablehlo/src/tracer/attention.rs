//! The paged KV cache and attention, composed of StableHLO ops: blocks are gathered through the block table, then scored.

use super::Tracer;
use crate::bucket::CopyBucket;
use crate::program::Side;
use crate::record::{Element, Fold, Order, Pairs, Value};
use nxd_ops::{AttendSpec, KvLayer, KvSpec};

/// The argument that holds the slot of each row in KV group `group`, `[T]`.
pub fn slots_name(group: usize) -> String {
    format!("slots{group}")
}

/// The argument that holds each request's blocks in KV group `group`, `[R, blocks]`.
pub fn table_name(group: usize) -> String {
    format!("table{group}")
}

/// The argument that holds the logical index of each request's first block in KV group `group`, `[R]`.
pub fn first_block_name(group: usize) -> String {
    format!("first_block{group}")
}

/// The argument that holds the blocks that are copied, `[blocks]`.
pub const COPY_FROM: &str = "copy_from";
/// The argument that holds the blocks that they are copied to, `[blocks]`.
pub const COPY_TO: &str = "copy_to";

impl Tracer<'_> {
    fn kv_spec(&self, layer: KvLayer) -> (usize, KvSpec) {
        let layer = layer.0 as usize;
        (self.groups[layer], self.setting.manifest.kv_layers()[layer])
    }

    /// A layer's cache, `[slots, K, D]`.
    fn cache(&mut self, layer: KvLayer, side: Side) -> Value {
        let (group, spec) = self.kv_spec(layer);
        let dims = [self.setting.kv.slots(group), spec.num_kv_heads, spec.head_dim];
        self.b.kv(layer.0, side, &dims, self.setting.kv.element)
    }

    pub(super) fn write(&mut self, layer: KvLayer, k: &Value, v: &Value) {
        let (group, spec) = self.kv_spec(layer);
        let rows = self.bucket().rows();
        let slots = self.b.input(&slots_name(group), &[rows], Element::I32);
        for (side, values) in [(Side::Keys, k), (Side::Values, v)] {
            let cache = self.cache(layer, side);
            let values = self.b.rec.reshape(values, &[rows, spec.num_kv_heads, spec.head_dim]);
            let values = self.b.rec.convert(&values, self.setting.kv.element);
            let written = self.b.rec.put_rows(&cache, &slots, &values);
            self.b.set_kv(layer.0, side, written);
        }
    }

    /// Copies blocks in every layer of a KV group, all at once: none is read after it was written.
    pub(super) fn copy_blocks(&mut self, bucket: CopyBucket) {
        let block_size = self.setting.kv.block_size;
        let [from, to] = [COPY_FROM, COPY_TO].map(|name| self.b.input(name, &[bucket.blocks], Element::I32));
        for layer in (0..self.groups.len() as u32).map(KvLayer) {
            if self.kv_spec(layer).0 != bucket.group {
                continue;
            }
            for side in [Side::Keys, Side::Values] {
                let cache = self.cache(layer, side);
                let [slots, heads, width] = [0, 1, 2].map(|dim| cache.dims()[dim]);
                let rec = &mut self.b.rec;
                let by_block = rec.reshape(&cache, &[slots / block_size, block_size, heads, width]);
                let copied = rec.take_rows(&by_block, &from);
                let written = rec.put_rows(&by_block, &to, &copied);
                let written = rec.reshape(&written, cache.dims());
                self.b.set_kv(layer.0, side, written);
            }
        }
    }

    /// Keys or values of every request in order of position, `[R, S, K, D]`.
    fn gathered(&mut self, layer: KvLayer, side: Side) -> Value {
        let (group, spec) = self.kv_spec(layer);
        let (requests, blocks) = (self.bucket().requests, self.bucket().blocks[group]);
        let block_size = self.setting.kv.block_size;
        let (heads, width) = (spec.num_kv_heads, spec.head_dim);
        let cache = self.cache(layer, side);
        let table = self.b.input(&table_name(group), &[requests, blocks], Element::I32);
        let rec = &mut self.b.rec;
        let by_block = rec.reshape(&cache, &[cache.dims()[0] / block_size, block_size, heads, width]);
        let found = rec.take_rows(&by_block, &table);
        rec.reshape(&found, &[requests, blocks * block_size, heads, width])
    }

    /// Which keys exist, `[R, S]`, and which each row sees, `[R, Q, S]`.
    fn visible(&mut self, group: usize, spec: &KvSpec, chunk: Option<usize>) -> (Value, Value) {
        let (requests, tokens, rows) = (self.bucket().requests, self.bucket().tokens, self.bucket().rows());
        let blocks = self.bucket().blocks[group];
        let block_size = self.setting.kv.block_size;
        let keys = blocks * block_size;
        let (by_key, by_row) = ([requests, keys], [requests, tokens, keys]);
        let first = self.b.input(&first_block_name(group), &[requests], Element::I32);
        let lengths = self.b.input("lengths", &[requests], Element::I32);
        let positions = self.b.input("positions", &[rows], Element::I32);
        let rec = &mut self.b.rec;
        // Position of each key: its place in the table, behind the blocks that were given back.
        let per_block = rec.splat(block_size as f64, &[requests], Element::I32);
        let start = rec.multiply(&first, &per_block);
        let start = rec.broadcast(&start, &[0], &by_key);
        let place = rec.iota(1, &by_key, Element::I32);
        let position = rec.add(&start, &place);
        let lengths = rec.broadcast(&lengths, &[0], &by_key);
        let exists = rec.compare(Order::Lt, &position, &lengths);
        // A row sees keys up to its own position, as far back as the window reaches.
        let key = rec.broadcast(&position, &[0, 2], &by_row);
        let row = rec.reshape(&positions, &[requests, tokens]);
        let row = rec.broadcast(&row, &[0, 1], &by_row);
        let mut seen = rec.compare(Order::Le, &key, &row);
        if let Some(window) = spec.window {
            let window = rec.splat(window as f64, &by_row, Element::I32);
            let oldest = rec.subtract(&row, &window);
            let recent = rec.compare(Order::Gt, &key, &oldest);
            seen = rec.and(&seen, &recent);
        }
        if let Some(chunk) = chunk {
            let chunk = rec.splat(chunk as f64, &by_row, Element::I32);
            let start = rec.divide(&row, &chunk);
            let start = rec.multiply(&start, &chunk);
            let near = rec.compare(Order::Ge, &key, &start);
            seen = rec.and(&seen, &near);
        }
        (exists, seen)
    }

    /// Scaled dot-product attention of `q` `[T, H * D]`.
    pub(super) fn attention(&mut self, q: &Value, layer: KvLayer, attend: &AttendSpec) -> Value {
        let (group, spec) = self.kv_spec(layer);
        let (requests, tokens) = (self.bucket().requests, self.bucket().tokens);
        let (kv_heads, width) = (spec.num_kv_heads, spec.head_dim);
        let shared = attend.num_heads / kv_heads;
        let (exists, seen) = self.visible(group, &spec, attend.chunk);
        let keys = self.gathered(layer, Side::Keys);
        let values = self.gathered(layer, Side::Values);
        let (q, keys, values) = (self.activation(q), self.activation(&keys), self.activation(&values));
        let dtype = self.setting.dtype;
        let sinks = attend.sinks.map(|sinks| self.vector(sinks));
        let rec = &mut self.b.rec;
        // What a row does not see weighs nothing, but nothing times infinity is NaN: values of keys that do not exist (an earlier owner
        // left them) and values that are not finite are taken out, and rows that do see one of the latter become NaN at the end.
        let size = rec.abs(&values);
        let infinity = rec.splat(f64::INFINITY, values.dims(), dtype);
        let finite = rec.compare(Order::Lt, &size, &infinity);
        let exists = rec.broadcast(&exists, &[0, 1], values.dims());
        let kept = rec.and(&exists, &finite);
        let zeros = rec.splat(0.0, values.dims(), dtype);
        let values = rec.select(&kept, &values, &zeros);
        let broken = rec.not(&finite);
        let broken = rec.and(&exists, &broken);
        let broken = rec.convert(&broken, Element::F32);
        let broken = rec.reduce(&broken, Fold::Max, 3); // [R, S, K]
        let seen_as_number = rec.convert(&seen, Element::F32);
        let broken = rec.dot(&seen_as_number, &broken, Pairs { batch: (&[0], &[0]), contract: (&[2], &[1]) }); // [R, Q, K]

        let q = rec.reshape(&q, &[requests, tokens, kv_heads, shared, width]);
        let of_keys = Pairs { batch: (&[0, 2], &[0, 2]), contract: (&[4], &[3]) };
        let scores = rec.dot(&q, &keys, of_keys); // [R, K, Q, H / K, S]
        let mut scores = rec.scale(&scores, attend.scale);
        if let Some(cap) = attend.softcap {
            let bent = rec.scale(&scores, 1.0 / cap);
            let bent = rec.tanh(&bent);
            scores = rec.scale(&bent, cap);
        }
        let seen = rec.broadcast(&seen, &[0, 2, 4], scores.dims());
        // Finite, so that a row of padding which sees nothing stays finite too.
        let unseen = rec.splat(f64::from(f32::MIN), scores.dims(), Element::F32);
        let scores = rec.select(&seen, &scores, &unseen);
        let mut largest = rec.reduce_keep(&scores, Fold::Max, 4);
        let sinks = sinks.map(|sinks| {
            let by_head = rec.reshape(&sinks, &[kv_heads, shared]);
            rec.broadcast(&by_head, &[1, 3], scores.dims())
        });
        if let Some(sinks) = &sinks {
            largest = rec.maximum(&largest, sinks);
        }
        let scores = rec.subtract(&scores, &largest);
        let weights = rec.exponential(&scores);
        let mut total = rec.reduce_keep(&weights, Fold::Add, 4);
        if let Some(sinks) = &sinks {
            let sunk = rec.subtract(sinks, &largest);
            let sunk = rec.exponential(&sunk);
            total = rec.add(&total, &sunk);
        }
        let weights = rec.divide(&weights, &total);
        let weights = rec.convert(&weights, dtype);
        let of_values = Pairs { batch: (&[0, 1], &[0, 2]), contract: (&[4], &[1]) };
        let attended = rec.dot(&weights, &values, of_values); // [R, K, Q, H / K, D]
        let attended = rec.transpose(&attended, &[0, 2, 1, 3, 4]);
        let none = rec.splat(0.0, broken.dims(), Element::F32);
        let broken = rec.compare(Order::Gt, &broken, &none);
        let broken = rec.broadcast(&broken, &[0, 1, 2], attended.dims());
        let nan = rec.splat(f64::NAN, attended.dims(), Element::F32);
        let attended = rec.select(&broken, &nan, &attended);
        let attended = rec.reshape(&attended, &[requests * tokens, attend.num_heads * width]);
        self.activation(&attended)
    }
}
