//! Plugins, files that are none, and what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use nxd_runtime::LoadError;
use nxd_runtime::pjrt::{AttributeValue, ClientOption, Kind, PjrtError, Plugin, find};

use super::{client, plugin};

#[test]
fn the_plugin_says_what_it_is() {
    let plugin = plugin();
    assert_eq!(plugin.api_version().0, 0);
    assert_eq!(plugin.path(), nxd_testkit::pjrt_cpu_plugin());
    let attributes = plugin.attributes().unwrap();
    let version = attributes.iter().find(|(name, _)| name == "stablehlo_current_version");
    assert!(matches!(version, Some((_, AttributeValue::Ints(parts))) if parts.len() == 3), "{attributes:?}");
    let extensions = plugin.extensions();
    assert!(extensions.iter().any(|extension| extension.name == "FFI" && extension.number == 5), "{extensions:?}");
}

#[test]
fn a_second_load_is_the_same_plugin() {
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("plugin.so");
    std::os::unix::fs::symlink(nxd_testkit::pjrt_cpu_plugin(), &link).unwrap();
    let first = plugin();
    // By another name, and still not initialised again.
    assert_eq!(Plugin::load(&link).unwrap().path(), first.path());
}

#[test]
fn a_client_lists_its_devices() {
    let client = client();
    assert_eq!(client.platform_name(), "cpu");
    assert!(!client.platform_version().is_empty());
    let devices = client.devices();
    assert_eq!(devices.len(), 2);
    assert!(devices[0].local_hardware_id < devices[1].local_hardware_id);
    assert_ne!(devices[0].id, devices[1].id);
    assert!(!devices[0].kind.is_empty());
    match client.device_memory(0) {
        Ok(memory) => assert!(memory.in_use_bytes >= 0),
        Err(error) => assert!(error.is_unsupported(), "{error}"),
    }
    assert!(matches!(client.device_memory(9), Err(PjrtError::Device { index: 9, count: 2 })));
}

#[test]
fn the_topology_has_the_clients_devices() {
    let topology = client().topology().unwrap();
    assert_eq!(topology.platform_name().unwrap(), "cpu");
    let mut ids: Vec<i64> = topology.devices().unwrap().iter().map(|device| device.id).collect();
    ids.sort_unstable();
    let mut expected: Vec<i64> = client().devices().iter().map(|device| device.id).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    topology.attributes().unwrap();
    match topology.serialize() {
        Ok(bytes) => assert!(!bytes.is_empty()),
        Err(error) => assert!(error.is_unsupported(), "{error}"),
    }
}

#[test]
fn a_refused_client_option_gives_the_plugins_words() {
    let options = [("cpu_device_count", ClientOption::Text("two".to_owned()))];
    let error = plugin().create_client(&options).unwrap_err().to_string();
    assert!(error.starts_with("`PJRT_Client_Create` failed"), "{error}");
    assert!(error.contains("cpu_device_count"), "{error}");
}

#[test]
fn a_missing_file_says_what_to_install() {
    let error = Plugin::load(Path::new("/no/such/folder/xla_cuda_plugin.so")).unwrap_err();
    assert!(matches!(error, PjrtError::Load(LoadError::Missing { .. })), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("/no/such/folder/xla_cuda_plugin.so: no such file; install the CUDA plugin"), "{text}");
}

#[test]
fn a_file_that_is_no_library_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libneuronpjrt.so");
    std::fs::write(&path, "not a library").unwrap();
    let error = Plugin::load(&path).unwrap_err();
    assert!(matches!(error, PjrtError::Load(LoadError::Refused { .. })), "{error}");
    assert!(error.to_string().contains("libneuronxla"), "{error}");
}

#[test]
fn a_library_that_is_no_plugin_names_the_symbol() {
    let error = load_c("int answer(void) { return 42; }");
    assert!(matches!(&error, PjrtError::Load(LoadError::Symbol { symbol, .. }) if symbol == "GetPjrtApi"), "{error}");
    assert!(error.to_string().contains("has no symbol `GetPjrtApi`"), "{error}");
}

#[test]
fn a_plugin_without_a_table_is_refused() {
    let error = load_c("void *GetPjrtApi(void) { return 0; }");
    assert!(matches!(error, PjrtError::NoTable { .. }), "{error}");
}

#[test]
fn a_plugin_of_another_major_version_is_refused() {
    let error = load_c(&table(1144, 1, 0));
    assert!(matches!(error, PjrtError::Version { found: (1, 0), .. }), "{error}");
    assert!(error.to_string().contains("speaks PJRT C API 1.0, nxd speaks 0.x"), "{error}");
}

#[test]
fn a_plugin_with_a_small_table_is_refused() {
    for size in [0, 39, 40, 400] {
        let error = load_c(&table(size, 0, 115));
        assert!(matches!(error, PjrtError::SmallTable { found_bytes, .. } if found_bytes == size), "{error}");
    }
}

#[test]
fn an_empty_slot_is_an_error_that_names_the_function() {
    let error = load_c(&table(1144, 0, 115));
    let PjrtError::Unsupported { what, .. } = &error else { panic!("{error}") };
    assert_eq!(*what, "PJRT_Plugin_Initialize");
}

#[test]
fn a_plugin_that_reports_nothing_about_itself_has_no_attributes() {
    let path = build(
        "struct attributes { unsigned long size; void *extensions; void *items; unsigned long len; };
         static void *ok(void *args) { return 0; }
         static struct { unsigned long size; void *extensions; unsigned long version_size; void *more; int major, minor;
                         void *(*slots[138])(void *); } table = { 1144, 0, 24, 0, 0, 80, { [3] = ok } };
         void *GetPjrtApi(void) { return &table; }",
    );
    let plugin = Plugin::load(&path.1).unwrap();
    assert_eq!(plugin.attributes().unwrap(), []);
    assert!(plugin.extensions().is_empty());
    let error = plugin.create_client(&[]).unwrap_err();
    assert!(error.is_unsupported(), "{error}");
}

#[test]
fn a_plugin_that_is_not_installed_says_where_it_was_looked_for() {
    // No test machine has Neuron's plugin; were one to have it, this test would have nothing to look at.
    match find(Kind::Neuron) {
        Ok(path) => assert!(path.is_file()),
        Err(error) => {
            let text = error.to_string();
            for part in ["no PJRT plugin for `neuron`", "libneuronxla", "NXD_NEURON_PLUGIN", "/opt/aws/neuron/lib"] {
                assert!(text.contains(part), "`{part}` is not in: {text}");
            }
        }
    }
}

/// A function table whose slots are all empty.
fn table(size: usize, major: i32, minor: i32) -> String {
    format!(
        "static struct {{ unsigned long size; void *extensions; unsigned long version_size; void *more; int major, minor;
                          void *slots[138]; }} table = {{ {size}, 0, 24, 0, {major}, {minor}, {{0}} }};
         void *GetPjrtApi(void) {{ return &table; }}"
    )
}

fn load_c(source: &str) -> PjrtError {
    let (_folder, path) = build(source);
    Plugin::load(&path).unwrap_err()
}

/// A shared library of C source; the folder goes with the first part.
pub(super) fn build(source: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (code, path) = (folder.path().join("fake.c"), folder.path().join("fake.so"));
    std::fs::write(&code, source).unwrap();
    let done = Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&path).arg(&code).status().unwrap();
    assert!(done.success(), "cc failed");
    (folder, path)
}
