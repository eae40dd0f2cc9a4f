//! Memory: the machine's, what is free, and the control group's limit, which is what a container gets.

use nxd_cpu::topology::kib;
use std::fs;
use std::path::Path;

/// The machine's memory in bytes; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_bytes: Option<u64>,
    /// What can be had without swapping, within the limit.
    pub available_bytes: Option<u64>,
    /// The tightest limit of the process's control groups.
    pub limit_bytes: Option<u64>,
}

/// Asks the system.
pub fn look() -> Memory {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| info.lines().find(|line| line.starts_with(name)).and_then(kib);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let total_bytes = value("MemTotal:");
    let limits = limits(&groups, Path::new("/sys/fs/cgroup"));
    // Without a limit the file holds a number beyond any memory.
    let limits = limits.into_iter().filter(|limit| total_bytes.is_none_or(|total| limit.bytes < total));
    let (limits, left): (Vec<u64>, Vec<u64>) = limits.map(|limit| (limit.bytes, limit.left())).unzip();
    Memory {
        total_bytes,
        available_bytes: value("MemAvailable:").into_iter().chain(left).min(),
        limit_bytes: limits.into_iter().min(),
    }
}

/// What a control group may use and uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    bytes: u64,
    used: u64,
    /// Of what it uses, pages of files: the system drops them when memory runs short. A model that was just downloaded is among them.
    files: u64,
}

impl Limit {
    fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.used.saturating_sub(self.files))
    }
}

/// The limits of this process's group and of the groups above it.
///
/// `groups` is `/proc/self/cgroup`: `0::/path` in version 2, `4:memory:/path` in version 1. Inside a container the path may
/// be the host's while the mount begins at the container's own group: then the walk up ends at the mount, which is right.
fn limits(groups: &str, mount: &Path) -> Vec<Limit> {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (root, limit, used, prefix) = match controllers {
            "" => (mount.to_owned(), "memory.max", "memory.current", ""),
            "memory" => (mount.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
            _ => return Vec::new(),
        };
        let below = Path::new(path.trim_start_matches('/'));
        let dirs = below.ancestors().map(|part| root.join(part));
        let of_dir = |dir: std::path::PathBuf| {
            let bytes = number(&dir.join(limit))?;
            let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            let files = ["inactive_file", "active_file"].map(|name| field(&stat, &format!("{prefix}{name}")));
            let files = files.into_iter().fold(0, u64::saturating_add);
            Some(Limit { bytes, used: number(&dir.join(used)).unwrap_or(0), files })
        };
        dirs.filter_map(of_dir).collect()
    };
    groups.lines().flat_map(of_line).collect()
}

/// The number behind `name` in lines such as `inactive_file 4096`; 0 where there is none.
fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn limits_of_all_groups_above_are_read() {
        let mount = tempfile::tempdir().unwrap();
        write(&mount.path().join("a/b"), &[("memory.max", "max\n")]);
        write(&mount.path().join("a"), &[("memory.max", "4096\n"), ("memory.current", "96\n")]);
        assert_eq!(limits("0::/a/b\n", mount.path()), [Limit { bytes: 4096, used: 96, files: 0 }]);
        assert_eq!(limits("0::/c\n", mount.path()), []);
    }

    #[test]
    fn pages_of_files_can_be_had_again() {
        let mount = tempfile::tempdir().unwrap();
        let stat = "anon 500\nfile 3000\ninactive_file 1000\nactive_file 2000\nslab 7\n";
        write(mount.path(), &[("memory.max", "4096"), ("memory.current", "3600"), ("memory.stat", stat)]);
        let [limit] = limits("0::/\n", mount.path())[..] else { panic!("one group") };
        assert_eq!((limit.files, limit.left()), (3000, 3496));
        let more = Limit { files: 9000, ..limit };
        assert_eq!(more.left(), 4096, "numbers are read one after the other");
    }

    #[test]
    fn version_one_groups_are_read_too() {
        let mount = tempfile::tempdir().unwrap();
        let stat = "inactive_file 1\ntotal_inactive_file 10\ntotal_active_file 20\n";
        let files = [("memory.limit_in_bytes", "8192"), ("memory.usage_in_bytes", "100"), ("memory.stat", stat)];
        write(&mount.path().join("memory"), &files);
        let found = limits("5:cpu:/x\n4:memory:/host/only\n0::/\n", mount.path());
        assert_eq!(found, [Limit { bytes: 8192, used: 100, files: 30 }]);
    }
}
