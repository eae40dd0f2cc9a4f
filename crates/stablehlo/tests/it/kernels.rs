//! Kernels and lowerings of targets, run by the plugin.

use crate::plugin::client;
use nxd_ops::Attribute;
use nxd_runtime::pjrt::{Call, CompileOptions, ElementType, FfiHandler, Program as Source};
use nxd_stablehlo::kernel::{Implementation, Kernels};
use nxd_stablehlo::program::{Program, ProgramBuilder, ResultKey};
use nxd_stablehlo::record::{Element, Type};
use nxd_stablehlo::target::{Target, TopK, check, top_k};

/// Compiles with the target's flags and runs on one device.
fn run(text: &str, inputs: &[(&[usize], &[f32])]) -> Vec<Vec<u8>> {
    let client = client();
    let options = CompileOptions { flags: Target::CPU.compile_flags(), ..CompileOptions::default() };
    let executable = client.compile(&Source::mlir(text.as_bytes()), &options).unwrap();
    let buffers: Vec<_> = inputs
        .iter()
        .map(|(dims, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            client.upload(0, ElementType::F32, dims, &bytes).unwrap()
        })
        .collect();
    let outputs = executable.execute(&[buffers.iter().collect()], &[]).unwrap();
    let bytes = |buffer: &nxd_runtime::pjrt::Buffer| {
        let mut bytes = vec![0; buffer.dims().iter().product::<usize>() * buffer.element().bytes()];
        buffer.read(&mut bytes).unwrap();
        bytes
    };
    outputs[0].iter().map(bytes).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|chunk| f32::from_ne_bytes(chunk.try_into().unwrap())).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|chunk| i32::from_ne_bytes(chunk.try_into().unwrap())).collect()
}

/// `y = x * factor + column`: tells rows from columns.
fn weighted(call: &mut Call<'_>) -> Result<(), String> {
    let factor = call.float("factor")? as f32;
    assert_eq!(call.int("count")?, -7);
    assert_eq!(call.text("mode")?, "a \"b\" \\ ü");
    let ([x], [mut y]) = call.split([0], [0])?;
    let (rows, columns) = (x.dims()[0] as usize, x.dims()[1] as usize);
    let x = x.elements::<f32>()?;
    let y = y.elements_mut::<f32>()?;
    for i in 0..rows {
        for j in 0..columns {
            y[i * columns + j] = x[i * columns + j] * factor + j as f32;
        }
    }
    Ok(())
}

#[test]
fn a_handler_gets_rows_and_attributes_as_they_were_recorded() {
    let mut kernels = Kernels::new();
    kernels.register("it.weighted", &Target::CPU, Implementation::Ffi(FfiHandler::new(weighted))).unwrap();
    kernels.install(client().plugin(), &Target::CPU).unwrap();
    let mut b = ProgramBuilder::new();
    let x = b.input("x", &[3, 2], Element::F32);
    // The compiler would rather not move anything, were it not told that kernels read rows.
    let turned = b.rec.transpose(&x, &[1, 0]);
    let attributes = [
        ("factor", Attribute::Float(0.1)),
        ("count", Attribute::Int(-7)),
        ("mode", Attribute::Text("a \"b\" \\ ü".to_owned())),
    ];
    let types = [Type::new(&[2, 3], Element::F32)];
    let y = kernels.lower(&mut b.rec, &Target::CPU, "it.weighted", &attributes, &[&turned], &types).unwrap();
    b.result(ResultKey::Named("y"), &y[0]);
    let program = b.finish("kernel", 1, Target::CPU.spread);
    check(&program, &Target::CPU).unwrap();
    let found = run(&program.text, &[(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
    let expected = [1.0f32, 3.0, 5.0, 2.0, 4.0, 6.0].map(|x| x * 0.1);
    let expected: Vec<f32> = expected.iter().enumerate().map(|(i, x)| x + (i % 3) as f32).collect();
    nxd_testkit::assert_bits(&floats(&found[0]), &expected, "y");
}

/// What Neuron's compiler does with its call, in the words of every compiler.
fn with_chlo(program: &Program) -> String {
    let line = |line: &str| {
        let Some((left, rest)) = line.split_once("stablehlo.custom_call @AwsNeuronTopK(") else {
            return line.to_owned();
        };
        let (x, rest) = rest.split_once(") {backend_config = \"").unwrap();
        let (k, rest) = rest.split_once("\"} : (").unwrap();
        let (ty, results) = rest.split_once(") -> ").unwrap();
        format!("{left}chlo.top_k({x}, k = {k}) : {ty} -> {results}")
    };
    program.text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_largest_of_cut_rows_are_those_of_whole_rows() {
    // Pieces of 16, so that two rounds are needed; many equal values, as the first of equals must win.
    let target = Target { top_k: TopK::NeuronCall { widest: 16 }, ..Target::NEURON };
    let (rows, columns) = (4, 75);
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i * i * 31 + 7 * i) % 23) as f32 - 11.0).collect();
    for k in [1, 4, 8] {
        let mut b = ProgramBuilder::new();
        b.rec.guard_integers();
        let x = b.input("x", &[rows, columns], Element::F32);
        let (best, places) = top_k(&mut b.rec, &target, &x, k);
        b.result(ResultKey::Named("best"), &best);
        b.result(ResultKey::Named("places"), &places);
        let program = b.finish("best", 1, target.spread);
        check(&program, &target).unwrap();
        assert!(program.text.matches("@AwsNeuronTopK").count() > 5);
        let found = run(&with_chlo(&program), &[(&[rows, columns], &values)]);
        for (row, values) in values.chunks(columns).enumerate() {
            let mut order: Vec<usize> = (0..columns).collect();
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
            let expected: Vec<i32> = order[..k].iter().map(|&at| at as i32).collect();
            assert_eq!(ints(&found[1])[row * k..(row + 1) * k], expected, "k {k}, row {row}");
            let best: Vec<f32> = order[..k].iter().map(|&at| values[at]).collect();
            nxd_testkit::assert_bits(&floats(&found[0])[row * k..(row + 1) * k], &best, "values");
        }
    }
}
