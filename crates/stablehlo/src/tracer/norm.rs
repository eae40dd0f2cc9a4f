//! Norms.

use super::Tracer;
use crate::record::{Element, Fold, Value};
use nxd_ops::{Centre, NormSpec, Weight};

impl Tracer<'_> {
    /// `(x - c) / sqrt(mean((x - c)²) + eps) * (weight + offset) + bias` over groups of `width` columns.
    pub(super) fn normalised(&mut self, x: &Value, spec: &NormSpec) -> Value {
        let [rows, cols] = [x.dims()[0], x.dims()[1]];
        // A row that is spread over ranks is one group of each of them, of whatever columns it has.
        let group = if spec.spread.is_some() { cols } else { spec.width };
        let grouped = [rows, cols / group, group];
        let wide = self.f32(x);
        let mut wide = self.b.rec.reshape(&wide, &grouped);
        if spec.centre == Centre::Mean {
            let means = self.means(&wide, spec);
            let means = self.b.rec.broadcast(&means, &[0, 1], &grouped);
            wide = self.b.rec.subtract(&wide, &means);
        }
        let squares = self.b.rec.multiply(&wide, &wide);
        let means = self.means(&squares, spec);
        let rec = &mut self.b.rec;
        let eps = rec.splat(f64::from(spec.eps), means.dims(), Element::F32);
        let means = rec.add(&means, &eps);
        let factors = rec.rsqrt(&means);
        let factors = rec.broadcast(&factors, &[0, 1], &grouped);
        let mut normed = rec.multiply(&wide, &factors);
        if let Some(weight) = spec.weight {
            let weight = self.of_groups(weight, &grouped, spec.offset);
            normed = self.b.rec.multiply(&normed, &weight);
        }
        if let Some(bias) = spec.bias {
            let bias = self.of_groups(bias, &grouped, 0.0);
            normed = self.b.rec.add(&normed, &bias);
        }
        let normed = self.b.rec.reshape(&normed, &[rows, cols]);
        self.activation(&normed)
    }

    /// The mean of each group of `x`, `[T, groups]`.
    fn means(&mut self, x: &Value, spec: &NormSpec) -> Value {
        let mut sums = self.b.rec.reduce(x, Fold::Add, 2);
        let mut copies = 1;
        if let Some(spread) = spec.spread {
            copies = spread.copies;
            let ranks = self.ranks();
            sums = self.b.rec.all_reduce(&sums, Fold::Add, ranks);
        }
        self.b.rec.scale(&sums, 1.0 / (copies * spec.width) as f32)
    }

    /// A vector of one value for each column of a group, or of the row, plus `offset`, in the shape of the groups.
    fn of_groups(&mut self, vector: Weight, grouped: &[usize; 3], offset: f32) -> Value {
        let vector = self.vector(vector);
        let rec = &mut self.b.rec;
        let offset = rec.splat(f64::from(offset), vector.dims(), Element::F32);
        let vector = rec.add(&vector, &offset);
        let &[_, groups, width] = grouped;
        if vector.dims()[0] == width {
            return rec.broadcast(&vector, &[2], grouped);
        }
        let vector = rec.reshape(&vector, &[groups, width]);
        rec.broadcast(&vector, &[1, 2], grouped)
    }
}
