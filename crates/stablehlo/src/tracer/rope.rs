//! Rotary position embeddings.

use super::Tracer;
use crate::record::{Element, Value};
use nxd_ops::Rope;

/// The argument that holds the frequencies of rotary embedding `rope` where they depend on a request's length, `[R, rotary_dim / 2]`.
pub fn frequencies_name(rope: usize) -> String {
    format!("frequencies{rope}")
}

impl Tracer<'_> {
    /// Rotates the first `rotary_dim` values of each head by the row's position.
    pub(super) fn rotate(&mut self, x: &Value, rope: Rope) -> Value {
        let manifest = self.setting.manifest;
        let spec = &manifest.ropes()[rope.0 as usize];
        let [rows, cols] = [x.dims()[0], x.dims()[1]];
        let (heads, half) = (cols / spec.head_dim, spec.rotary_dim / 2);
        let (cosines, sines) = self.angles(rope);
        let wide = self.f32(x);
        let rec = &mut self.b.rec;
        let wide = rec.reshape(&wide, &[rows, heads, spec.head_dim]);
        let part = [rows, heads, half];
        let cosines = rec.broadcast(&cosines, &[0, 2], &part);
        let sines = rec.broadcast(&sines, &[0, 2], &part);
        let low = rec.slice(&wide, 2, 0..half);
        let high = rec.slice(&wide, 2, half..2 * half);
        let (low_cos, high_sin) = (rec.multiply(&low, &cosines), rec.multiply(&high, &sines));
        let (high_cos, low_sin) = (rec.multiply(&high, &cosines), rec.multiply(&low, &sines));
        let new_low = rec.subtract(&low_cos, &high_sin);
        let new_high = rec.add(&high_cos, &low_sin);
        let mut parts = vec![new_low, new_high];
        if spec.rotary_dim < spec.head_dim {
            parts.push(rec.slice(&wide, 2, spec.rotary_dim..spec.head_dim));
        }
        let rotated = rec.concat(&parts.iter().collect::<Vec<_>>(), 2);
        let rotated = rec.reshape(&rotated, &[rows, cols]);
        self.activation(&rotated)
    }

    /// Cosines and sines of every row, `[T, rotary_dim / 2]`.
    fn angles(&mut self, rope: Rope) -> (Value, Value) {
        if let Some(known) = self.angles.get(&rope.0) {
            return known.clone();
        }
        let spec = &self.setting.manifest.ropes()[rope.0 as usize];
        let (requests, tokens, rows) = (self.bucket().requests, self.bucket().tokens, self.bucket().rows());
        let half = spec.rotary_dim / 2;
        let (fixed, factor) = spec.frequencies(0);
        let frequencies = if spec.depends_on_length() {
            let of_requests = self.b.input(&frequencies_name(rope.0 as usize), &[requests, half], Element::F32);
            let of_rows = self.b.rec.broadcast(&of_requests, &[0, 2], &[requests, tokens, half]);
            self.b.rec.reshape(&of_rows, &[rows, half])
        } else {
            let all = self.b.rec.floats(&fixed);
            self.b.rec.broadcast(&all, &[1], &[rows, half])
        };
        let positions = self.b.input("positions", &[rows], Element::I32);
        let rec = &mut self.b.rec;
        let positions = rec.convert(&positions, Element::F32);
        let positions = rec.broadcast(&positions, &[0], &[rows, half]);
        let angles = rec.multiply(&positions, &frequencies);
        let (mut cosines, mut sines) = (rec.cosine(&angles), rec.sine(&angles));
        if factor.to_bits() != 1.0_f32.to_bits() {
            (cosines, sines) = (rec.scale(&cosines, factor), rec.scale(&sines, factor));
        }
        self.angles.insert(rope.0, (cosines.clone(), sines.clone()));
        (cosines, sines)
    }
}
