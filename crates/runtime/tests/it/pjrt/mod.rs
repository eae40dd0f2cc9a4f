//! PJRT against XLA's CPU plugin, and against libraries that are no plugins.

mod buffers;
mod ffi;
mod loading;
mod programs;
mod strict;

use std::sync::OnceLock;

use nxd_runtime::pjrt::{Client, ClientOption, CompileOptions, Executable, PjrtError, Plugin, Program};

/// The CPU plugin with two devices. Clients are slow to make, so there is one.
fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| plugin().create_client(&[("cpu_device_count", ClientOption::Int(2))]).unwrap())
}

fn plugin() -> Plugin {
    Plugin::load(&nxd_testkit::pjrt_cpu_plugin()).unwrap()
}

/// Compiles MLIR text for one device.
fn compile(text: &str) -> Result<Executable, PjrtError> {
    client().compile(&Program::mlir(text.as_bytes()), &CompileOptions::default())
}

const MATMUL: &str = "
func.func @main(%a: tensor<2x3xf32>, %b: tensor<3x2xf32>) -> tensor<2x2xf32> {
  %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>
  return %0 : tensor<2x2xf32>
}";

/// Runs [`MATMUL`] on known numbers.
fn check_matmul(executable: &Executable) {
    let a = client().upload_slice(0, &[2, 3], &[1_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let b = client().upload_slice(0, &[3, 2], &[1_f32, 0.0, 0.0, 1.0, 1.0, 1.0]).unwrap();
    let outputs = executable.execute(&[vec![&a, &b]], &[]).unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0][0].dims(), [2, 2]);
    assert_eq!(outputs[0][0].to_vec::<f32>().unwrap(), [4.0, 5.0, 10.0, 11.0]);
}
