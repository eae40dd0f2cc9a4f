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
    let tightest = tightest(&groups, Path::new("/sys/fs/cgroup"));
    // Without a limit the file holds a number beyond any memory.
    let tightest = tightest.filter(|(limit, _)| total_bytes.is_none_or(|total| *limit < total));
    let left = tightest.map(|(limit, used)| limit.saturating_sub(used));
    Memory {
        total_bytes,
        available_bytes: [value("MemAvailable:"), left].into_iter().flatten().min(),
        limit_bytes: tightest.map(|(limit, _)| limit),
    }
}

/// The smallest limit of this process's group and the groups above it, and what that group uses.
///
/// `groups` is `/proc/self/cgroup`: `0::/path` in version 2, `4:memory:/path` in version 1. Inside a container the path may
/// be the host's while the mount begins at the container's own group: then the walk up ends at the mount, which is right.
fn tightest(groups: &str, mount: &Path) -> Option<(u64, u64)> {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let candidates = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (root, limit, used) = match controllers {
            "" => (mount.to_owned(), "memory.max", "memory.current"),
            "memory" => (mount.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => return Vec::new(),
        };
        let below = Path::new(path.trim_start_matches('/'));
        let dirs = below.ancestors().map(|part| root.join(part));
        dirs.filter_map(|dir| Some((number(&dir.join(limit))?, number(&dir.join(used)).unwrap_or(0)))).collect()
    });
    candidates.min_by_key(|(limit, _)| *limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let mount = tempfile::tempdir().unwrap();
        let inner = mount.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(mount.path().join("a/memory.max"), "4096\n").unwrap();
        fs::write(mount.path().join("a/memory.current"), "96\n").unwrap();
        assert_eq!(tightest("0::/a/b\n", mount.path()), Some((4096, 96)));
        assert_eq!(tightest("0::/c\n", mount.path()), None);
    }

    #[test]
    fn version_one_groups_are_read_too() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir_all(mount.path().join("memory")).unwrap();
        fs::write(mount.path().join("memory/memory.limit_in_bytes"), "8192").unwrap();
        assert_eq!(tightest("5:cpu:/x\n4:memory:/host/only\n0::/\n", mount.path()), Some((8192, 0)));
    }
}
