//! Declaring what a model needs.

use super::shard::{Dim, Segment, Sharding};
use crate::spec::{KvLayer, KvSpec, Rope, RopeSpec};
use nxd_collectives::Mesh;
use std::collections::HashSet;
use std::ops::Range;

/// Handle of a declared weight; an index into [`Manifest::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub u32);

/// What a weight is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A matrix of a linear layer, `[outputs, inputs]`.
    Matrix,
    /// A matrix whose products decide which experts a row takes, `[outputs, inputs]`: its input is always f32.
    Router,
    /// The matrices of heads, one after the other: `[heads * n, inputs]`, of which each head multiplies its own input with `n` rows
    /// ([`crate::Ops::linear_heads`]).
    Heads(usize),
    /// A table whose rows are looked up, `[tokens, columns]`.
    Embedding,
    /// Table and matrix at once: an embedding tied to the LM head.
    TiedEmbedding,
    /// A norm weight or a bias, `[n, 1]`; always used in f32.
    Vector,
}

/// A declared weight.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightSpec {
    /// Its name, as in Hugging Face checkpoints of the standard layout.
    pub name: String,
    /// What it is used as.
    pub role: Role,
    /// Rows and columns of the whole weight, before it is cut.
    pub shape: [usize; 2],
    /// Its place on the mesh.
    pub sharding: Sharding,
}

impl WeightSpec {
    /// The rows of the whole table that `rank` holds, padding left out; empty on a rank of padding only.
    pub fn held_rows(&self, rank: usize) -> Range<usize> {
        match &self.sharding {
            Sharding::Split { dim: Dim::Rows, layout, .. } => match layout.part(rank).first() {
                Some(&Segment::Range { start, len }) => start..start + len,
                _ => self.shape[0]..self.shape[0],
            },
            _ => 0..self.shape[0],
        }
    }
}

/// Everything that a model asks of a device, in order of declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    mesh: Mesh,
    weights: Vec<WeightSpec>,
    /// Their names, so that declaring many stays linear.
    names: HashSet<String>,
    ropes: Vec<RopeSpec>,
    kv_layers: Vec<KvSpec>,
}

impl Manifest {
    /// An empty manifest for a parallel layout.
    pub fn new(mesh: Mesh) -> Self {
        Manifest { mesh, weights: Vec::new(), names: HashSet::new(), ropes: Vec::new(), kv_layers: Vec::new() }
    }

    /// The parallel layout that the weights are cut for.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The declared weights; [`Weight`] handles index them.
    pub fn weights(&self) -> &[WeightSpec] {
        &self.weights
    }

    /// The spec behind a handle.
    pub fn spec(&self, weight: Weight) -> &WeightSpec {
        &self.weights[weight.0 as usize]
    }

    /// The weight of a name.
    pub fn find(&self, name: &str) -> Option<(Weight, &WeightSpec)> {
        if !self.names.contains(name) {
            return None;
        }
        let index = self.weights.iter().position(|spec| spec.name == name)?;
        Some((Weight(index as u32), &self.weights[index]))
    }

    /// The declared rotary embeddings; [`Rope`] handles index them.
    pub fn ropes(&self) -> &[RopeSpec] {
        &self.ropes
    }

    /// What each layer keeps of a token; [`KvLayer`] handles index them.
    pub fn kv_layers(&self) -> &[KvSpec] {
        &self.kv_layers
    }

    /// The KV groups: distinct KV specs in order of first use. Layers of a group share block tables.
    pub fn kv_groups(&self) -> Vec<KvSpec> {
        let mut groups = Vec::new();
        for spec in &self.kv_layers {
            if !groups.contains(spec) {
                groups.push(*spec);
            }
        }
        groups
    }
}

/// A scope of names in which a module declares what it needs.
pub struct Params<'m> {
    manifest: &'m mut Manifest,
    prefix: String,
}

impl<'m> Params<'m> {
    /// The root scope.
    pub fn new(manifest: &'m mut Manifest) -> Self {
        Params { manifest, prefix: String::new() }
    }

    /// The scope `name` inside this one.
    pub fn scope(&mut self, name: impl std::fmt::Display) -> Params<'_> {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Params { manifest: self.manifest, prefix }
    }

    /// The parallel layout.
    pub fn mesh(&self) -> &Mesh {
        &self.manifest.mesh
    }

    /// Declares the weight `name` of this scope.
    ///
    /// # Panics
    /// When the name is taken, or a shard layout has another number of ranks than its axis: both are mistakes of a module.
    pub fn weight(&mut self, name: &str, role: Role, shape: [usize; 2], sharding: Sharding) -> Weight {
        let name = if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) };
        assert!(self.manifest.names.insert(name.clone()), "weight `{name}` is declared twice");
        if let Sharding::Split { axis, layout, .. } = &sharding {
            assert_eq!(layout.ranks(), self.manifest.mesh.size(*axis), "shard layout of `{name}`");
        }
        self.manifest.weights.push(WeightSpec { name, role, shape, sharding });
        Weight((self.manifest.weights.len() - 1) as u32)
    }

    /// Declares a rotary embedding; equal ones share a handle.
    pub fn rope(&mut self, spec: &RopeSpec) -> Rope {
        let ropes = &mut self.manifest.ropes;
        let index = ropes.iter().position(|r| r == spec).unwrap_or_else(|| {
            ropes.push(spec.clone());
            ropes.len() - 1
        });
        Rope(index as u32)
    }

    /// Declares the KV cache of the next layer.
    pub fn kv_layer(&mut self, spec: KvSpec) -> KvLayer {
        self.manifest.kv_layers.push(spec);
        KvLayer((self.manifest.kv_layers.len() - 1) as u32)
    }
}
