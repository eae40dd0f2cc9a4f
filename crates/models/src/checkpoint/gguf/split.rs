//! Checkpoints split over several GGUF files, `<name>-00001-of-0000N.gguf`.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::{Gguf, Metadata};
use crate::checkpoint::map::{FileBytes, file_name};
use crate::checkpoint::{CheckpointError, LoadMode, TensorInfo};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// A part of a split checkpoint that does not fit the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The name does not say which part of how many it is.
    #[error("is one of {count} parts, so its name must end in `-<part>-of-{count:05}.gguf` to find the others")]
    Name {
        /// `split.count`.
        count: u64,
    },
    /// A part is not there.
    #[error("part {part} of {count} is missing: `{path}`; put all parts into one folder")]
    Missing {
        /// Its number, from 1.
        part: u64,
        /// How many there are.
        count: u64,
        /// Where it should be.
        path: String,
    },
    /// A key differs from what the file's name or the first part says.
    #[error("key `{key}` is {found}, expected {expected}; is it a part of another model?")]
    Key {
        /// The key.
        key: &'static str,
        /// Its value here.
        found: String,
        /// The value that fits.
        expected: String,
    },
    /// A tensor is in two parts.
    #[error("tensor `{tensor}` is also in `{first}`; is it a part of another model?")]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// The part that holds it, too.
        first: String,
    },
    /// The parts together hold too few or too many tensors.
    #[error(
        "the {count} parts hold {found} tensors, `split.tensors.count` is {expected}; is one of them a part of another model?"
    )]
    Tensors {
        /// Number of parts.
        count: u64,
        /// Tensors there are.
        found: u64,
        /// Tensors there should be.
        expected: u64,
    },
}

/// The opened files of a GGUF checkpoint.
pub(in crate::checkpoint) struct Opened {
    pub(in crate::checkpoint) files: Vec<FileBytes>,
    pub(in crate::checkpoint) gguf: Gguf,
    pub(in crate::checkpoint) tensors: Vec<TensorInfo>,
}

/// Opens a GGUF file, and with any part of a split checkpoint all the others.
pub(in crate::checkpoint) fn open(path: &Path, mode: LoadMode) -> Result<Opened, CheckpointError> {
    let (file, gguf, tensors) = parse(path, mode, 0)?;
    let count = gguf.metadata.u64(COUNT)?.unwrap_or(1);
    if count <= 1 {
        return Ok(Opened { files: vec![file], gguf, tensors });
    }
    let Some(paths) = siblings(path).filter(|paths| paths.len() as u64 == count) else {
        return Err(problem(path, SplitError::Name { count }));
    };
    drop(file);
    open_parts(&paths, mode)
}

fn open_parts(paths: &[PathBuf], mode: LoadMode) -> Result<Opened, CheckpointError> {
    let count = paths.len() as u64;
    let mut opened: Option<Opened> = None;
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (number, path) in paths.iter().enumerate() {
        if !path.exists() {
            let part = (number as u64).saturating_add(1);
            let missing = SplitError::Missing { part, count, path: path.display().to_string() };
            return Err(problem(paths.first().unwrap_or(path), missing));
        }
        let (file, gguf, tensors) = parse(path, mode, number)?;
        expect(path, &gguf.metadata, COUNT, count)?;
        expect(path, &gguf.metadata, NUMBER, number as u64)?;
        for tensor in &tensors {
            let Some(first) = owners.insert(tensor.name.clone(), number) else { continue };
            let first = paths.get(first).map(|path| file_name(path)).unwrap_or_default();
            return Err(problem(path, SplitError::Duplicate { tensor: tensor.name.clone(), first }));
        }
        match &mut opened {
            None => opened = Some(Opened { files: vec![file], gguf, tensors }),
            Some(opened) => {
                same_model(path, &opened.gguf.metadata, &gguf.metadata)?;
                opened.files.push(file);
                opened.tensors.extend(tensors);
            }
        }
    }
    let opened = opened.expect("a split checkpoint has at least two parts");
    let found = opened.tensors.len() as u64;
    match opened.gguf.metadata.u64(TENSORS)? {
        Some(expected) if expected != found => {
            let path = paths.first().expect("a split checkpoint has at least two parts");
            Err(problem(path, SplitError::Tensors { count, found, expected }))
        }
        _ => Ok(opened),
    }
}

/// Later parts need not repeat the metadata, but what they repeat must agree.
fn same_model(path: &Path, first: &Metadata, part: &Metadata) -> Result<(), CheckpointError> {
    for key in ["general.architecture", "general.name", TENSORS] {
        let (Some(expected), Some(found)) = (first.get(key), part.get(key)) else { continue };
        let (found, expected) = (found.to_string(), expected.to_string());
        if found != expected {
            return Err(problem(path, SplitError::Key { key, found, expected }));
        }
    }
    Ok(())
}

fn expect(path: &Path, metadata: &Metadata, key: &'static str, expected: u64) -> Result<(), CheckpointError> {
    let found = metadata.u64(key)?;
    if found == Some(expected) {
        return Ok(());
    }
    let found = found.map_or("missing".to_owned(), |found| found.to_string());
    Err(problem(path, SplitError::Key { key, found, expected: expected.to_string() }))
}

fn parse(path: &Path, mode: LoadMode, number: usize) -> Result<(FileBytes, Gguf, Vec<TensorInfo>), CheckpointError> {
    let file = FileBytes::open(path, mode)?;
    let name = file.name();
    match file.parse(|head, file_bytes| Gguf::parse(head, file_bytes, &name, number))? {
        Ok((gguf, tensors)) => Ok((file, gguf, tensors)),
        Err(problem) => Err(CheckpointError::Gguf { file: name, problem }),
    }
}

fn problem(path: &Path, problem: SplitError) -> CheckpointError {
    CheckpointError::Split { file: file_name(path), problem }
}

/// The paths of all parts, by the name of one of them; `None` when the name is not that of a part.
pub fn siblings(path: &Path) -> Option<Vec<PathBuf>> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| -> Option<u32> {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (part, count) = (number(part)?, number(count)?);
    if !(1..=count).contains(&part) {
        return None;
    }
    Some((1..=count).map(|part| path.with_file_name(format!("{prefix}-{part:05}-of-{count:05}.gguf"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_one_part_gives_all() {
        let all = siblings(Path::new("dir/m-of-x-00002-of-00003.gguf")).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all.first().unwrap(), Path::new("dir/m-of-x-00001-of-00003.gguf"));
        for other in
            ["m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-2-of-3.gguf", "m-00001-of-00003.bin"]
        {
            assert_eq!(siblings(Path::new(other)), None, "{other}");
        }
    }
}
