//! `nxd doctor` on whatever machine this is.

use crate::program::Home;

#[test]
fn the_page_and_the_json_tell_of_the_same_machine() {
    let home = Home::new();
    let page = home.nxd(&["doctor"], &[]);
    assert_eq!(page.code, Some(0), "{page:?}");
    for row in [
        "nxd",
        "cpu features",
        "kernels",
        "for F16",
        "for Q4_K",
        "attention",
        "cores",
        "threads",
        "numa",
        "memory",
        "mpi",
        "pjrt plugins",
        "hub cache",
    ] {
        assert!(page.out.lines().any(|line| line.starts_with(row)), "{row}: {}", page.out);
    }
    let json = home.nxd(&["doctor", "--json"], &[]);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["versions"]["nxd"], env!("CARGO_PKG_VERSION"));
    assert!(report["cpu"]["usable_threads"].as_u64().unwrap() >= 1);
    let served = report["serving"].as_array().unwrap();
    let q4_k = served.iter().find(|row| row["format"] == "Q4_K").unwrap();
    assert!(q4_k["int8"].as_str().unwrap().starts_with("q4_k int8 "), "{q4_k}");
    assert!(q4_k["f32"].as_str().unwrap().starts_with("q4_k f32 "), "{q4_k}");
    assert!(page.out.contains(q4_k["int8"].as_str().unwrap()), "{}", page.out);
    assert!(report["attention"].as_str().unwrap().ends_with("f32, f16, bf16, int8, fp8"), "{report}");
    let (free, total) = (&report["memory"]["available_bytes"], &report["memory"]["total_bytes"]);
    assert!(free.as_u64() <= total.as_u64() && total.as_u64() > Some(1 << 20), "{report}");
}

#[test]
fn a_launcher_in_path_and_a_named_plugin_are_found() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let bin = home.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("mpirun"), "#!/bin/sh\necho 'mpirun (Open MPI) 9.9.9'\n").unwrap();
    std::fs::set_permissions(bin.join("mpirun"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let plugin = home.path().join("plugin.so");
    std::fs::write(&plugin, "").unwrap();
    let fetched = home.path().join(".cache/nxd/pjrt/some-package-1.0/pjrt_c_api_cpu_plugin.so");
    std::fs::create_dir_all(fetched.parent().unwrap()).unwrap();
    std::fs::write(&fetched, "").unwrap();
    let vars = [("PATH", bin.to_str().unwrap()), ("PJRT_PLUGIN_LIBRARY_PATH", plugin.to_str().unwrap())];
    let run = home.nxd(&["doctor", "--json"], &vars);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["mpi"]["version"], "mpirun (Open MPI) 9.9.9");
    for plugin in [plugin, fetched] {
        let plugin = std::fs::canonicalize(plugin).unwrap();
        assert!(report["pjrt_plugins"].as_array().unwrap().contains(&plugin.to_str().unwrap().into()), "{report}");
    }
}

#[cfg(feature = "pjrt")]
#[test]
fn the_plugin_of_a_python_package_is_found() {
    let home = Home::new();
    let plugin = home.path().join("venv/lib/python3.12/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so");
    std::fs::create_dir_all(plugin.parent().unwrap()).unwrap();
    std::fs::write(&plugin, "").unwrap();
    let venv = home.path().join("venv");
    let run = home.nxd(&["doctor", "--json"], &[("VIRTUAL_ENV", venv.to_str().unwrap())]);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let plugin = std::fs::canonicalize(plugin).unwrap();
    assert!(report["pjrt_plugins"].as_array().unwrap().contains(&plugin.to_str().unwrap().into()), "{report}");
}
