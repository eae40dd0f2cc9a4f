//! A plugin that compares struct sizes for equality, as AWS's does, and that fails on demand.

use nxd_runtime::pjrt::{AttributeValue, Client, ClientOption, CompileOptions, ErrorCode, PjrtError, Plugin, Program};

use super::loading::build;

/// The plugin, each time under a name of its own: it counts its live objects.
fn client() -> Client {
    let (_folder, path) = build(include_str!("strict.c"));
    Plugin::load(&path).unwrap().create_client(&[("answer", ClientOption::Int(42))]).unwrap()
}

fn live(plugin: &Plugin) -> i64 {
    match plugin.attributes().unwrap().as_slice() {
        [(name, AttributeValue::Int(count))] if name == "live" => *count,
        other => panic!("{other:?}"),
    }
}

/// Runs the program on both devices; 6 numbers each.
fn run(client: &Client, program: &str, donated: &[usize]) -> Result<Vec<Vec<f32>>, PjrtError> {
    let executable = client.compile(&Program::mlir(program.as_bytes()), &CompileOptions::replicated(2))?;
    let rank = |device: usize| client.upload_slice(device, &[2, 3], &[device as f32; 6]);
    let (zero, one) = (rank(0)?, rank(1)?);
    let outputs = executable.execute(&[vec![&zero], vec![&one]], donated)?;
    assert_eq!(zero.is_deleted()?, !donated.is_empty());
    outputs.iter().map(|list| list[0].to_vec()).collect()
}

#[test]
fn every_struct_has_the_size_of_the_header_and_every_object_is_freed() {
    let client = client();
    let plugin = client.plugin().clone();
    let devices: Vec<(i64, i64)> = client.devices().iter().map(|d| (d.local_hardware_id, d.id)).collect();
    assert_eq!(devices, [(0, 10), (1, 11)], "sorted by local hardware id");
    assert_eq!(live(&plugin), 1);
    for donated in [[].as_slice(), &[0]] {
        assert_eq!(run(&client, "identity", donated).unwrap(), [[0.0; 6], [1.0; 6]]);
        assert_eq!(live(&plugin), 1, "only the client");
    }
    let buffer = client.upload_slice(0, &[1], &[5_f32]).unwrap();
    drop(client);
    assert_eq!(live(&plugin), 2, "a buffer keeps its client");
    assert_eq!(buffer.to_vec::<f32>().unwrap(), [5.0]);
    drop(buffer);
    assert_eq!(live(&plugin), 0);
}

#[test]
fn faults_of_the_plugin_are_errors_and_leak_nothing() {
    let client = client();
    let plugin = client.plugin().clone();
    let check = |program: &str, text: &str| {
        let error = run(&client, program, &[]).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!(live(&plugin), 1, "{program}: only the client is left");
        error
    };
    check("", "`PJRT_Client_Compile` failed (invalid argument): an empty program: line 1, column 2");
    let error = check("refuse", "`PJRT_LoadedExecutable_Execute` failed (resource exhausted): out of memory");
    assert!(matches!(error, PjrtError::Plugin { code: ErrorCode::ResourceExhausted, .. }));
    // Rank 0 is done, rank 1 fails after the call has returned.
    check("late", "`PJRT_Event_Await` failed (internal): rank 1 fell over");
    check("negative", "`PJRT_Buffer_Dimensions` returned a dimension of -1; this is a fault of the plugin");
    check("type", "the plugin uses element type 99, which nxd does not know; update nxd");
    // An object that will not be destroyed is logged, no more; its error is freed.
    run(&client, "sticky", &[]).unwrap();
    assert_eq!(live(&plugin), 1);
}

#[test]
fn functions_that_the_plugin_lacks_are_unsupported() {
    let client = client();
    let executable = client.compile(&Program::mlir(b"identity"), &CompileOptions::replicated(2)).unwrap();
    let errors = [
        executable.serialize().unwrap_err(),
        executable.memory_stats().unwrap_err(),
        executable.cost().unwrap_err(),
        executable.fingerprint().unwrap_err(),
        executable.optimized_program().unwrap_err(),
        client.topology().unwrap_err(),
        client.device_memory(0).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_unsupported(), "{error}");
        assert!(error.to_string().contains("this plugin has no `PJRT_"), "{error}");
    }
}
