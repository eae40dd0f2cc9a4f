//! Norms.

use super::Tracer;
use crate::record::{Element, Fold, Value};
use nxd_ops::NormSpec;

impl Tracer<'_> {
    /// `x / sqrt(mean(x²) + eps) * (weight + offset)` over groups of `width` columns.
    pub(super) fn rms_norm(&mut self, x: &Value, spec: &NormSpec) -> Value {
        let [rows, cols] = [x.dims()[0], x.dims()[1]];
        let grouped = [rows, cols / spec.width, spec.width];
        let wide = self.f32(x);
        let weight = self.vector(spec.weight);
        let rec = &mut self.b.rec;
        let wide = rec.reshape(&wide, &grouped);
        let squares = rec.multiply(&wide, &wide);
        let sums = rec.reduce(&squares, Fold::Add, 2);
        let means = rec.scale(&sums, 1.0 / spec.width as f32);
        let eps = rec.splat(f64::from(spec.eps), means.dims(), Element::F32);
        let means = rec.add(&means, &eps);
        let factors = rec.rsqrt(&means);
        let factors = rec.broadcast(&factors, &[0, 1], &grouped);
        let normed = rec.multiply(&wide, &factors);
        let offset = rec.splat(f64::from(spec.offset), weight.dims(), Element::F32);
        let weight = rec.add(&weight, &offset);
        let weight = rec.broadcast(&weight, &[2], &grouped);
        let normed = rec.multiply(&normed, &weight);
        let normed = rec.reshape(&normed, &[rows, cols]);
        self.activation(&normed)
    }
}
