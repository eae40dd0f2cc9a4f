//! Checkpoints as a weight source: names, shapes, row orders.

use super::gguf_writer::*;
use super::open_bytes;
use nxd_models::Checkpoint;
use nxd_models::checkpoint::{NamedWeights, RowOrder, TensorRef};
use nxd_ops::{LocalWeight, Manifest, Mesh, Params, Role, Sharding, SourceError, WeightSource, WeightSpec};

const HEADS: usize = 3;
const HEAD_DIM: usize = 4;
const ROWS: usize = HEADS * HEAD_DIM;
const COLS: usize = 2;

fn f32_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn spec(name: &str, role: Role, shape: [usize; 2]) -> WeightSpec {
    WeightSpec { name: name.to_owned(), role, shape, sharding: Sharding::Replicated }
}

/// The values of each row in the order that GGUF's llama layout stores them: `[heads, 2, D/2]` with the last two swapped.
fn permuted<T: Clone>(rows: &[T]) -> Vec<T> {
    let mut stored = Vec::new();
    for head in rows.chunks(HEAD_DIM) {
        for j in 0..HEAD_DIM / 2 {
            for half in 0..2 {
                stored.push(head[half * HEAD_DIM / 2 + j].clone());
            }
        }
    }
    stored
}

fn checkpoint() -> Checkpoint {
    let rows: Vec<[f32; COLS]> = (0..ROWS).map(|row| [row as f32, -(row as f32)]).collect();
    let file = GgufFile::empty()
        .tensor("blk.0.attn_q.weight", &[COLS as u64, ROWS as u64], F32, f32_bytes(permuted(&rows).into_flattened()))
        .tensor(
            "blk.0.attn_q.bias",
            &[ROWS as u64],
            F32,
            f32_bytes(permuted(&(0..ROWS).map(|i| i as f32).collect::<Vec<_>>())),
        )
        .tensor("blk.0.ffn_up.weight", &[COLS as u64, ROWS as u64], F32, f32_bytes(rows.into_flattened()))
        .tensor("blk.0.cube.weight", &[2, 2, 2], F32, vec![0; 32])
        .tensor("blk.0.odd.weight", &[256], IQ2_XXS, vec![0; 66]);
    open_bytes("model.gguf", &file.bytes()).unwrap()
}

fn weights(heads: usize) -> NamedWeights {
    NamedWeights::new(checkpoint(), move |weight| {
        let pairs = RowOrder::Pairs { heads, rotary_dim: None };
        let order = if weight.name.contains("attn_q") { pairs } else { RowOrder::AsStored };
        TensorRef { order, ..TensorRef::whole(format!("blk.0.{}", weight.name)) }
    })
}

fn values(name: &str, role: Role, shape: [usize; 2]) -> Vec<f32> {
    let spec = spec(name, role, shape);
    let stored = weights(HEADS).weight(&spec).unwrap();
    LocalWeight::new(&spec, stored, 0).unwrap().to_f32()
}

#[test]
fn interleaved_heads_come_back_in_the_order_of_hugging_face() {
    let expected: Vec<f32> = (0..ROWS).flat_map(|row| [row as f32, -(row as f32)]).collect();
    assert_eq!(values("attn_q.weight", Role::Matrix, [ROWS, COLS]), expected);
    assert_eq!(values("ffn_up.weight", Role::Matrix, [ROWS, COLS]), expected, "not permuted, not touched");
    let expected: Vec<f32> = (0..ROWS).map(|row| row as f32).collect();
    assert_eq!(values("attn_q.bias", Role::Vector, [ROWS, 1]), expected, "biases as well");
}

#[test]
fn heads_that_do_not_divide_the_rows_are_a_shape_error() {
    for heads in [0, 5, 12, usize::MAX] {
        let error = weights(heads).weight(&spec("attn_q.weight", Role::Matrix, [20, COLS])).unwrap_err();
        assert!(matches!(error, SourceError::Shape { .. }), "{error}");
        assert!(
            error.to_string().starts_with("model.gguf: tensor `blk.0.attn_q.weight` is [12, 2], the configuration")
        );
    }
}

#[test]
fn weights_that_cannot_be_given_are_named() {
    let message = |name: &str, role| weights(HEADS).weight(&spec(name, role, [ROWS, COLS])).unwrap_err().to_string();
    let missing = message("attn_v.weight", Role::Matrix);
    assert!(
        missing.starts_with("model.gguf: tensor `blk.0.attn_v.weight` is missing (have `blk.0.attn_q.weight`"),
        "{missing}"
    );
    assert_eq!(message("nothing.like.this.at.all.in.there", Role::Matrix).matches("have").count(), 0);
    let cube = message("cube.weight", Role::Matrix);
    assert!(cube.contains("tensor `blk.0.cube.weight` is [2, 2, 2], the configuration implies [12, 2]"), "{cube}");
    let odd = message("odd.weight", Role::Vector);
    assert!(
        odd.contains("tensor `blk.0.odd.weight` is stored as IQ2_XXS, which is not supported for a vector"),
        "{odd}"
    );
}

#[test]
fn a_hint_has_at_most_five_names() {
    let mut file = GgufFile::empty();
    for i in 0..20 {
        file = file.tensor(format!("blk.{i}.attn_q.weight"), &[1], F32, vec![0; 4]);
    }
    let checkpoint = open_bytes("model.gguf", &file.bytes()).unwrap();
    let message = checkpoint.tensor("blk.20.attn_q.weight").unwrap_err().to_string();
    assert_eq!(message.matches("attn_q").count(), 6, "{message}");
}

#[test]
fn tensors_that_nobody_declares_are_listed() {
    let mut manifest = Manifest::new(Mesh::single());
    Params::new(&mut manifest).weight("attn_q.weight", Role::Matrix, [ROWS, COLS], Sharding::Replicated);
    let weights = weights(HEADS);
    let unexpected = weights.unexpected(&manifest, |name| name.ends_with(".bias") || name.contains("odd"));
    assert_eq!(unexpected, ["blk.0.ffn_up.weight", "blk.0.cube.weight"]);
}
