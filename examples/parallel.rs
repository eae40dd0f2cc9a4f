//! Door 3, build a model: a two-layer MLP of a column- and a row-parallel layer on 2 ranks, from `nxd-parallel` and `nxd-cpu` alone.
//!
//! `cargo run --package nxd-examples --example parallel`

use anyhow::{Result, anyhow};
use nxd_collectives::{Mesh, ThreadGroup};
use nxd_cpu::{CpuDevice, CpuOptions};
use nxd_ops::{
    Format, Gated, Input, Manifest, Ops, Output, Params, ShardLayout, SourceError, StoredWeight, WeightSource,
    WeightSpec,
};
use nxd_parallel::{ColumnParallelLinear, RowParallelLinear};
use std::{sync::Arc, thread, time::Duration};

/// `down(silu(up(x)) * up(x))`: the layers know their sharding, nobody knows a rank.
struct Mlp {
    up: ColumnParallelLinear,
    down: RowParallelLinear,
}

impl Mlp {
    fn new(params: &mut Params<'_>, ranks: usize) -> Self {
        let inner = Arc::new(ShardLayout::even(INNER, ranks));
        let up = ColumnParallelLinear::new(&mut params.scope("up"), OUTER, &inner, INNER, false);
        let down = RowParallelLinear::new(&mut params.scope("down"), &inner, INNER, OUTER, false);
        Mlp { up, down }
    }

    fn forward<O: Ops>(&self, ops: &mut O) {
        let x = ops.input(Input::Hidden);
        let y = self.up.forward(ops, &x);
        let y = ops.gated(y.clone(), &y, Gated::Silu);
        let y = self.down.forward(ops, &y);
        ops.emit(Output::Hidden, &y);
    }
}

const OUTER: usize = 4;
const INNER: usize = 10;

/// Where weights come from: here from a formula, elsewhere from a checkpoint.
struct Formula;

impl WeightSource for Formula {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let [rows, cols] = spec.shape;
        let values = (0..rows * cols).map(|i| ((i % 7) as f32 - 3.0) / 8.0);
        let data = values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into();
        Ok(StoredWeight {
            origin: format!("`{}`", spec.name),
            format: Format::F32,
            shape: spec.shape,
            data,
            order: None,
            scales: None,
        })
    }
}

/// Runs the MLP over `ranks` ranks, each on a thread of its own, and gives what the first computed.
fn run(ranks: usize, x: &[f32]) -> Result<Vec<f32>> {
    let mut manifest = Manifest::new(Mesh::tensor(ranks));
    let mlp = Mlp::new(&mut Params::new(&mut manifest), ranks);
    let (mlp, manifest) = (&mlp, &Arc::new(manifest));
    thread::scope(|scope| {
        let groups = ThreadGroup::new(ranks, Duration::from_secs(10));
        let rank = |(rank, group)| {
            scope.spawn(move || -> Result<Vec<f32>> {
                let options = CpuOptions { threads: 1, ..CpuOptions::default() };
                let mut device = CpuDevice::bind(Arc::clone(manifest), &Formula, rank, Some(group), options)?;
                let mut step = device.open_rows(x, x.len() / OUTER);
                mlp.forward(&mut step);
                Ok(step.close()?.hidden)
            })
        };
        let threads: Vec<_> = groups.into_iter().enumerate().map(rank).collect();
        let outputs: Vec<_> = threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a rank panicked"))?).collect();
        outputs.into_iter().next().ok_or_else(|| anyhow!("no rank"))?
    })
}

#[allow(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let x = [1.0, -0.5, 0.25, 2.0, 0.0, 1.5, -1.0, 0.5];
    let (one, two) = (run(1, &x)?, run(2, &x)?);
    println!("1 rank:  {one:?}\n2 ranks: {two:?}");
    let close = one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-5);
    if close { Ok(()) } else { Err(anyhow!("the layouts disagree")) }
}
