//! cos and sin of a step's positions, computed once a step and shared by all layers.

use nxd_ops::{Batch, Rope, RopeSpec};

/// The tables of every declared rotary embedding for the rows of the open step.
pub(crate) struct RopeTables {
    tables: Vec<Table>,
}

struct Table {
    spec: RopeSpec,
    /// Frequencies and factor where they do not depend on the request.
    fixed: Option<(Vec<f32>, f32)>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTables {
    pub(crate) fn new(specs: &[RopeSpec]) -> Self {
        let table = |spec: &RopeSpec| Table {
            fixed: (!spec.depends_on_length()).then(|| spec.frequencies(0)),
            spec: spec.clone(),
            cos: Vec::new(),
            sin: Vec::new(),
        };
        RopeTables { tables: specs.iter().map(table).collect() }
    }

    /// Fills the tables for the rows of `batch`.
    pub(crate) fn prepare(&mut self, batch: &Batch) {
        for table in &mut self.tables {
            table.cos.clear();
            table.sin.clear();
            for r in 0..batch.num_requests() {
                let of_request;
                let (frequencies, factor) = match &table.fixed {
                    Some(fixed) => fixed,
                    None => {
                        of_request = table.spec.frequencies(batch.rope_lens[r]);
                        &of_request
                    }
                };
                for &position in &batch.positions[batch.rows(r)] {
                    for frequency in frequencies {
                        // The product is rounded to f32 as the models were trained with; its cosine is not.
                        let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                        table.cos.push(cos as f32 * factor);
                        table.sin.push(sin as f32 * factor);
                    }
                }
            }
        }
    }

    /// `(cos, sin)` of an embedding, each `[T, rotary_dim / 2]`, and its spec.
    pub(crate) fn get(&self, rope: Rope) -> (&[f32], &[f32], &RopeSpec) {
        let table = &self.tables[rope.0 as usize];
        (&table.cos, &table.sin, &table.spec)
    }
}
