//! What a compiled program depends on.

use super::entry::VERSION;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

/// A plugin's file, told apart from other builds of it without reading hundreds of megabytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// Its name without folders: a plugin that is moved stays the same.
    pub name: String,
    /// Its length; 0 when it cannot be asked for.
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970; 0 when that cannot be asked for.
    pub modified: u128,
}

impl PluginFile {
    /// The file at `path`, links followed.
    pub fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let found = std::fs::metadata(&path).ok();
        let modified = found.as_ref().and_then(|found| found.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        PluginFile {
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            bytes: found.map_or(0, |found| found.len()),
            modified: modified.map_or(0, |since| since.as_nanos()),
        }
    }
}

/// What a compiled program depends on, besides the machine and this program itself, which [`Key::of`] adds.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// The module.
    pub text: &'a str,
    /// The compile options as the plugin gets them.
    pub options: &'a [u8],
    /// The platform's name.
    pub platform: &'a str,
    /// Its version, as the plugin words it.
    pub platform_version: &'a str,
    /// The device's kind, such as the model of a GPU.
    pub device_kind: &'a str,
    /// The plugin.
    pub plugin: &'a PluginFile,
}

/// The name of a compiled program: SHA-256 over what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of a program that is compiled by this version, on this machine, from these parts.
    pub fn of(parts: &KeyParts<'_>) -> Key {
        Key::on(parts, machine(), env!("CARGO_PKG_VERSION"))
    }

    /// `machine`: a program for CPUs may hold instructions that another one lacks.
    fn on(parts: &KeyParts<'_>, machine: &str, version: &str) -> Key {
        let KeyParts { text, options, platform, platform_version, device_kind, plugin } = *parts;
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            // Lengths keep the end of one field from being the beginning of the next.
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(&VERSION.to_le_bytes());
        field(version.as_bytes());
        field(machine.as_bytes());
        field(platform.as_bytes());
        field(platform_version.as_bytes());
        field(device_kind.as_bytes());
        field(plugin.name.as_bytes());
        field(&plugin.bytes.to_le_bytes());
        field(&plugin.modified.to_le_bytes());
        field(options);
        field(text.as_bytes());
        Key(hash.finalize().into())
    }

    /// Whether this is how a key is written.
    pub(super) fn is_name(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The machine's instruction set and what its processor adds to it.
fn machine() -> &'static str {
    static MACHINE: OnceLock<String> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        format!("{} {}", std::env::consts::ARCH, features(&info))
    })
}

/// The first processor's features: `flags` on x86, `Features` on ARM.
fn features(cpuinfo: &str) -> &str {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(name, _)| ["flags", "Features"].contains(&name.trim())).map_or("", |(_, list)| list.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_changes_the_key() {
        let plugin = PluginFile { name: "p.so".to_owned(), bytes: 7, modified: 9 };
        let parts = KeyParts {
            text: "module",
            options: b"options",
            platform: "cpu",
            platform_version: "1",
            device_kind: "cpu",
            plugin: &plugin,
        };
        let same = Key::on(&parts, "x86 avx", "1.0");
        assert_eq!(same, Key::on(&parts, "x86 avx", "1.0"));
        assert!(Key::is_name(&same.to_string()));
        let named = PluginFile { name: "q.so".to_owned(), ..plugin.clone() };
        let longer = PluginFile { bytes: 8, ..plugin.clone() };
        let newer = PluginFile { modified: 10, ..plugin.clone() };
        let others = [
            Key::on(&KeyParts { text: "module2", ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { options: b"", ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { platform: "cuda", ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { platform_version: "2", ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { device_kind: "H100", ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { plugin: &named, ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { plugin: &longer, ..parts }, "x86 avx", "1.0"),
            Key::on(&KeyParts { plugin: &newer, ..parts }, "x86 avx", "1.0"),
            Key::on(&parts, "x86 avx2", "1.0"),
            Key::on(&parts, "x86 avx", "1.1"),
            // The border of two fields moved.
            Key::on(&KeyParts { platform: "cp", platform_version: "u1", ..parts }, "x86 avx", "1.0"),
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(*other, same, "{i}");
        }
    }

    #[test]
    fn a_plugin_is_told_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.so");
        std::fs::write(&path, b"abc").unwrap();
        let found = PluginFile::of(&path);
        assert_eq!((found.name.as_str(), found.bytes), ("plugin.so", 3));
        assert_ne!(found.modified, 0);
        std::fs::write(&path, b"abcd").unwrap();
        assert_ne!(PluginFile::of(&path), found);
        let missing = PluginFile::of(&folder.path().join("none.so"));
        assert_eq!(missing, PluginFile { name: "none.so".to_owned(), bytes: 0, modified: 0 });
    }

    #[test]
    fn features_of_both_kinds_of_processor_are_found() {
        assert_eq!(features("processor\t: 0\nflags\t\t: fpu avx2\nbugs: x\nflags: other\n"), "fpu avx2");
        assert_eq!(features("processor\t: 0\nFeatures\t: fp asimd\n"), "fp asimd");
        assert_eq!(features(""), "");
        assert!(machine().starts_with(std::env::consts::ARCH));
    }
}
