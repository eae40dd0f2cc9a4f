//! Products with bytes under scales against golden data.

use nxd_cpu::kernels::linear::{Activations, PackedMatrix, Scratch, linears};
use nxd_cpu::{Isa, team::Team};
use nxd_ops::{Format, LocalWeight, Role, Scales, Sharding, StoredWeight, WeightSpec};
use nxd_testkit::{Tensors, assert_bits, folders, goldens};
use std::path::Path;

/// The layouts that are such bytes, by the beginning of their names.
const FORMATS: [(&str, Format); 3] = [("int8_per", Format::I8), ("fp8_e4m3", Format::E4M3), ("fp8_e5m2", Format::E5M2)];

/// The weight of a golden layout: bytes `q`, and one scale, one a row, or one for each block of 128.
fn weight(tensors: &Tensors, layout: &str, format: Format) -> LocalWeight {
    let part = |part: &str| format!("{layout}.{part}");
    let [rows, cols] = tensors.shape(&part("q"))[..] else { panic!("a matrix") };
    let (shape, values) = (tensors.shape(&part("scale")), tensors.floats(&part("scale")));
    let scales = match shape[..] {
        [1] => Scales::of_tensor(values[0]),
        _ if layout.ends_with("block128") => Scales { rows: 128, cols: 128, values: values.into() },
        _ => Scales::of_rows(values),
    };
    let data = tensors.bytes(&part("q")).to_vec().into();
    let stored =
        StoredWeight { origin: layout.into(), format, shape: [rows, cols], data, order: None, scales: Some(scales) };
    let (role, sharding) = (Role::Matrix, Sharding::Replicated);
    LocalWeight::new(&WeightSpec { name: layout.into(), role, shape: stored.shape, sharding }, stored, 0).unwrap()
}

fn check(file: &Path, ran: &mut Vec<String>) {
    let (tensors, team) = (Tensors::read(file), Team::new(2));
    let layouts = tensors.names().filter_map(|name| name.strip_suffix(".q"));
    for (layout, (_, format)) in
        layouts.filter_map(|layout| Some((layout, FORMATS.into_iter().find(|(start, _)| layout.starts_with(start))?)))
    {
        let weight = weight(&tensors, layout, format);
        // An integer has no -0, which rounding to integers left in the golden data.
        let without_sign_of_zero = |values: Vec<f32>| values.iter().map(|value| value + 0.0).collect::<Vec<_>>();
        let [values, expected] = [weight.to_f32(), tensors.floats(&format!("{layout}.dequant"))];
        assert_bits(&without_sign_of_zero(values), &without_sign_of_zero(expected), layout);
        let (x, expected) = (tensors.floats("input"), tensors.floats(&format!("{layout}.output")));
        let rows = x.len() / weight.cols();
        let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for isa in Isa::available() {
            for (activations, tolerance) in [(Activations::F32, 1e-6), (Activations::Int8, 1e-2)] {
                let matrix = PackedMatrix::pack(&weight, activations, isa, &team);
                let mut out = vec![f32::NAN; expected.len()];
                linears(&team, isa, &x, rows, &[&matrix], &mut [&mut out], &mut Scratch::new());
                for (out, expected) in out.iter().zip(&expected) {
                    let off = (out - expected).abs() / largest;
                    assert!(off <= tolerance, "{layout} with {isa}: {out}, expected {expected}, off by {off}");
                }
            }
        }
        ran.push(layout.to_owned());
    }
}

#[test]
fn golden_linear_layers_of_scaled_bytes_give_their_outputs() {
    let mut ran = Vec::new();
    for folder in folders(&goldens()) {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let is_linear =
            |file: &Path| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"linear_"));
        files.filter(|file| is_linear(file)).for_each(|file| check(&file, &mut ran));
    }
    println!("{} layers: {}", ran.len(), ran.join(" "));
    assert!(!ran.is_empty(), "no linear layers in {}", goldens().display());
}
