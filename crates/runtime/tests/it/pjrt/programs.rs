//! Compiling, running, donating, saving; several devices.

use nxd_runtime::pjrt::{Buffer, CompileOptions, ErrorCode, Flag, PjrtError, Program};

use super::{MATMUL, check_matmul, client, compile};

#[test]
fn a_matmul_from_text_computes() {
    let executable = compile(MATMUL).unwrap();
    check_matmul(&executable);
    assert_eq!((executable.num_outputs(), executable.num_devices()), (1, 1));
}

#[test]
fn a_saved_executable_is_loaded_and_runs() {
    let executable = compile(MATMUL).unwrap();
    let bytes = executable.serialize().unwrap();
    drop(executable);
    check_matmul(&client().deserialize(&bytes).unwrap());
}

#[test]
fn damaged_saved_bytes_are_an_error() {
    let bytes = compile(MATMUL).unwrap().serialize().unwrap();
    for end in [0, 5, 23, 24, bytes.len() / 2, bytes.len() - 1] {
        let error = client().deserialize(&bytes[..end]).unwrap_err();
        assert!(matches!(error, PjrtError::Saved { .. }), "{error}");
    }
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let error = client().deserialize(&flipped).unwrap_err().to_string();
    assert_eq!(error, "these bytes are not an executable that nxd saved: the checksum differs; compile it again");
}

#[test]
fn a_refused_program_gives_the_plugins_words() {
    let error = compile("func.func @main() { this is not MLIR }").unwrap_err();
    let PjrtError::Plugin { function, text, .. } = &error else { panic!("{error}") };
    assert_eq!(*function, "PJRT_Client_Compile");
    assert!(text.contains("custom op 'this' is unknown"), "{text}");

    let mismatch = "func.func @main(%x: tensor<2xf32>) -> tensor<3xf32> { return %x : tensor<2xf32> }";
    let text = compile(mismatch).unwrap_err().to_string();
    assert!(text.contains("tensor<3xf32>"), "{text}");

    let error = client().compile(&Program::hlo(b"no HLO"), &CompileOptions::default()).unwrap_err();
    assert!(matches!(error, PjrtError::Plugin { .. }), "{error}");
}

#[test]
fn a_flag_reaches_the_compiler() {
    let unknown = vec![("xla_no_such_flag".to_owned(), Flag::Bool(true))];
    let options = CompileOptions { flags: unknown, ..CompileOptions::default() };
    let error = client().compile(&Program::mlir(MATMUL.as_bytes()), &options).unwrap_err().to_string();
    assert!(error.contains("xla_no_such_flag"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let dump = Flag::Text(folder.path().to_str().unwrap().to_owned());
    let options = CompileOptions { flags: vec![("xla_dump_to".to_owned(), dump)], ..CompileOptions::default() };
    client().compile(&Program::mlir(MATMUL.as_bytes()), &options).unwrap();
    assert!(folder.path().read_dir().unwrap().count() > 0);
}

/// A row written into a cache at a position; the cache's argument may be aliased to the output.
const CACHE: &str = "
func.func @main(%cache: tensor<256x512xf32> {tf.aliasing_output = 0 : i32}, %row: tensor<1x512xf32>, %at: tensor<i32>)
    -> tensor<256x512xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %new = stablehlo.dynamic_update_slice %cache, %row, %at, %zero
    : (tensor<256x512xf32>, tensor<1x512xf32>, tensor<i32>, tensor<i32>) -> tensor<256x512xf32>
  return %new : tensor<256x512xf32>
}";
const CACHE_BYTES: usize = 256 * 512 * 4;

fn cache() -> Buffer {
    client().upload_slice(0, &[256, 512], &[0_f32; 256 * 512]).unwrap()
}

#[test]
fn a_donated_cache_is_updated_in_place() {
    let executable = compile(CACHE).unwrap();
    let memory = executable.memory_stats().unwrap();
    assert_eq!(memory.alias_bytes, CACHE_BYTES as i64);
    assert_eq!(memory.output_bytes, CACHE_BYTES as i64);

    let row = client().upload_slice(0, &[1, 512], &[7_f32; 512]).unwrap();
    let mut current = cache();
    let place = current.address().unwrap();
    for step in 0..3 {
        let at = client().upload_slice(0, &[], &[step]).unwrap();
        let mut outputs = executable.execute(&[vec![&current, &row, &at]], &[0]).unwrap();
        assert!(current.is_deleted().unwrap());
        assert!(!row.is_deleted().unwrap());
        current = outputs.remove(0).remove(0);
        assert_eq!(current.address().unwrap(), place);
    }
    let values = current.to_vec::<f32>().unwrap();
    assert!(values[..3 * 512].iter().all(|value| value.to_bits() == 7_f32.to_bits()));
    assert!(values[3 * 512..].iter().all(|value| value.to_bits() == 0));
}

#[test]
fn a_donated_buffer_cannot_be_used_again() {
    let executable = compile(CACHE).unwrap();
    let row = client().upload_slice(0, &[1, 512], &[7_f32; 512]).unwrap();
    let at = client().upload_slice(0, &[], &[0_i32]).unwrap();
    let gone = cache();
    executable.execute(&[vec![&gone, &row, &at]], &[0]).unwrap();
    let read = gone.to_vec::<f32>().unwrap_err().to_string();
    assert!(read.contains("deleted or donated"), "{read}");
    let run = executable.execute(&[vec![&gone, &row, &at]], &[0]).unwrap_err().to_string();
    assert!(run.contains("deleted or donated"), "{run}");
    assert!(gone.address().is_err());
    // Its shape is still known.
    assert_eq!(gone.dims(), [256, 512]);
}

#[test]
fn a_buffer_that_is_not_donated_is_kept_though_the_program_aliases_it() {
    let executable = compile(CACHE).unwrap();
    let row = client().upload_slice(0, &[1, 512], &[7_f32; 512]).unwrap();
    let at = client().upload_slice(0, &[], &[1_i32]).unwrap();
    let kept = cache();
    let outputs = executable.execute(&[vec![&kept, &row, &at]], &[]).unwrap();
    assert!(!kept.is_deleted().unwrap());
    assert_ne!(outputs[0][0].address().unwrap(), kept.address().unwrap());
    assert!(kept.to_vec::<f32>().unwrap().iter().all(|value| value.to_bits() == 0));
    assert_eq!(outputs[0][0].to_vec::<f32>().unwrap()[512].to_bits(), 7_f32.to_bits());
}

#[test]
fn lists_of_arguments_that_do_not_fit_are_refused() {
    let executable = compile(MATMUL).unwrap();
    let x = client().upload_slice(0, &[2, 3], &[0_f32; 6]).unwrap();
    let error = executable.execute(&[], &[]).unwrap_err();
    assert!(matches!(error, PjrtError::Arguments { devices: 1, .. }), "{error}");
    let error = executable.execute(&[vec![&x], vec![&x]], &[]).unwrap_err();
    assert!(matches!(error, PjrtError::Arguments { devices: 1, .. }), "{error}");
    let error = executable.execute(&[vec![&x, &x]], &[2]).unwrap_err();
    assert!(matches!(error, PjrtError::Donated { index: 2, count: 2 }), "{error}");
    // The plugin's own checks: too few arguments, and another size.
    let small = client().upload_slice(0, &[2, 2], &[0_f32; 4]).unwrap();
    for arguments in [vec![&x], vec![&x, &small]] {
        let error = executable.execute(&[arguments], &[]).unwrap_err();
        assert!(matches!(error, PjrtError::Plugin { code: ErrorCode::InvalidArgument, .. }), "{error}");
    }
}

const ALL_REDUCE: &str = r#"
module attributes {mhlo.num_replicas = 2 : i32} {
  func.func @main(%x: tensor<3xf32>) -> tensor<3xf32> {
    %sum = "stablehlo.all_reduce"(%x) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
      ^bb0(%a: tensor<f32>, %b: tensor<f32>):
        %c = stablehlo.add %a, %b : tensor<f32>
        stablehlo.return %c : tensor<f32>
    }) : (tensor<3xf32>) -> tensor<3xf32>
    return %sum : tensor<3xf32>
  }
}"#;

#[test]
fn two_replicas_reduce_over_two_devices() {
    let executable = client().compile(&Program::mlir(ALL_REDUCE.as_bytes()), &CompileOptions::replicated(2)).unwrap();
    assert_eq!(executable.num_devices(), 2);
    let rank = |device: usize| client().upload_slice(device, &[3], &[device as f32 + 1.0, 10.0, 0.5]).unwrap();
    let (zero, one) = (rank(0), rank(1));
    for _ in 0..10 {
        let outputs = executable.execute(&[vec![&zero], vec![&one]], &[]).unwrap();
        for rank in outputs {
            assert_eq!(rank[0].to_vec::<f32>().unwrap(), [3.0, 20.0, 1.0]);
        }
    }
    // Buffers of the wrong rank.
    let error = executable.execute(&[vec![&one], vec![&zero]], &[]).unwrap_err();
    assert!(matches!(error, PjrtError::Plugin { .. }), "{error}");
}

#[test]
fn ranks_can_be_given_to_devices_in_another_order() {
    let ids: Vec<i64> = client().devices().iter().rev().map(|device| device.id).collect();
    let options = CompileOptions { device_ids: Some(ids), ..CompileOptions::replicated(2) };
    let executable = client().compile(&Program::mlir(ALL_REDUCE.as_bytes()), &options).unwrap();
    // Lists are in rank order, so rank 0 is now the second device.
    let (first, second) = (1, 0);
    let a = client().upload_slice(first, &[3], &[1_f32, 2.0, 3.0]).unwrap();
    let b = client().upload_slice(second, &[3], &[10_f32, 20.0, 30.0]).unwrap();
    let outputs = executable.execute(&[vec![&a], vec![&b]], &[]).unwrap();
    assert_eq!(outputs[0][0].to_vec::<f32>().unwrap(), [11.0, 22.0, 33.0]);
}

#[test]
fn more_ranks_than_devices_and_a_short_assignment_are_refused() {
    let program = Program::mlir(MATMUL.as_bytes());
    let error = client().compile(&program, &CompileOptions::replicated(3)).unwrap_err().to_string();
    assert_eq!(error, "there is no device 2: the client has 2");
    let options = CompileOptions { device_ids: Some(vec![0]), ..CompileOptions::replicated(2) };
    let error = client().compile(&program, &options).unwrap_err().to_string();
    assert_eq!(error, "1 device ids given for 2 replicas × 1 partitions");
}

#[test]
fn an_executable_runs_from_many_threads() {
    let executable = compile(MATMUL).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| check_matmul(&executable)));
        }
    });
}

#[test]
fn what_the_compiler_knows_is_told() {
    let executable = compile(MATMUL).unwrap();
    let memory = executable.memory_stats().unwrap();
    assert_eq!((memory.argument_bytes, memory.output_bytes, memory.alias_bytes), (48, 16, 0));
    assert!(!executable.name().unwrap().is_empty());
    let (format, code) = executable.optimized_program().unwrap();
    assert!(format.starts_with("hlo"), "{format}");
    assert!(!code.is_empty());
    // Both are the plugin's choice: an answer, or a typed refusal.
    match executable.cost() {
        Ok(cost) => assert!(cost.iter().any(|(name, _)| name == "flops"), "{cost:?}"),
        Err(error) => assert!(error.is_unsupported(), "{error}"),
    }
    match executable.fingerprint() {
        Ok(fingerprint) => assert_eq!(fingerprint, compile(MATMUL).unwrap().fingerprint().unwrap()),
        Err(error) => assert!(error.is_unsupported(), "{error}"),
    }
}
