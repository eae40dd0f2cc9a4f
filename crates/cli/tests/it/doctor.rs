//! `nxd doctor` on whatever machine this is.

use crate::program::Home;

#[test]
fn the_page_and_the_json_tell_of_the_same_machine() {
    let home = Home::new();
    let page = home.nxd(&["doctor"], &[]);
    assert_eq!(page.code, Some(0), "{page:?}");
    for row in ["nxd", "cpu features", "cores", "threads", "numa", "memory", "mpi", "pjrt plugins", "hub cache"] {
        assert!(page.out.lines().any(|line| line.starts_with(row)), "{row}: {}", page.out);
    }
    let json = home.nxd(&["doctor", "--json"], &[]);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["versions"]["nxd"], env!("CARGO_PKG_VERSION"));
    assert!(report["cpu"]["usable_threads"].as_u64().unwrap() >= 1);
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
    let vars = [("PATH", bin.to_str().unwrap()), ("PJRT_PLUGIN_LIBRARY_PATH", plugin.to_str().unwrap())];
    let run = home.nxd(&["doctor", "--json"], &vars);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["mpi"]["version"], "mpirun (Open MPI) 9.9.9");
    let plugin = std::fs::canonicalize(plugin).unwrap();
    assert!(report["pjrt_plugins"].as_array().unwrap().contains(&plugin.to_str().unwrap().into()), "{report}");
}
