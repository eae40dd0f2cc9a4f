//! Quantised weights of every kind of group, widened inside a program: what the layouts of checkpoints to come are made of.

use crate::plugin::client;
use nxd_ops::{Input, Manifest, Mesh, Ops, Output, Params, Role, SamplingRow, Sharding};
use nxd_runtime::pjrt::{CompileOptions, ElementType, Program};
use nxd_stablehlo::kernel::Kernels;
use nxd_stablehlo::layout::{Group, WeightLayout};
use nxd_stablehlo::program::{ArgumentKey, Part};
use nxd_stablehlo::record::Element;
use nxd_stablehlo::sampling::SampleBucket;
use nxd_stablehlo::target::Target;
use nxd_stablehlo::tracer::{HiddenShape, KvShape, Setting, Tracer};

const ROWS: usize = 10;
const COLS: usize = 12;

/// The value of an e4m3fn code, by its definition (arXiv:2209.05433, table 1): 4 bits of exponent, bias 7, no infinities.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size =
        if exponent == 0 { mantissa / 8.0 * 2f64.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7) };
    if code >> 7 == 1 { -size } else { size }
}

/// Multiplies one row by a weight in this layout, on the plugin and in double precision.
fn holds(values: Element, group: Group) {
    let layout = WeightLayout { rows: ROWS, cols: COLS, values, group: Some(group), by_column: false, by_row: false };
    let codes: Vec<u8> = (0..ROWS * COLS).map(|i| (i * 37 % 119) as u8 | ((i % 3 == 0) as u8) << 7).collect();
    let [grid_rows, grid_cols] = layout.grid().unwrap();
    let scales: Vec<f32> = (0..grid_rows * grid_cols).map(|i| 0.25 + i as f32 / 8.0).collect();
    let mins: Vec<f32> = scales.iter().map(|s| 1.0 - s).collect();
    let x: Vec<f32> = (0..COLS).map(|i| i as f32 / 4.0 - 1.0).collect();

    let mut manifest = Manifest::new(Mesh::single());
    let weight = Params::new(&mut manifest).weight("w", Role::Matrix, [ROWS, COLS], Sharding::Replicated);
    let (layouts, kernels, target) = ([layout.clone()], Kernels::default(), Target::CPU);
    let kv = KvShape { element: Element::F32, block_size: 1, num_blocks: Vec::new() };
    let setting = Setting {
        manifest: &manifest,
        layouts: &layouts,
        kv: &kv,
        target: &target,
        kernels: &kernels,
        dtype: Element::F32,
        spread: target.spread,
    };
    let bucket = SampleBucket::of(&[SamplingRow::default()], true);
    let mut tracer = Tracer::sample(setting, &bucket, HiddenShape { rows: 1, cols: COLS });
    let hidden = tracer.input(Input::Hidden);
    let product = tracer.head(&hidden, weight);
    tracer.emit(Output::Logits, &product);
    let program = tracer.finish();

    let executable = client().compile(&Program::mlir(program.text.as_bytes()), &CompileOptions::replicated(1)).unwrap();
    let floats = |dims: &[usize], values: &[f32]| client().upload_slice(0, dims, values).unwrap();
    let stored = if values == Element::I8 { ElementType::S8 } else { ElementType::F8E4M3FN };
    let buffers: Vec<_> = program
        .arguments
        .iter()
        .map(|argument| match &argument.key {
            ArgumentKey::Weight { part: Part::Values, .. } => {
                client().upload(0, stored, &[ROWS, COLS], &codes).unwrap()
            }
            ArgumentKey::Weight { part: Part::Scales, .. } => floats(&[grid_rows, grid_cols], &scales),
            ArgumentKey::Weight { part: Part::Mins, .. } => floats(&[grid_rows, grid_cols], &mins),
            ArgumentKey::Step(name) if name == "hidden" => floats(&[1, COLS], &x),
            ArgumentKey::Step(name) if name == "rows" => client().upload_slice(0, &[1], &[0_i32]).unwrap(),
            other => panic!("{other:?} is not asked for"),
        })
        .collect();
    let found: Vec<f32> = executable.execute(&[buffers.iter().collect()], &[]).unwrap()[0][0].to_vec().unwrap();
    for (row, &found) in found.iter().enumerate() {
        let term = |col: usize| {
            let code = codes[row * COLS + col];
            let value = if values == Element::I8 { f64::from(code as i8) } else { e4m3(code) };
            let cell = row / group.rows * grid_cols + col / group.cols;
            let min = if group.mins { f64::from(mins[cell]) } else { 0.0 };
            f64::from(x[col]) * (value * f64::from(scales[cell]) + min)
        };
        let expected: f64 = (0..COLS).map(term).sum();
        let size: f64 = (0..COLS).map(|col| term(col).abs()).sum();
        assert!(
            (f64::from(found) - expected).abs() <= 1e-6 * size,
            "{values:?} {group:?}, row {row}: {found}, {expected}"
        );
    }
}

#[test]
fn int8_is_widened_per_tensor_channel_and_group() {
    for (rows, cols) in [(ROWS, COLS), (1, COLS), (1, 4)] {
        for mins in [false, true] {
            holds(Element::I8, Group { rows, cols, mins });
        }
    }
}

#[test]
fn fp8_is_widened_per_tensor_channel_and_block_with_ragged_edges() {
    for (rows, cols) in [(ROWS, COLS), (1, COLS), (4, 8)] {
        holds(Element::F8E4M3FN, Group { rows, cols, mins: false });
    }
}
