//! The plugin that the tests run on.

use nxd_runtime::pjrt::{Client, ClientOption, Plugin};
use std::sync::OnceLock;

/// The one client of this process, with two devices.
pub(crate) fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let make = || {
        let plugin = Plugin::load(&nxd_testkit::pjrt_cpu_plugin()).unwrap();
        plugin.create_client(&[("cpu_device_count", ClientOption::Int(2))]).unwrap()
    };
    CLIENT.get_or_init(make).clone()
}
