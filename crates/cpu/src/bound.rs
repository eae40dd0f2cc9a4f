//! Weights bound to the device: for products, which pack them when they use them again, in file order for look-ups, as f32 for vectors.

use crate::error::CpuError;
use crate::isa::Isa;
use crate::kernels::experts::{BoundExpert, BoundProjection};
use crate::kernels::linear::{Activations, PackedMatrix};
use nxd_ops::{Expert, LocalWeight, Manifest, Projection, Role, Weight, WeightSource, WeightSpec};
use std::ops::Range;
use std::sync::Arc;

/// What meets weights of `role` where `activations` are asked for: who chooses between experts does so in f32.
pub(crate) fn met_by(role: Role, activations: Activations) -> Activations {
    if role == Role::Router { Activations::F32 } else { activations }
}

/// One rank's weights.
pub(crate) struct Bound {
    weights: Vec<BoundWeight>,
}

struct BoundWeight {
    vector: Vec<f32>,
    matrix: Option<PackedMatrix>,
    /// The matrices of heads, each of which reads its own columns.
    heads: Vec<PackedMatrix>,
    table: Option<Table>,
}

/// An embedding's rows, decoded when they are looked up.
struct Table {
    rows: LocalWeight,
    /// The tokens whose rows this rank holds.
    held: Range<usize>,
}

impl Bound {
    /// Takes every weight of `manifest` from `source`, cut for `rank`.
    pub(crate) fn new(
        manifest: &Manifest,
        source: &dyn WeightSource,
        rank: usize,
        activations: Activations,
        isa: Isa,
    ) -> Result<Self, CpuError> {
        let memory = Arc::default();
        let mut bind = |spec: &WeightSpec| -> Result<BoundWeight, CpuError> {
            let local = LocalWeight::new(spec, source.weight(spec)?, rank)?;
            let mut bound = BoundWeight { vector: Vec::new(), matrix: None, heads: Vec::new(), table: None };
            if spec.role == Role::Vector {
                bound.vector = local.to_f32();
                tracing::debug!(weight = %spec.name, stored = %local.format(), "kept as a vector of f32");
                return Ok(bound);
            }
            if let Role::Heads(outputs) = spec.role {
                let head = |head: usize| {
                    let rows = local.of_rows(head * outputs..(head + 1) * outputs);
                    PackedMatrix::pack_later(&memory, rows, activations, isa).reading_from(head * spec.shape[1])
                };
                bound.heads = (0..local.rows() / outputs).map(head).collect();
                tracing::debug!(weight = %spec.name, heads = bound.heads.len(), "to be packed head by head");
            }
            if matches!(spec.role, Role::Matrix | Role::Router | Role::TiedEmbedding) {
                let activations = met_by(spec.role, activations);
                let matrix = PackedMatrix::pack_later(&memory, local.clone(), activations, isa);
                tracing::debug!(weight = %spec.name, kernel = &**matrix.kernel_name(), "to be packed");
                bound.matrix = Some(matrix);
            }
            if matches!(spec.role, Role::Embedding | Role::TiedEmbedding) {
                tracing::debug!(weight = %spec.name, stored = %local.format(), "kept as a table, decoded row by row");
                bound.table = Some(Table { rows: local, held: spec.held_rows(rank) });
            }
            Ok(bound)
        };
        let weights = manifest.weights().iter().map(&mut bind).collect::<Result<_, _>>()?;
        Ok(Bound { weights })
    }

    /// A norm weight or bias.
    pub(crate) fn vector(&self, weight: Weight) -> &[f32] {
        &self.weights[weight.0 as usize].vector
    }

    /// A packed matrix.
    pub(crate) fn matrix(&self, weight: Weight) -> &PackedMatrix {
        self.weights[weight.0 as usize].matrix.as_ref().expect("modules multiply with weights declared as matrices")
    }

    /// The packed matrices of heads.
    pub(crate) fn heads(&self, weight: Weight) -> &[PackedMatrix] {
        &self.weights[weight.0 as usize].heads
    }

    /// An expert's weights.
    pub(crate) fn expert(&self, expert: &Expert) -> BoundExpert<'_> {
        let projection = |Projection { weight, bias }| BoundProjection {
            matrix: self.matrix(weight),
            bias: bias.map(|bias| self.vector(bias)),
        };
        let Expert { gate, up, down } = *expert;
        BoundExpert { gate: projection(gate), up: projection(up), down: projection(down) }
    }

    /// Columns of a table.
    pub(crate) fn table_columns(&self, weight: Weight) -> usize {
        self.table(weight).rows.cols()
    }

    /// Decodes the row of `token` into `out`; zeros where another rank holds it. `bytes` is work space.
    pub(crate) fn look_up(&self, weight: Weight, token: u32, bytes: &mut Vec<u8>, out: &mut [f32]) {
        let table = self.table(weight);
        if !table.held.contains(&(token as usize)) {
            out.fill(0.0);
            return;
        }
        let row = token as usize - table.held.start;
        bytes.resize(table.rows.row_bytes(), 0);
        table.rows.read_row(row, bytes);
        table.rows.decode(row, bytes, out);
    }

    /// Bytes of packed matrices and vectors, not of look-up tables: what a step reads, where there are no experts.
    pub(crate) fn bytes(&self) -> usize {
        let matrices = self.matrices().map(PackedMatrix::bytes).sum::<usize>();
        self.weights.iter().map(|w| 4 * w.vector.len()).sum::<usize>() + matrices
    }

    /// Bytes of one weight that products read.
    pub(crate) fn bytes_of(&self, weight: Weight) -> usize {
        let weight = &self.weights[weight.0 as usize];
        let matrices = weight.matrix.iter().chain(&weight.heads);
        4 * weight.vector.len() + matrices.map(PackedMatrix::bytes).sum::<usize>()
    }

    /// How many bytes each kernel serves.
    pub(crate) fn kernels(&self) -> Vec<(Arc<str>, usize)> {
        let mut kernels: Vec<(Arc<str>, usize)> = Vec::new();
        for matrix in self.matrices() {
            match kernels.iter_mut().find(|(name, _)| name == matrix.kernel_name()) {
                Some((_, bytes)) => *bytes += matrix.bytes(),
                None => kernels.push((Arc::clone(matrix.kernel_name()), matrix.bytes())),
            }
        }
        kernels
    }

    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.weights.iter().flat_map(|w| w.matrix.iter().chain(&w.heads))
    }

    fn table(&self, weight: Weight) -> &Table {
        self.weights[weight.0 as usize].table.as_ref().expect("modules look up weights declared as embeddings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_collectives::Mesh;
    use nxd_ops::{Format, Params, Sharding, SourceError, StoredWeight};

    struct Zeros;

    impl WeightSource for Zeros {
        fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
            let data = vec![0; 2 * spec.shape[0] * spec.shape[1]].into();
            let (origin, format, shape) = ("zeros".into(), Format::BF16, spec.shape);
            Ok(StoredWeight { origin, format, shape, data, order: None, scales: None })
        }
    }

    #[test]
    fn a_router_meets_f32_whatever_other_matrices_do() {
        let mut manifest = Manifest::new(Mesh::single());
        let mut params = Params::new(&mut manifest);
        let roles = [("router", Role::Router), ("matrix", Role::Matrix), ("head", Role::TiedEmbedding)];
        let weights = roles.map(|(name, role)| params.weight(name, role, [8, 32], Sharding::Replicated));
        let kernels = |activations| {
            let bound = Bound::new(&manifest, &Zeros, 0, activations, Isa::Scalar).unwrap();
            weights.map(|weight| bound.matrix(weight).kernel_name().to_string())
        };
        assert_eq!(kernels(Activations::Int8), ["bf16 f32 scalar", "bf16 int16 scalar", "bf16 int16 scalar"]);
        assert_eq!(kernels(Activations::F32), ["bf16 f32 scalar"; 3]);
    }
}
