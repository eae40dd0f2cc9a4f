//! A file's bytes: mapped, or read tensor by tensor. The one memory map of this crate is here.
#![allow(unsafe_code, reason = "mapping a file is unsafe: its bytes are somebody else's")]

use super::CheckpointError;
use memmap2::Mmap;
use nxd_ops::SharedBytes;
use nxd_ops::weight::ByteOwner;
use std::fs::{File, FileType, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How a checkpoint's files come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Mapped: starts at once, shares the page cache. Cutting the file while it is in use ends the process.
    #[default]
    Mmap,
    /// Copied, one tensor after the other, when a device takes it. A file that is cut meanwhile is an error; once a model is loaded
    /// nothing depends on the file.
    Read,
}

/// Bytes of a file that are read first where it is not mapped: most headers are shorter.
const FIRST_HEAD_BYTES: usize = 1 << 20;

/// An opened file of a checkpoint.
#[derive(Debug)]
pub(super) struct FileBytes {
    path: PathBuf,
    /// Size when it was opened.
    len: usize,
    /// The whole file, when it is mapped.
    map: Option<SharedBytes>,
    file: Mutex<File>,
}

impl FileBytes {
    /// Opens `path`, which must be a regular file (or a link to one).
    pub(super) fn open(path: &Path, mode: LoadMode) -> Result<Self, CheckpointError> {
        let (file, bytes) = open_regular(path)?;
        let available = || available_memory().unwrap_or(u64::MAX);
        let (needed, unfit) = (bytes, mode == LoadMode::Read && bytes > available());
        let Some(len) = usize::try_from(bytes).ok().filter(|_| !unfit) else {
            let available = available();
            return Err(CheckpointError::Memory { file: path.display().to_string(), needed, available });
        };
        let map = match mode {
            LoadMode::Mmap if len > 0 => {
                let map = map(&file).map_err(|e| read_error(path, &e))?;
                Some(SharedBytes::new(Arc::new(Mapped(map))))
            }
            _ => None,
        };
        // The map may have another length than the one that was asked for first.
        let len = map.as_ref().map_or(len, |map| map.len());
        let opened = FileBytes { path: path.to_owned(), len, map, file: Mutex::new(file) };
        opened.check_unchanged()?;
        Ok(opened)
    }

    /// What `parse` makes of the file's head, given with the length of the whole file. Of a file that is not mapped as much is read as
    /// `parse` needs.
    pub(super) fn parse<T, E>(
        &self,
        parse: impl Fn(&SharedBytes, usize) -> Result<T, E>,
    ) -> Result<Result<T, E>, CheckpointError> {
        if let Some(map) = &self.map {
            return Ok(parse(map, self.len));
        }
        let mut head_len = FIRST_HEAD_BYTES.min(self.len);
        loop {
            let parsed = parse(&self.read(0..head_len)?, self.len);
            if parsed.is_ok() || head_len == self.len {
                return Ok(parsed);
            }
            head_len = head_len.saturating_mul(2).min(self.len);
        }
    }

    /// The bytes of `range`: where they are mapped, or a copy.
    pub(super) fn bytes(&self, range: Range<usize>) -> Result<SharedBytes, CheckpointError> {
        match &self.map {
            Some(map) => {
                self.check_unchanged()?;
                Ok(map.slice(range).expect("ranges were checked when the file was opened"))
            }
            None => self.read(range),
        }
    }

    /// Whether the file is mapped; one without bytes has nothing to map.
    pub(super) fn is_mapped(&self) -> bool {
        self.map.is_some() || self.len == 0
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder, as messages about its content have it.
    pub(super) fn name(&self) -> String {
        file_name(&self.path)
    }

    /// Copies `range`.
    fn read(&self, range: Range<usize>) -> Result<SharedBytes, CheckpointError> {
        // Nobody panics while reading.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        check_length(&file, &self.path, self.len as u64)?;
        file.seek(SeekFrom::Start(range.start as u64)).map_err(|e| read_error(&self.path, &e))?;
        Ok(read_exactly(&mut file, &self.path, range.len() as u64, self.len as u64)?.into())
    }

    /// Fails when the file has another size than when it was opened: touching pages behind the end of a map would end the process.
    fn check_unchanged(&self) -> Result<(), CheckpointError> {
        check_length(&self.file.lock().unwrap_or_else(PoisonError::into_inner), &self.path, self.len as u64)
    }
}

/// Fails when an open file does not have the `opened` bytes that it had when it was opened.
fn check_length(file: &File, path: &Path, opened: u64) -> Result<(), CheckpointError> {
    let now = file.metadata().map_err(|e| read_error(path, &e))?.len();
    if now == opened {
        return Ok(());
    }
    Err(CheckpointError::Changed { file: path.display().to_string(), opened, now })
}

/// The content of a small file of at most `limit` bytes.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let (mut file, len) = open_regular(path)?;
    if len > limit {
        return Err(CheckpointError::TooLarge { file: path.display().to_string(), found: len, limit });
    }
    read_exactly(&mut file, path, len, len)
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

/// Reads the next `len` bytes of a file of `file_len`; one that turns out longer or shorter is an error.
fn read_exactly(file: &mut File, path: &Path, len: u64, file_len: u64) -> Result<Vec<u8>, CheckpointError> {
    let no_memory = || CheckpointError::Memory {
        file: path.display().to_string(),
        needed: len,
        available: available_memory().unwrap_or(0),
    };
    let mut bytes = Vec::new();
    let capacity = usize::try_from(len).map_err(|_| no_memory())?;
    bytes.try_reserve_exact(capacity).map_err(|_| no_memory())?;
    file.take(len).read_to_end(&mut bytes).map_err(|e| read_error(path, &e))?;
    check_length(file, path, file_len)?;
    if bytes.len() as u64 != len {
        let now = bytes.len() as u64;
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

/// A mapped file.
struct Mapped(Mmap);

impl ByteOwner for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn expect(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if self.0.get(range.clone()).is_some_and(|bytes| !bytes.is_empty())
            && let Err(error) = self.0.advise_range(memmap2::Advice::PopulateRead, range.start, range.len())
        {
            // Systems before 5.14 do not know how.
            tracing::trace!("pages of a mapped file are mapped one by one: {error}");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if self.0.get(range.clone()).is_some_and(|bytes| !bytes.is_empty()) {
            // SAFETY: the range lies within the map. The map is of a file and nobody writes through it, so that its pages hold nothing
            // but the file's bytes: whoever reads them again gets them from there.
            let done =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            if let Err(error) = done {
                tracing::debug!("pages of a mapped file cannot be released: {error}");
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this process. Another process may still write to the file, or cut it: the bytes
    // are then other numbers (never a broken Rust value, they are only ever read as `u8`), or a signal ends the process, which
    // `LoadMode` documents. `FileBytes::bytes` notices a cut before each tensor is handed out.
    unsafe { Mmap::map(file) }
}
