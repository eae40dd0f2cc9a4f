//! A file's bytes: mapped, or read into memory. The one memory map of this crate is here.
#![allow(unsafe_code, reason = "mapping a file is unsafe: its bytes are somebody else's")]

use super::CheckpointError;
use memmap2::Mmap;
use nxd_ops::SharedBytes;
use std::fs::{File, FileType, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a checkpoint's files come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Mapped: starts at once, shares the page cache. Cutting the file while it is in use ends the process.
    #[default]
    Mmap,
    /// Read as a whole: needs as much memory as the file has bytes, and no longer depends on the file.
    Read,
}

/// An opened file of a checkpoint.
#[derive(Debug)]
pub(super) struct FileBytes {
    path: PathBuf,
    bytes: SharedBytes,
    /// Kept for mapped files, to notice when they are cut.
    mapped: Option<File>,
}

impl FileBytes {
    /// Opens `path`, which must be a regular file (or a link to one).
    pub(super) fn open(path: &Path, mode: LoadMode) -> Result<Self, CheckpointError> {
        let (mut file, len) = open_regular(path)?;
        let path = path.to_owned();
        if len == 0 {
            return Ok(FileBytes { path, bytes: Vec::new().into(), mapped: None });
        }
        match mode {
            LoadMode::Mmap => {
                let map = map(&file).map_err(|e| read_error(&path, &e))?;
                let opened = FileBytes { path, bytes: SharedBytes::new(Arc::new(map)), mapped: Some(file) };
                opened.check_unchanged()?;
                Ok(opened)
            }
            LoadMode::Read => {
                let available = available_memory().unwrap_or(u64::MAX);
                if len > available {
                    return Err(CheckpointError::Memory { file: path.display().to_string(), needed: len, available });
                }
                let bytes = read_exactly(&mut file, &path, len)?.into();
                Ok(FileBytes { path, bytes, mapped: None })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder, as messages about its content have it.
    pub(super) fn name(&self) -> String {
        file_name(&self.path)
    }

    pub(super) fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }

    /// Fails when a mapped file has another size than when it was opened: touching pages behind its end would end the process.
    pub(super) fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let Some(file) = &self.mapped else { return Ok(()) };
        let now = file.metadata().map_err(|e| read_error(&self.path, &e))?.len();
        let opened = self.bytes.len() as u64;
        if now == opened {
            return Ok(());
        }
        Err(CheckpointError::Changed { file: self.path.display().to_string(), opened, now })
    }
}

/// The content of a small file of at most `limit` bytes.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let (mut file, len) = open_regular(path)?;
    if len > limit {
        return Err(CheckpointError::TooLarge { file: path.display().to_string(), found: len, limit });
    }
    read_exactly(&mut file, path, len)
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

pub(super) fn read_error(path: &Path, error: &std::io::Error) -> CheckpointError {
    CheckpointError::Read { file: path.display().to_string(), reason: error.to_string() }
}

/// Opens a regular file and gives its size. The kind is looked at first, because opening a FIFO waits for a writer.
fn open_regular(path: &Path) -> Result<(File, u64), CheckpointError> {
    let regular = |about: Metadata| {
        if about.is_file() {
            return Ok(about.len());
        }
        Err(CheckpointError::NotAFile { file: path.display().to_string(), found: kind(about.file_type()) })
    };
    regular(std::fs::metadata(path).map_err(|e| read_error(path, &e))?)?;
    let file = File::open(path).map_err(|e| read_error(path, &e))?;
    let len = regular(file.metadata().map_err(|e| read_error(path, &e))?)?;
    Ok((file, len))
}

fn kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "FIFO";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "device";
        }
        if kind.is_socket() {
            return "socket";
        }
    }
    if kind.is_dir() { "folder" } else { "special file" }
}

/// Reads `len` bytes; a file that turns out longer or shorter is an error.
fn read_exactly(file: &mut File, path: &Path, len: u64) -> Result<Vec<u8>, CheckpointError> {
    let no_memory = || CheckpointError::Memory {
        file: path.display().to_string(),
        needed: len,
        available: available_memory().unwrap_or(0),
    };
    let mut bytes = Vec::new();
    let capacity = usize::try_from(len).map_err(|_| no_memory())?;
    bytes.try_reserve_exact(capacity).map_err(|_| no_memory())?;
    file.take(len).read_to_end(&mut bytes).map_err(|e| read_error(path, &e))?;
    let now = file.metadata().map_err(|e| read_error(path, &e))?.len();
    if bytes.len() as u64 != len || now != len {
        return Err(CheckpointError::Changed { file: path.display().to_string(), opened: len, now });
    }
    Ok(bytes)
}

/// Memory that can be had without swapping, where the system tells.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this process. Another process may still write to the file, or cut it: the bytes
    // are then other numbers (never a broken Rust value, they are only ever read as `u8`), or a signal ends the process, which
    // `LoadMode` documents. `FileBytes::check_unchanged` notices a cut before each tensor is handed out.
    unsafe { Mmap::map(file) }
}
