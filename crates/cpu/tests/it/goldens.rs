//! Products with bytes under scales, and with MXFP4 blocks, against golden data.

use nxd_cpu::kernels::linear::{Activations, PackedMatrix, Scratch, linears};
use nxd_cpu::{Isa, team::Team};
use nxd_ops::{BlockFormat, Format, LocalWeight, Role, Scales, Sharding, StoredWeight, WeightSpec};
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

/// The golden weight of MXFP4: codes of neighbours in one byte, which a block has 16 places apart, and powers of two by themselves.
fn mxfp4(tensors: &Tensors) -> LocalWeight {
    let [rows, blocks, 16] = tensors.shape("mxfp4.q")[..] else { panic!("blocks of 32 codes") };
    let block = |(codes, power): (&[u8; 16], &u8)| {
        let code = |k: usize| codes[k / 2] >> (k % 2 * 4) & 15;
        [vec![*power], (0..16).map(|k| code(k) | code(k + 16) << 4).collect()].concat()
    };
    let codes = tensors.bytes("mxfp4.q").as_chunks::<16>().0.iter();
    let data: Vec<u8> = codes.zip(tensors.bytes("mxfp4.scale")).flat_map(block).collect();
    let (origin, format, shape) = ("mxfp4".to_owned(), Format::Blocks(BlockFormat::MXFP4), [rows, 32 * blocks]);
    let stored = StoredWeight { origin, format, shape, data: data.into(), order: None, scales: None };
    let spec = WeightSpec { name: "mxfp4".into(), role: Role::Matrix, shape, sharding: Sharding::Replicated };
    LocalWeight::new(&spec, stored, 0).unwrap()
}

fn check(file: &Path, ran: &mut Vec<String>) {
    let tensors = Tensors::read(file);
    let layouts = tensors.names().filter_map(|name| name.strip_suffix(".q"));
    for (layout, (_, format)) in
        layouts.filter_map(|layout| Some((layout, FORMATS.into_iter().find(|(start, _)| layout.starts_with(start))?)))
    {
        check_layout(&tensors, layout, &weight(&tensors, layout, format));
        ran.push(layout.to_owned());
    }
    if tensors.names().any(|name| name == "mxfp4.q") {
        check_layout(&tensors, "mxfp4", &mxfp4(&tensors));
        ran.push("mxfp4".to_owned());
    }
}

/// Values, and outputs with every kernel.
fn check_layout(tensors: &Tensors, layout: &str, weight: &LocalWeight) {
    let team = Team::new(2);
    // An integer has no -0, which rounding to integers left in the golden data.
    let without_sign_of_zero = |values: Vec<f32>| values.iter().map(|value| value + 0.0).collect::<Vec<_>>();
    let [values, expected] = [weight.to_f32(), tensors.floats(&format!("{layout}.dequant"))];
    assert_bits(&without_sign_of_zero(values), &without_sign_of_zero(expected), layout);
    let (x, expected) = (tensors.floats("input"), tensors.floats(&format!("{layout}.output")));
    let rows = x.len() / weight.cols();
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for isa in Isa::available() {
        for (activations, tolerance) in [(Activations::F32, 1e-6), (Activations::Int8, 1e-2)] {
            let matrix = PackedMatrix::pack(weight, activations, isa, &team);
            let mut out = vec![f32::NAN; expected.len()];
            linears(&team, isa, &x, rows, &[&matrix], &mut [&mut out], &mut Scratch::new());
            for (out, expected) in out.iter().zip(&expected) {
                let off = (out - expected).abs() / largest;
                assert!(off <= tolerance, "{layout} with {isa}: {out}, expected {expected}, off by {off}");
            }
        }
    }
}

#[test]
fn golden_linear_layers_of_bytes_and_of_mxfp4_give_their_outputs() {
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
