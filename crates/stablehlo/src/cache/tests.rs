//! What a cache of programs survives.

use super::*;
use proptest::prelude::*;
use std::time::Instant;

fn key(text: &str) -> Key {
    let plugin = PluginFile { name: "p.so".to_owned(), bytes: 1, modified: 1 };
    let parts =
        KeyParts { text, options: b"", platform: "cpu", platform_version: "1", device_kind: "cpu", plugin: &plugin };
    Key::of(&parts)
}

fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = items.collect();
    names.sort();
    names
}

#[test]
fn a_program_comes_back_in_this_and_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("deep/programs");
    let cache = ProgramCache::open(&folder, 1 << 20);
    assert!(cache.is_on());
    assert_eq!(cache.get(&key("a")), None);
    cache.put(&key("a"), b"compiled");
    cache.put(&key("empty"), b"");
    assert_eq!(cache.get(&key("a")).unwrap(), b"compiled");
    let other = ProgramCache::open(&folder, 1 << 20);
    assert_eq!(other.get(&key("a")).unwrap(), b"compiled");
    assert_eq!(other.get(&key("empty")).unwrap(), b"");
    other.put(&key("a"), b"compiled anew");
    assert_eq!(cache.get(&key("a")).unwrap(), b"compiled anew");
    assert_eq!(names(&folder).len(), 2);
}

#[test]
fn a_file_cut_at_any_length_is_a_miss_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let cache = ProgramCache::open(root.path(), 1 << 20);
    cache.put(&key("a"), b"compiled");
    let path = cache.path(&key("a")).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(cache.get(&key("a")), None, "{len}");
        assert!(!path.exists(), "{len}");
    }
    for more in [[&whole[..], b"x"].concat(), vec![b'x'; 4096]] {
        fs::write(&path, more).unwrap();
        assert_eq!(cache.get(&key("a")), None);
        assert!(!path.exists());
    }
    cache.put(&key("a"), b"compiled");
    assert_eq!(cache.get(&key("a")).unwrap(), b"compiled");
}

proptest! {
    #[test]
    fn a_flipped_bit_is_a_miss(at in 0..entry::HEADER_BYTES + 8, bit in 0..8u8) {
        let root = tempfile::tempdir().unwrap();
        let cache = ProgramCache::open(root.path(), 1 << 20);
        cache.put(&key("a"), b"compiled");
        let path = cache.path(&key("a")).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        prop_assert_eq!(cache.get(&key("a")), None);
        prop_assert!(!path.exists());
    }
}

#[test]
fn the_least_recently_used_go_first() {
    let root = tempfile::tempdir().unwrap();
    let room = 3 * entry::size(100);
    let cache = ProgramCache::open(root.path(), room);
    for name in ["a", "b", "c"] {
        cache.put(&key(name), &[1; 100]);
    }
    fs::write(root.path().join("notes.txt"), [0; 4096]).unwrap();
    assert!(cache.get(&key("a")).is_some());
    cache.put(&key("d"), &[1; 100]);
    let there = ["a", "b", "c", "d"].map(|name| cache.get(&key(name)).is_some());
    assert_eq!(there, [true, false, true, true]);
    assert!(root.path().join("notes.txt").exists(), "files of others stay");
    // One that needs the whole room takes it, and stays itself.
    cache.put(&key("big"), &[1; 300]);
    assert_eq!(["a", "c", "d", "big"].map(|name| cache.get(&key(name)).is_some()), [false, false, false, true]);
}

#[test]
fn a_clock_that_stands_still_does_not_remove_what_was_just_stored() {
    let root = tempfile::tempdir().unwrap();
    let cache = ProgramCache::open(root.path(), 2 * entry::size(10));
    let future = SystemTime::now() + Duration::from_secs(1 << 20);
    for name in ["a", "b", "c", "d", "e"] {
        cache.put(&key(name), &[1; 10]);
        assert!(cache.get(&key(name)).is_some(), "{name}");
        // As if all had been used at one time, after now.
        let path = cache.path(&key(name)).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(future).unwrap();
        assert!(names(root.path()).len() <= 2);
    }
    let stamps: Vec<SystemTime> = (0..1000).map(|_| stamp()).collect();
    assert!(stamps.is_sorted_by(|a, b| a < b));
}

#[test]
fn what_exceeds_the_limit_alone_is_not_stored() {
    let root = tempfile::tempdir().unwrap();
    let cache = ProgramCache::open(root.path(), entry::size(100));
    cache.put(&key("a"), &[1; 100]);
    cache.put(&key("b"), &[1; 101]);
    assert!(cache.get(&key("a")).is_some() && cache.get(&key("b")).is_none());
    // Nor is a file read that is longer than the whole cache may be.
    fs::write(cache.path(&key("b")).unwrap(), [0; 4096]).unwrap();
    assert_eq!(cache.get(&key("b")), None);
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let cache = ProgramCache::open(&root.path().join("programs"), 1 << 20);
    cache.put(&key("a"), b"compiled");
    let outside = root.path().join("outside");
    fs::rename(cache.path(&key("a")).unwrap(), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, cache.path(&key("a")).unwrap()).unwrap();
    assert_eq!(cache.get(&key("a")), None);
    assert!(fs::symlink_metadata(cache.path(&key("a")).unwrap()).is_err(), "the link is removed");
    let whole = fs::read(&outside).unwrap();
    // A link in the place of an entry is replaced, and what it shows to is not written.
    std::os::unix::fs::symlink(&outside, cache.path(&key("a")).unwrap()).unwrap();
    cache.put(&key("a"), b"other");
    assert_eq!(cache.get(&key("a")).unwrap(), b"other");
    assert_eq!(fs::read(&outside).unwrap(), whole);
}

#[test]
fn a_folder_in_the_place_of_an_entry_is_a_miss() {
    let root = tempfile::tempdir().unwrap();
    let cache = ProgramCache::open(root.path(), 1 << 20);
    fs::create_dir(cache.path(&key("a")).unwrap()).unwrap();
    assert_eq!(cache.get(&key("a")), None);
    cache.put(&key("a"), b"compiled");
    assert_eq!(cache.get(&key("a")), None);
    assert_eq!(names(root.path()).len(), 1, "nothing unfinished is left");
}

#[test]
fn a_folder_that_cannot_be_used_turns_the_cache_off() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    for folder in [file.clone(), file.join("below")] {
        let cache = ProgramCache::open(&folder, 1 << 20);
        assert!(!cache.is_on());
        cache.put(&key("a"), b"compiled");
        assert_eq!(cache.get(&key("a")), None);
    }
    assert!(!ProgramCache::open(root.path(), 0).is_on());
    assert!(!ProgramCache::off().is_on());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!ProgramCache::open(&open, 1 << 20).is_on(), "others could leave programs there");
        let made = root.path().join("made");
        assert!(ProgramCache::open(&made, 1 << 20).is_on());
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_folder_that_vanishes_is_no_error() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("programs");
    let cache = ProgramCache::open(&folder, 1 << 20);
    fs::remove_dir(&folder).unwrap();
    cache.put(&key("a"), b"compiled");
    cache.put(&key("b"), b"compiled");
    assert_eq!(cache.get(&key("a")), None);
}

#[test]
fn what_a_dead_process_left_is_cleared() {
    let root = tempfile::tempdir().unwrap();
    let cache = ProgramCache::open(root.path(), 1 << 20);
    let [old, young] = ["old", "young"].map(|name| root.path().join(format!("{UNFINISHED}{name}")));
    for path in [&old, &young] {
        fs::write(path, b"half a prog").unwrap();
    }
    let long_ago = SystemTime::now() - 2 * ABANDONED;
    File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    cache.put(&key("a"), b"compiled");
    assert!(!old.exists() && young.exists());
}

#[test]
fn writers_and_readers_share_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let end = Instant::now() + Duration::from_millis(200);
    std::thread::scope(|scope| {
        for writer in 0..3u8 {
            let folder = root.path();
            scope.spawn(move || {
                // Each with a cache of its own, as processes have, and room for two programs of four.
                let cache = ProgramCache::open(folder, 2 * entry::size(10_000));
                for round in 0..10_000u32 {
                    let name = key(["a", "b", "c", "d"][round as usize % 4]);
                    if let Some(found) = cache.get(&name) {
                        assert!(found.len() == 10_000 && found.iter().all(|byte| *byte == found[0]));
                    }
                    cache.put(&name, &[writer; 10_000]);
                    if Instant::now() > end {
                        break;
                    }
                }
            });
        }
    });
    assert!(names(root.path()).iter().all(|name| name.ends_with(SUFFIX)), "nothing unfinished is left");
}

#[test]
fn the_default_folder_is_in_the_users_cache() {
    let folder = ProgramCache::default_folder().unwrap();
    assert!(folder.ends_with("nxd/programs"), "{}", folder.display());
}
