//! `map`.

use crate::ops::{Ops, Output};
use crate::spec::{Gated, Map};
use crate::testing::check::{check, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::reference;
use crate::testing::requests;
use crate::weight::Weight;

/// Values lie within ± this, so that every bend of the curves is met.
const MOST: f32 = 6.0;

const ALL: [Map; 6] = [
    Map::Activation(Gated::Silu),
    Map::Activation(Gated::Gelu),
    Map::Activation(Gated::GeluTanh),
    Map::Activation(Gated::Relu2),
    Map::Clamp(1.5),
    Map::SoftCap(2.5),
];

/// Every function of an embedded row.
struct Maps(Weight);

impl Program for Maps {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.0);
        let x = ops.scale(x, MOST);
        for (i, f) in ALL.into_iter().enumerate() {
            let y = ops.map(x.clone(), f);
            ops.emit(Output::Layer(i), &y);
        }
    }
}

/// Each function.
pub fn map<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 300));
    let x = model.table(vocab, cols);
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &Maps(x));
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        let x = reference::zip(&x, &x, |x, _| x * f64::from(MOST));
        for (i, f) in ALL.into_iter().enumerate() {
            let found = output(emitted, Output::Layer(i));
            check(harness, Op::Map, format!("{f:?} of {cols} columns"), found, &reference::map(&x, f));
        }
    }
}
