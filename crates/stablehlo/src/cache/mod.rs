//! Compiled programs on disk.
//!
//! Compiling a bucket takes seconds to minutes, so what comes out is kept under a key of everything that went in. A cache may be
//! lost at any time and must never be in the way: nothing here fails, whatever is wrong with folder or files is a warning and a
//! miss. Files are written under another name and renamed, so processes may share a folder; the least recently used go when the sum
//! of sizes exceeds the limit.
//!
//! Programs are machine code and are run, so a folder that everybody may write to is not used.

mod entry;
mod key;

pub use key::{Key, KeyParts, PluginFile};

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::{debug, warn};

/// How an entry's name ends.
const SUFFIX: &str = ".program";
/// How the name of a file that is being written begins.
const UNFINISHED: &str = ".unfinished-";
/// A file that is being written for so long was left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Compiled programs on disk; see the [module](self).
#[derive(Debug)]
pub struct ProgramCache {
    /// `None` when the cache is off.
    folder: Option<PathBuf>,
    limit_bytes: u64,
    /// Whether a failure to write was told.
    warned: AtomicBool,
}

impl ProgramCache {
    /// The cache in `folder`, which is made if need be, of at most `limit_bytes` of files. A folder that cannot be used is warned of,
    /// once, and nothing is cached.
    pub fn open(folder: &Path, limit_bytes: u64) -> Self {
        let folder = match usable(folder) {
            _ if limit_bytes == 0 => None,
            Ok(()) => Some(folder.to_owned()),
            Err(error) => {
                warn!("{}: compiled programs are not cached: {error}", folder.display());
                None
            }
        };
        ProgramCache { folder, limit_bytes, warned: AtomicBool::new(false) }
    }

    /// A cache that holds nothing.
    pub fn off() -> Self {
        ProgramCache { folder: None, limit_bytes: 0, warned: AtomicBool::new(false) }
    }

    /// Where programs are kept unless the user says otherwise: `$XDG_CACHE_HOME/nxd/programs`, else `~/.cache/nxd/programs`.
    pub fn default_folder() -> Option<PathBuf> {
        let filled = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let cache = filled("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")))?;
        Some(cache.join("nxd").join("programs"))
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.folder.is_some()
    }

    /// The program of this key, if it is there and whole. A file that is not is removed.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.path(key)?;
        match read(&path, self.limit_bytes) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!("{}: a cached program is compiled again: {error}", path.display());
                // A folder of that name stays; it costs nothing.
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a program, unless it alone exceeds the limit, and removes those not used for longest.
    pub fn put(&self, key: &Key, program: &[u8]) {
        let (Some(folder), Some(path)) = (&self.folder, self.path(key)) else { return };
        let bytes = entry::size(program.len());
        if bytes > self.limit_bytes {
            debug!("a program of {bytes} bytes exceeds the cache's limit of {} and is not kept", self.limit_bytes);
            return;
        }
        if let Err(error) = write(folder, &path, program) {
            if !self.warned.swap(true, Ordering::Relaxed) {
                warn!("{}: a compiled program could not be kept: {error}", path.display());
            }
            return;
        }
        if let Err(error) = shrink(folder, &path, self.limit_bytes) {
            warn!("{}: old programs could not be removed: {error}", folder.display());
        }
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{key}{SUFFIX}")))
    }
}

/// Makes the folder if need be; an error says why it cannot be used.
fn usable(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if fs::metadata(folder)?.permissions().mode() & 0o002 != 0 {
            return Err(io::Error::other("everybody may write there; take that right away with `chmod o-w`"));
        }
    }
    fs::read_dir(folder).map(drop)
}

fn read(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if found.len() > limit_bytes {
        return Err(io::Error::other(format!("it has {} bytes, the whole cache has {limit_bytes}", found.len())));
    }
    let mut file = File::open(path)?;
    let program = entry::read(&mut file, found.len())?;
    // Only the order of removal suffers when the time cannot be set.
    let _ = file.set_modified(stamp());
    Ok(program)
}

fn write(folder: &Path, path: &Path, program: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
    let written = (|| {
        // A new file only: what another process or a link put there is not written to.
        let mut file = File::create_new(&unfinished)?;
        file.write_all(&entry::header(program))?;
        file.write_all(program)?;
        file.set_modified(stamp())?;
        drop(file);
        fs::rename(&unfinished, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Removes the entries that were not used for longest until the rest is within the limit, but never `newest`.
fn shrink(folder: &Path, newest: &Path, limit_bytes: u64) -> io::Result<()> {
    let mut entries = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        // Another process may have removed it since.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let used = found.modified().unwrap_or(UNIX_EPOCH);
        if !found.is_file() {
            continue;
        }
        if name.starts_with(UNFINISHED) && used.elapsed().is_ok_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(&path);
        }
        // What has another name is not ours to remove.
        if name.strip_suffix(SUFFIX).is_some_and(Key::is_name) {
            entries.push((used, path, found.len()));
        }
    }
    let mut total: u64 = entries.iter().map(|(_, _, bytes)| bytes).sum();
    // Files of one time go in the order of their names, the same for every process.
    entries.sort();
    for (_, path, bytes) in entries {
        if total <= limit_bytes {
            break;
        }
        if path != newest {
            debug!("{}: removed from the cache of programs", path.display());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total = total.saturating_sub(bytes),
            }
        }
    }
    Ok(())
}

/// The time, later for each call in this process even if the clock stands still or goes back.
fn stamp() -> SystemTime {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(0);
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    UNIX_EPOCH + Duration::from_nanos(now.max(last.unwrap_or(0) + 1))
}

#[cfg(test)]
mod tests;
