//! What is recorded for a kernel, by kind of implementation.

use super::*;
use crate::program::{ProgramBuilder, ResultKey};
use crate::record::Element;
use crate::target::check;

fn handler() -> Implementation {
    Implementation::Ffi(FfiHandler::new(|_| Ok(())))
}

/// One warp a row; the factor stands in the text.
fn scale(signature: &Signature<'_>) -> Launch {
    let Some((_, Attribute::Float(factor))) = signature.attributes.first() else {
        panic!("{:?}", signature.attributes);
    };
    let rows = signature.operands[0].dims[0] as u32;
    let text = format!(".visible .entry scale(.param .u64 x)\n{{ mov.f32 %f0, {}; \"quoted\" }}", ptx_float(*factor));
    Launch { text, entry: "scale".to_owned(), grid: [rows, 1, 1], block: [32, 1, 1], shared_bytes: 128 }
}

/// The text of the call that is recorded on `[3, 8]`.
fn lowered(kernels: &Kernels, target: &Target, name: &str) -> Option<String> {
    let mut b = ProgramBuilder::new();
    let x = b.input("x", &[3, 8], Element::F32);
    let attributes = [
        ("factor", Attribute::Float(1.5)),
        ("count", Attribute::Int(-7)),
        ("mode", Attribute::Text("a \"b\" \\ ü".to_owned())),
    ];
    let types = [Type::new(&[3, 8], Element::F32)];
    let results = kernels.lower(&mut b.rec, target, name, &attributes, &[&x], &types)?;
    assert_eq!(results.len(), 1);
    b.result(ResultKey::Named("y"), &results[0]);
    let program = b.finish("test", 1, target.spread);
    assert_eq!(check(&program, target), Ok(()));
    Some(program.ops[0].text.clone())
}

const LAYOUTS: &str =
    "operand_layouts = [dense<[1, 0]> : tensor<2xindex>], result_layouts = [dense<[1, 0]> : tensor<2xindex>]";

#[test]
fn a_handler_is_called_with_typed_attributes() {
    let mut kernels = Kernels::new();
    kernels.register("example.scale", &Target::CPU, handler()).unwrap();
    let text = lowered(&kernels, &Target::CPU, "example.scale").unwrap();
    let expected = format!(
        "%0 = stablehlo.custom_call @example.scale(%x) {{api_version = 4 : i32, backend_config = {{factor = 0x3FC00000 : f32, \
         count = -7 : i64, mode = \"a \\22b\\22 \\5C \\C3\\BC\"}}, {LAYOUTS}}} : (tensor<3x8xf32>) -> tensor<3x8xf32>"
    );
    // Quotes may be written as they are, too.
    assert_eq!(text.replace("\\\"", "\\22").replace("\\\\", "\\5C"), expected);
    // Other targets and other names have none.
    assert_eq!(lowered(&kernels, &Target::CUDA, "example.scale"), None);
    assert_eq!(lowered(&kernels, &Target::CPU, "example.other"), None);
}

#[test]
fn ptx_stands_in_the_program() {
    let mut kernels = Kernels::new();
    kernels.register("example.scale", &Target::CUDA, Implementation::Ptx(scale)).unwrap();
    let text = lowered(&kernels, &Target::CUDA, "example.scale").unwrap();
    assert!(text.starts_with("%0 = stablehlo.custom_call @__gpu$xla.gpu.ptx(%x) {backend_config = \""), "{text}");
    // Read as MLIR does: once for the string attribute, and again for the strings in the dictionary that it holds.
    let quoted = text.split_once("backend_config = \"").unwrap().1.split_once("\", operand_layouts").unwrap().0;
    let config = unescaped(quoted);
    assert!(config.starts_with("{name = \"scale\", kernel_type = \"ptx\", kernel_data = \""), "{config}");
    let (ptx, rest) = config.split_once("kernel_data = \"").unwrap().1.split_once("\", grid_x").unwrap();
    let expected = ".visible .entry scale(.param .u64 x)\n{ mov.f32 %f0, 0f3FC00000; \"quoted\" }";
    assert_eq!(unescaped(ptx), expected);
    assert_eq!(
        rest,
        " = 3 : i32, grid_y = 1 : i32, grid_z = 1 : i32, block_x = 32 : i32, block_y = 1 : i32, block_z = 1 : i32, \
         shared_mem_bytes = 128 : i32, output_indices = [1]}"
    );
    assert!(text.contains(LAYOUTS), "{text}");
}

fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest) {
            (b'\\', [quoted @ (b'"' | b'\\'), after @ ..]) => {
                out.push(*quoted);
                rest = after;
            }
            (b'\\', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn an_implementation_is_registered_once_and_where_it_fits() {
    let mut kernels = Kernels::new();
    kernels.register("k", &Target::CPU, handler()).unwrap();
    kernels.register("k", &Target::CUDA, Implementation::Ptx(scale)).unwrap();
    let error = kernels.register("k", &Target::CUDA, handler()).unwrap_err();
    assert_eq!(error.to_string(), "kernel `k` is registered for cuda already");
    for (target, implementation, kind) in [
        (Target::GENERIC, handler(), "a typed handler"),
        (Target::NEURON, handler(), "a typed handler"),
        (Target::NEURON, Implementation::Ptx(scale), "PTX"),
        (Target::CPU, Implementation::Ptx(scale), "PTX"),
        (Target::CUDA, Implementation::Nki(NkiKernel::text("", "f")), "an NKI function"),
    ] {
        let error = kernels.register("other", &target, implementation).unwrap_err();
        let begin =
            format!("kernel `other` has {kind}, which {} cannot use; typed handlers are for cpu and cuda", target.name);
        assert!(error.to_string().starts_with(&begin), "{error}");
    }
    for name in ["", "1st", "a b", "a\"b", "ä"] {
        let error = kernels.register(name, &Target::CPU, handler()).unwrap_err();
        assert!(matches!(error, KernelError::Name { .. }), "{error}");
    }
}

#[test]
fn tensors_of_any_rank_are_row_major() {
    let mut rec = Recorder::new();
    let scalar = rec.argument("s", &[], Element::F32);
    let cube = rec.argument("c", &[2, 3, 4], Element::F32);
    let results = [scalar.ty().clone(), cube.ty().clone()];
    rec.custom_call(&typed_call("k", &[]), &[&scalar, &cube], &results);
    let layouts = "[dense<> : tensor<0xindex>, dense<[2, 1, 0]> : tensor<3xindex>]";
    let expected = format!("operand_layouts = {layouts}, result_layouts = {layouts}}}");
    assert!(rec.ops()[0].text.contains(&expected), "{}", rec.ops()[0].text);
}
