//! A file of tensors that are known before their data is.

use super::{NewTensor, WriteError};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file with a header and, behind it, the data of its tensors in their order, each at a multiple of an alignment. They may be written in
/// any order.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    tensors: HashMap<String, Room>,
}

/// Where a tensor's data goes.
#[derive(Clone, Copy, Debug)]
struct Room {
    start: u64,
    len: usize,
    is_written: bool,
}

/// The offset of each tensor's data, the first at 0, and the end of the last, aligned too.
pub(super) fn offsets(tensors: &[NewTensor], alignment: u64) -> Result<(Vec<u64>, u64), WriteError> {
    let mut at = 0_u64;
    let mut starts = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        starts.push(at);
        let end = at.checked_add(tensor.bytes()? as u64).and_then(|end| end.checked_next_multiple_of(alignment));
        at = end.ok_or_else(|| WriteError::Shape {
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
            format: tensor.format,
        })?;
    }
    Ok((starts, at))
}

impl TensorFile {
    /// Makes the file `path`, which must not exist. `header` is already as long as it is to be.
    pub(super) fn create(
        path: &Path,
        header: &[u8],
        tensors: &[NewTensor],
        alignment: u64,
    ) -> Result<TensorFile, WriteError> {
        let (starts, len) = offsets(tensors, alignment)?;
        let header_len = header.len() as u64;
        let mut rooms = HashMap::new();
        for (tensor, start) in tensors.iter().zip(starts) {
            let room = Room { start: header_len + start, len: tensor.bytes()?, is_written: false };
            if rooms.insert(tensor.name.clone(), room).is_some() {
                return Err(WriteError::Tensor { tensor: tensor.name.clone(), problem: "is announced twice" });
            }
        }
        let failed = || WriteError::io(path);
        let mut file = File::create_new(path).map_err(failed())?;
        // Padding between tensors is what nobody writes.
        file.set_len(header_len + len).map_err(failed())?;
        file.write_all(header).map_err(failed())?;
        Ok(TensorFile { path: path.to_owned(), file, tensors: rooms })
    }

    /// Writes the tensor `name`, whose data `write` gives piece by piece to the function that it gets.
    ///
    /// # Errors
    /// Those of `write`; and when there is no such tensor, it was written before, or the pieces are not as long as its shape and format say.
    pub fn tensor<E: From<WriteError>>(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), WriteError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let wrong = |problem| WriteError::Tensor { tensor: name.to_owned(), problem };
        let room = self.tensors.get_mut(name).ok_or_else(|| wrong("was not announced"))?;
        if room.is_written {
            return Err(wrong("was written before").into());
        }
        let (path, file, expected) = (&self.path, &mut self.file, room.len);
        let length = |found| WriteError::Length { tensor: name.to_owned(), found, expected };
        file.seek(SeekFrom::Start(room.start)).map_err(WriteError::io(path))?;
        let mut found = 0_usize;
        write(&mut |bytes| {
            found = found.saturating_add(bytes.len());
            // Nothing is written over the next tensor.
            if found > expected {
                return Err(length(found));
            }
            file.write_all(bytes).map_err(WriteError::io(path))
        })?;
        if found != expected {
            return Err(length(found).into());
        }
        room.is_written = true;
        Ok(())
    }

    /// Ends the file, all of whose tensors were written, and waits until it lies on the disk.
    ///
    /// # Errors
    /// When a tensor is missing, or the system refuses.
    pub fn finish(self) -> Result<(), WriteError> {
        let mut missing: Vec<&String> =
            self.tensors.iter().filter(|(_, room)| !room.is_written).map(|(name, _)| name).collect();
        missing.sort();
        if let Some(&tensor) = missing.first() {
            return Err(WriteError::Tensor { tensor: tensor.clone(), problem: "was never written" });
        }
        self.file.sync_all().map_err(WriteError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_ops::Format;

    fn tensor(name: &str, len: usize) -> NewTensor {
        NewTensor { name: name.to_owned(), format: Format::I8, shape: vec![len] }
    }

    #[test]
    fn tensors_lie_aligned_in_whatever_order_they_come() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let mut file = TensorFile::create(&path, b"head", &[tensor("a", 3), tensor("b", 2)], 4).unwrap();
        let write = |file: &mut TensorFile, name, pieces: &[&[u8]]| {
            file.tensor::<WriteError>(name, |out| pieces.iter().try_for_each(|piece| out(piece)))
        };
        write(&mut file, "b", &[&[4], &[5]]).unwrap();
        write(&mut file, "a", &[&[1, 2, 3]]).unwrap();
        assert!(write(&mut file, "a", &[&[1]]).unwrap_err().to_string().contains("`a` was written before"));
        assert!(write(&mut file, "c", &[]).unwrap_err().to_string().contains("`c` was not announced"));
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"head\x01\x02\x03\0\x04\x05\0\0");
    }

    #[test]
    fn a_tensor_of_another_length_and_a_missing_one_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut file = TensorFile::create(&home.path().join("file"), b"", &[tensor("a", 3)], 4).unwrap();
        for pieces in [&[0; 2][..], &[0; 4]] {
            let error = file.tensor::<WriteError>("a", |out| out(pieces)).unwrap_err().to_string();
            assert!(error.contains(&format!("`a` got {} bytes, its shape and format have 3", pieces.len())), "{error}");
        }
        assert_eq!(file.finish().unwrap_err().to_string(), "tensor `a` was never written");
        let twice = TensorFile::create(&home.path().join("twice"), b"", &[tensor("a", 1), tensor("a", 1)], 4);
        assert_eq!(twice.unwrap_err().to_string(), "tensor `a` is announced twice");
    }
}
