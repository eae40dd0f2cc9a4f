//! What depends on a row's position: `embed_positions` and `temper`.

use crate::ops::{Ops, Output};
use crate::spec::Temperature;
use crate::testing::check::{check, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::reference;
use crate::testing::requests;
use crate::weight::Weight;

struct Positions {
    x: Weight,
    table: Weight,
    temperature: Temperature,
}

impl Program for Positions {
    fn record<O: Ops>(&self, ops: &mut O) {
        let y = ops.embed_positions(self.table);
        ops.emit(Output::Layer(0), &y);
        let x = ops.embed(self.x);
        let y = ops.temper(x, &self.temperature);
        ops.emit(Output::Layer(1), &y);
    }
}

/// Rows of a table of positions, and rows that grow with theirs.
pub fn positions<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 300));
    let batches = requests::batches(&mut model.random, vocab);
    let last = batches.iter().flat_map(|batch| &batch.positions).copied().max().unwrap_or(0);
    let (x, table) = (model.table(vocab, cols), model.table(last as usize + 1, cols));
    let temperature = Temperature { floor: model.random.between(1, 5), scale: 0.3 };
    let program = Positions { x, table, temperature };
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let learned = reference::embed(&model.rows(table), &batch.positions);
        check(harness, Op::Position, format!("{cols} columns"), output(emitted, Output::Layer(0)), &learned);
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        let factor = |position: u32| {
            let steps = (position + 1) / temperature.floor as u32;
            1.0 + f64::from(temperature.scale) * (1.0 + f64::from(steps)).ln()
        };
        let rows = x.iter().zip(&batch.positions);
        let grown = rows.map(|(row, &position)| row.iter().map(|x| x * factor(position)).collect()).collect();
        check(harness, Op::Position, format!("{temperature:?}"), output(emitted, Output::Layer(1)), &grown);
    }
}
