//! Copying blocks of the cache before a step, without a detour over the host.

use super::TracedDevice;
use super::programs::Bucket;
use crate::bucket::{CopyBucket, round_up};
use crate::error::DeviceError;
use crate::host::HostArray;
use crate::inputs::Inputs;
use crate::tracer::{COPY_FROM, COPY_TO, Tracer};
use nxd_ops::Batch;
use std::collections::BTreeMap;

impl TracedDevice {
    /// Makes the copies that a batch asks for.
    pub(super) fn copy_blocks(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        for (group, tables) in batch.groups.iter().enumerate().filter(|(_, tables)| !tables.copy_blocks.is_empty()) {
            let copies = at_once(&tables.copy_blocks);
            let bucket = CopyBucket { group, blocks: round_up(copies.len(), 1) };
            let filler = self.kv_shape.num_blocks[group] as i32;
            let (mut from, mut to) = (vec![filler; bucket.blocks], vec![filler; bucket.blocks]);
            for ((from, to), (target, source)) in from.iter_mut().zip(&mut to).zip(copies) {
                (*from, *to) = (source as i32, target as i32);
            }
            let key = Bucket::Copy(bucket);
            let loaded = match self.programs.get(&key) {
                Some(loaded) => loaded,
                None => {
                    let program = Tracer::copy(self.setting(), bucket);
                    self.programs.insert(key, program, bucket.to_string(), &self.options)?
                }
            };
            let inputs = Inputs::from([
                (COPY_FROM.to_owned(), HostArray::i32s(&[bucket.blocks], &from)),
                (COPY_TO.to_owned(), HostArray::i32s(&[bucket.blocks], &to)),
            ]);
            self.run(&loaded, &inputs, None)?;
        }
        Ok(())
    }
}

/// Copies (from, to) that are made one after the other as copies that can be made at once: for each target the block whose contents,
/// as they were before all copies, it has in the end.
fn at_once(copies: &[(u32, u32)]) -> BTreeMap<u32, u32> {
    let mut sources = BTreeMap::new();
    for (from, to) in copies {
        let source = sources.get(from).copied().unwrap_or(*from);
        sources.insert(*to, source);
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_copies_come_from_the_first_and_the_last_one_counts() {
        let pairs = |copies: &[(u32, u32)]| at_once(copies).into_iter().collect::<Vec<_>>();
        assert_eq!(pairs(&[(1, 2), (2, 3), (3, 4)]), [(2, 1), (3, 1), (4, 1)]);
        assert_eq!(pairs(&[(1, 2), (5, 2)]), [(2, 5)]);
        assert_eq!(pairs(&[(1, 2), (2, 1), (7, 7)]), [(1, 1), (2, 1), (7, 7)]);
        assert_eq!(pairs(&[(1, 2), (3, 1), (1, 4)]), [(1, 3), (2, 1), (4, 3)]);
    }
}
