//! Which declared weights each tensor of a GGUF file is made of.

use crate::checkpoint::TensorRef;
use crate::config::Container;
use crate::families::Family;
use crate::quantise::QuantiseError;
use nxd_modules::DecoderSpec;
use nxd_ops::{Manifest, Role, WeightSpec};

/// A tensor that is put together from declared weights.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: String,
    /// Indices of the weights.
    pub(super) weights: Vec<usize>,
    /// For each row which of the weights, and its row there; `None` for the rows of the only one.
    pub(super) order: Option<Vec<(u32, u32)>>,
    /// Values of a vector.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) is_vector: bool,
    /// Whether it is what norms multiply with.
    pub(super) is_norm: bool,
    /// Experts, where each has a slab of it.
    pub(super) count: Option<usize>,
}

/// A weight, where it lies in its tensor, and which rows of its slab are its own.
struct Part {
    index: usize,
    slab: Option<usize>,
    rows: Vec<usize>,
}

/// The tensors of a GGUF file of the family `target`, in the order in which `manifest` declares their weights.
///
/// # Errors
/// When a weight is stored in a form that is read and not written, or the weights do not make up whole tensors.
pub(super) fn made(
    target: &'static Family,
    spec: &DecoderSpec,
    manifest: &Manifest,
) -> Result<Vec<Made>, QuantiseError> {
    let mut tensors: Vec<(Made, Vec<Part>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (index, weight) in manifest.weights().iter().enumerate() {
        // Of several names that a tensor may have, the first is the one of today.
        let reference = target.names.find(spec, Container::Gguf, weight, |_| false);
        let unwritten = || QuantiseError::NoGguf {
            family: target.name,
            reason: format!("`{}` is stored there in a form that is only read", weight.name),
        };
        if reference.transposed || reference.turned {
            return Err(unwritten());
        }
        let rows = reference.rows_of_slab(weight.shape[0]).ok_or_else(unwritten)?;
        let place = *places.entry(reference.name.clone()).or_insert_with(|| {
            tensors.push((begun(&reference, weight), Vec::new()));
            tensors.len() - 1
        });
        let (made, parts) = &mut tensors[place];
        let slab = reference.slab.map(|slab| slab.index);
        if made.cols != cols(weight) || made.count != reference.slab.map(|slab| slab.count) {
            return Err(unwritten());
        }
        made.weights.push(index);
        parts.push(Part { index, slab, rows });
    }
    tensors.into_iter().map(|(made, parts)| filled(made, &parts, target, manifest)).collect()
}

fn begun(reference: &TensorRef, weight: &WeightSpec) -> Made {
    Made {
        name: reference.name.clone(),
        weights: Vec::new(),
        order: None,
        rows: 0,
        cols: cols(weight),
        is_vector: weight.role == Role::Vector,
        is_norm: weight.role == Role::Vector && weight.name.ends_with("norm.weight"),
        count: reference.slab.map(|slab| slab.count),
    }
}

fn cols(weight: &WeightSpec) -> usize {
    if weight.role == Role::Vector { 1 } else { weight.shape[1] }
}

/// The tensor with the order of its rows, of which each must be there once.
fn filled(mut made: Made, parts: &[Part], target: &'static Family, manifest: &Manifest) -> Result<Made, QuantiseError> {
    let in_slab = parts.iter().flat_map(|part| &part.rows).max().map_or(0, |&last| last + 1);
    made.rows = in_slab.saturating_mul(made.count.unwrap_or(1));
    let listed: usize = parts.iter().map(|part| part.rows.len()).sum();
    let broken = || {
        let names = parts.iter().take(3).map(|part| manifest.weights()[part.index].name.as_str());
        let names = names.collect::<Vec<_>>().join("`, `");
        let reason = format!("`{names}` do not make up all of `{}`", made.name);
        QuantiseError::NoGguf { family: target.name, reason }
    };
    if listed != made.rows || u32::try_from(listed).is_err() {
        return Err(broken());
    }
    let mut order = vec![None; made.rows];
    for (number, part) in (0_u32..).zip(parts) {
        for (row, &stored) in (0_u32..).zip(&part.rows) {
            let place = part.slab.unwrap_or(0).saturating_mul(in_slab).saturating_add(stored);
            match order.get_mut(place) {
                Some(place @ None) => *place = Some((number, row)),
                _ => return Err(broken()),
            }
        }
    }
    // As many rows as places, none of them twice: every place is filled.
    let order: Vec<(u32, u32)> = order.into_iter().flatten().collect();
    let as_is = (0_u32..).zip(&order).all(|(row, place)| *place == (0, row));
    made.order = if as_is { None } else { Some(order) };
    Ok(made)
}
