//! Layouts of one linear layer against golden data, and checkpoints whose tensors do not fit each other.

use super::*;
use crate::checkpoint::{LoadMode, NamedWeights, Slab, TensorRef};
use nxd_ops::{Axis, Dim, LocalWeight, Role, ShardLayout, Sharding, WeightSource, WeightSpec};
use nxd_testkit::{Tensors, assert_bits, folders, goldens};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::sync::Arc;

const GPTQ: Scheme = Scheme::Gptq { bits: 4, group: Some(32), zero_offset: 1 };
const AWQ: Scheme = Scheme::Awq { group: Some(32) };

fn ct_int4() -> Scheme {
    let strategy = Strategy::Group(32);
    Scheme::CompressedTensors(vec![WeightArgs { bits: 4, is_float: false, symmetric: true, strategy }])
}

fn weights(checkpoint: Checkpoint, scheme: Option<Scheme>) -> NamedWeights {
    NamedWeights::new(checkpoint, |spec| TensorRef::whole(spec.name.clone())).quantised(Quantisation { scheme })
}

fn spec(name: &str, shape: [usize; 2], sharding: Sharding) -> WeightSpec {
    WeightSpec { name: name.to_owned(), role: Role::Matrix, shape, sharding }
}

/// The matrix that a weight is in the order of its columns, put together from what `ranks` ranks have of it.
fn whole(source: &NamedWeights, name: &str, [rows, cols]: [usize; 2], ranks: usize) -> Vec<f32> {
    let layout = Arc::new(ShardLayout::even(cols, ranks));
    let spec = spec(name, [rows, cols], Sharding::Split { dim: Dim::Columns, axis: Axis::Tensor, layout });
    let mut values = vec![f32::NAN; rows * cols];
    for rank in 0..ranks {
        let local = LocalWeight::new(&spec, source.weight(&spec).unwrap(), rank).unwrap();
        let (start, width, of_rank) = (rank * cols.div_ceil(ranks), local.cols(), local.to_f32());
        let as_is = [nxd_ops::weight::InputSpan { from: 0, to: 0, len: width }];
        for span in local.input().unwrap_or(&as_is) {
            for (row, i) in (0..rows).flat_map(|row| (0..span.len).map(move |i| (row, i))) {
                values[row * cols + start + span.from + i] = of_rank[row * width + span.to + i];
            }
        }
    }
    values
}

/// Fails unless the rows of `values` give the golden output of `layout`, by sums in f64, where there is one: weights that are equal in every bit
/// need none.
fn check_output(tensors: &Tensors, layout: &str, values: &[f32]) {
    let output = format!("{layout}.output");
    if tensors.names().all(|name| name != output) {
        return;
    }
    let (input, expected) = (tensors.floats("input"), tensors.floats(&output));
    let cols = tensors.shape("input")[1];
    let rows = input.chunks(cols).flat_map(|x| values.chunks(cols).map(move |row| (x, row)));
    let outputs = rows.map(|(x, row)| x.iter().zip(row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>());
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let mut count = 0;
    for (output, expected) in outputs.zip(&expected) {
        // The other program added up in f32.
        let off = (output - f64::from(*expected)).abs() / f64::from(largest);
        assert!(off < 1e-6, "{layout}: {output}, expected {expected}");
        count += 1;
    }
    assert_eq!(count, expected.len(), "{layout}");
}

/// The golden files with linear layers.
fn linear_layers() -> Vec<std::path::PathBuf> {
    let files = folders(&goldens()).into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let is_linear = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"linear_"))
    };
    let found: Vec<_> = files.map(|file| file.unwrap().path()).filter(is_linear).collect();
    assert!(!found.is_empty(), "no linear layers in {}", goldens().display());
    found
}

#[test]
fn golden_linear_layers_of_grouped_integers_are_exact_however_they_are_cut() {
    let schemes = [("gptq", GPTQ), ("gptq_act_order", GPTQ), ("awq", AWQ), ("ct_pack_int4", ct_int4())];
    let mut ran = 0;
    for path in linear_layers() {
        let tensors = Tensors::read(&path);
        for (layout, scheme) in &schemes {
            let expected = format!("{layout}.dequant");
            let [rows, cols] = tensors.shape(&expected)[..] else { panic!("a matrix") };
            let source = weights(Checkpoint::open(&path, LoadMode::Mmap).unwrap(), Some(scheme.clone()));
            for ranks in 1..=3 {
                let values = whole(&source, &format!("{layout}.weight"), [rows, cols], ranks);
                check_output(&tensors, layout, &values);
                // An integer has no -0, which rounding left in the golden data.
                let plus = |values: Vec<f32>| values.into_iter().map(|value| value + 0.0).collect::<Vec<_>>();
                assert_bits(&plus(values), &plus(tensors.floats(&expected)), layout);
            }
            ran += 1;
        }
    }
    println!("{ran} layers");
}

#[test]
fn golden_linear_layers_of_mxfp4_are_exact_however_they_are_cut() {
    let mut ran = 0;
    for path in linear_layers() {
        let tensors = Tensors::read(&path);
        // The golden file has the tensors of an expert under other names.
        let [codes, exponents] = ["mxfp4.q", "mxfp4.scale"].map(|name| tensors.bytes(name).to_vec());
        let made = [
            ("w_blocks", Dtype::U8, tensors.shape("mxfp4.q"), codes),
            ("w_scales", Dtype::U8, tensors.shape("mxfp4.scale"), exponents),
        ];
        let [rows, cols] = tensors.shape("mxfp4.dequant")[..] else { panic!("a matrix") };
        let source = weights(opened(&made), Some(Scheme::Mxfp4));
        for ranks in 1..=3 {
            let values = whole(&source, "w", [rows, cols], ranks);
            check_output(&tensors, "mxfp4", &values);
            let plus = |values: Vec<f32>| values.into_iter().map(|value| value + 0.0).collect::<Vec<_>>();
            assert_bits(&plus(values), &plus(tensors.floats("mxfp4.dequant")), "mxfp4");
        }
        ran += 1;
    }
    println!("{ran} layers");
}

/// A tensor of a made-up checkpoint.
type Made = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn opened(tensors: &[Made]) -> Checkpoint {
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    Checkpoint::open(&path, LoadMode::Mmap).unwrap()
}

/// 8 rows of 64 columns in groups of 32.
fn gptq() -> Vec<Made> {
    let scales = [0x00, 0x3c].repeat(16);
    let index = (0..64_i32).flat_map(|col| (col / 32).to_le_bytes()).collect();
    vec![
        ("w.qweight", Dtype::I32, vec![8, 8], vec![0x87; 256]),
        ("w.qzeros", Dtype::I32, vec![2, 1], vec![0x77; 8]),
        ("w.scales", Dtype::F16, vec![2, 8], scales),
        ("w.g_idx", Dtype::I32, vec![64], index),
    ]
}

fn refused(tensors: &[Made], scheme: Option<Scheme>) -> String {
    let source = weights(opened(tensors), scheme);
    let spec = spec("w.weight", [8, 64], Sharding::Replicated);
    source.weight(&spec).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn tensors_that_do_not_fit_each_other_are_named() {
    let source = weights(opened(&gptq()), Some(GPTQ));
    let spec = spec("w.weight", [8, 64], Sharding::Replicated);
    let local = LocalWeight::new(&spec, source.weight(&spec).unwrap(), 0).unwrap();
    assert_bits(&local.to_f32()[..2], &[-1.0, 0.0], "integers 7 and 8 around 8");
    assert_eq!(source.stored(&spec).unwrap(), (local.format(), 8 * local.row_bytes()));

    let mut missing = gptq();
    missing.retain(|tensor| tensor.0 != "w.scales");
    assert!(refused(&missing, Some(GPTQ)).contains("tensor `w.scales` is missing"));

    let mut short = gptq();
    short[1] = ("w.qzeros", Dtype::I32, vec![1, 1], vec![0; 4]);
    let text = refused(&short, Some(GPTQ));
    assert!(text.ends_with("tensor `w.qzeros` is [1, 1] of I32, expected [2, 1] of I32"), "{text}");

    let mut nan = gptq();
    nan[2].3[4..6].copy_from_slice(&[0x00, 0x7e]);
    assert!(refused(&nan, Some(GPTQ)).contains("tensor `w.scales` has the scale NaN at 2"));

    let mut uneven = gptq();
    uneven[3].3[0] = 1;
    let text = refused(&uneven, Some(GPTQ));
    assert!(text.contains("tensor `w.g_idx` puts 31 columns into group 0, expected 32 in each"), "{text}");

    let mut beyond = gptq();
    beyond[3].3[0] = 9;
    assert!(refused(&beyond, Some(GPTQ)).contains("`w.g_idx` holds 9, expected groups below 2"));
    assert!(refused(&gptq(), None).contains("config.json has no `quantization_config`"));
    assert!(refused(&gptq(), Some(ct_int4())).contains("config.json says `compressed-tensors int4, groups of 32`"));
    assert!(refused(&[], Some(GPTQ)).contains("tensor `w.qweight` is missing"));
}

#[test]
fn groups_that_are_no_whole_blocks_are_widened() {
    let scheme = Scheme::Gptq { bits: 4, group: Some(24), zero_offset: 1 };
    let mut tensors = gptq();
    tensors[1] = ("w.qzeros", Dtype::I32, vec![3, 1], vec![0x77; 12]);
    tensors[2] = ("w.scales", Dtype::F16, vec![3, 8], [0x00, 0x3c].repeat(24));
    tensors.truncate(3);
    let source = weights(opened(&tensors), Some(scheme));
    let values = whole(&source, "w.weight", [8, 64], 3);
    assert_bits(&values, &[-1.0, 0.0].repeat(256), "values");
}

#[test]
fn a_stacked_expert_of_mxfp4_is_a_slab_of_rows() {
    // Two experts of one row of 32: codes 2 and 4 (1 and 2) under 2^1, and 9 and 15 (-0.5 and -6) under 2^-1.
    let codes = [[0x42; 16], [0xf9; 16]].concat();
    let tensors = [
        ("e.down_proj_blocks", Dtype::U8, vec![2, 1, 1, 16], codes),
        ("e.down_proj_scales", Dtype::U8, vec![2, 1, 1], vec![128, 126]),
    ];
    let checkpoint = opened(&tensors);
    for (index, expected) in [[2.0, 4.0], [-0.25, -3.0]].into_iter().enumerate() {
        let slab = Some(Slab { index, count: 2 });
        let names = move |_: &WeightSpec| TensorRef { slab, transposed: true, ..TensorRef::whole("e.down_proj") };
        let source =
            NamedWeights::new(checkpoint.clone(), names).quantised(Quantisation { scheme: Some(Scheme::Mxfp4) });
        let spec = spec("w", [1, 32], Sharding::Replicated);
        let local = LocalWeight::new(&spec, source.weight(&spec).unwrap(), 0).unwrap();
        assert_bits(&local.to_f32(), &expected.repeat(16), "an expert");
    }
}

#[test]
fn bytes_take_one_scale_a_row_or_one_a_block() {
    let bytes = |scale: &'static str, shape: Vec<usize>| {
        let scales = (0..shape.iter().product::<usize>()).flat_map(|i| (1.0 + i as f32).to_le_bytes()).collect();
        opened(&[("w.weight", Dtype::I8, vec![2, 3], vec![1, 2, 3, 4, 5, 6]), (scale, Dtype::F32, shape, scales)])
    };
    let values = |scale, shape, scheme| whole(&weights(bytes(scale, shape), scheme), "w.weight", [2, 3], 2);
    assert_bits(&values("w.scale", vec![1], None), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "a tensor");
    assert_bits(&values("w.weight_scale", vec![2, 1], None), &[1.0, 2.0, 3.0, 8.0, 10.0, 12.0], "rows");
    let refused = |shape| {
        let source = weights(bytes("w.weight_scale", shape), None);
        source.weight(&spec("w.weight", [2, 3], Sharding::Replicated)).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(vec![3]).contains("is [3] for a weight of [2, 3], expected one scale, or one a row"));
}

fn scheme_of(quantisation: serde_json::Value) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let config = json!({ "architectures": ["A"], "quantization_config": quantisation });
    std::fs::write(&path, config.to_string()).unwrap();
    let scheme = Scheme::read(&Config::read(&path).unwrap());
    scheme.map(|scheme| scheme.unwrap().to_string()).map_err(|error| error.to_string())
}

#[test]
fn schemes_are_read_and_what_is_not_implemented_is_named() {
    assert_eq!(scheme_of(json!({"quant_method": "gptq", "bits": 8, "group_size": -1})).unwrap(), "gptq int8, channels");
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"});
    assert_eq!(scheme_of(fp8).unwrap(), "fp8, blocks of 128 × 128");
    let refused = |value, part: &str| {
        let text = scheme_of(value).unwrap_err();
        assert!(text.contains(part), "{text}");
    };
    refused(
        json!({"quant_method": "bitsandbytes"}),
        "`quantization_config.quant_method` is \"bitsandbytes\", which is not",
    );
    refused(json!({"bits": 4}), "`quantization_config.quant_method` is missing");
    refused(json!(4), "`quantization_config` is 4, expected an object");
    refused(json!({"quant_method": "gptq", "bits": 3, "group_size": 32}), "`quantization_config.bits` is 3");
    refused(json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "expected a whole number above 0");
    refused(json!({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}), "supported: gemm");
    let args = json!({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 16});
    let nvfp4 = json!({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": args}}});
    refused(nvfp4, "`quantization_config.config_groups.g.weights.num_bits` is 4");
    refused(json!({"quant_method": "compressed-tensors", "format": "marlin-24"}), "supported: pack-quantized");
}
