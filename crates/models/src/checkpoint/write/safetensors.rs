//! Safetensors files, and the index of several.

use super::file::offsets;
use super::{NewTensor, TensorFile, WriteError};
use nxd_ops::Format;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Makes the file `path`, which must not exist. Tensors of wider numbers come first, so that each is aligned to its own.
///
/// # Errors
/// When a tensor has a format that safetensors have no type for, or the system refuses.
pub fn create(path: &Path, tensors: &[NewTensor]) -> Result<TensorFile, WriteError> {
    let mut tensors = tensors.to_vec();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.format.block_bytes()));
    TensorFile::create(path, &header(&tensors)?, &tensors, 1)
}

fn header(tensors: &[NewTensor]) -> Result<Vec<u8>, WriteError> {
    let refused = |reason: String| WriteError::Header { reason };
    let at = |offset: u64| usize::try_from(offset).map_err(|error| refused(error.to_string()));
    let mut infos = Vec::with_capacity(tensors.len());
    for (tensor, start) in tensors.iter().zip(offsets(tensors, 1)?.0) {
        let Some(dtype) = dtype(tensor.format) else {
            let (name, format) = (tensor.name.clone(), tensor.format);
            return Err(WriteError::Format { tensor: name, format, container: "safetensors" });
        };
        let data_offsets = (at(start)?, at(start)?.saturating_add(tensor.bytes()?));
        infos.push((tensor.name.clone(), TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets }));
    }
    // Other readers ask who made the tensors.
    let about = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(about), infos).map_err(|error| refused(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| refused(error.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes(), &json[..]].concat())
}

fn dtype(format: Format) -> Option<Dtype> {
    Some(match format {
        Format::F32 => Dtype::F32,
        Format::F16 => Dtype::F16,
        Format::BF16 => Dtype::BF16,
        Format::I8 => Dtype::I8,
        Format::E4M3 => Dtype::F8_E4M3,
        Format::E5M2 => Dtype::F8_E5M2,
        Format::Blocks(_) => return None,
    })
}

/// Groups of tensors that stay together, put into files of at most `limit` bytes; a group that is larger has a file of its own.
///
/// # Errors
/// When a tensor has no size.
pub fn shards(groups: Vec<Vec<NewTensor>>, limit: u64) -> Result<Vec<Vec<NewTensor>>, WriteError> {
    let (mut shards, mut bytes): (Vec<Vec<NewTensor>>, u64) = (Vec::new(), 0);
    for group in groups {
        let of_group = group.iter().try_fold(0_u64, |sum, t| Ok(sum.saturating_add(t.bytes()? as u64)))?;
        match shards.last_mut() {
            Some(shard) if bytes.saturating_add(of_group) <= limit => {
                shard.extend(group);
                bytes = bytes.saturating_add(of_group);
            }
            _ => {
                shards.push(group);
                bytes = of_group;
            }
        }
    }
    Ok(shards)
}

/// The name of file `index` of `count`.
pub fn shard_name(index: usize, count: usize) -> String {
    if count == 1 {
        "model.safetensors".to_owned()
    } else {
        format!("model-{:05}-of-{count:05}.safetensors", index + 1)
    }
}

/// The content of `model.safetensors.index.json`.
///
/// # Errors
/// When a tensor has no size.
pub fn index(shards: &[Vec<NewTensor>]) -> Result<Value, WriteError> {
    let (mut map, mut total) = (Map::new(), 0_u64);
    for (index, shard) in shards.iter().enumerate() {
        for tensor in shard {
            total = total.saturating_add(tensor.bytes()? as u64);
            map.insert(tensor.name.clone(), Value::from(shard_name(index, shards.len())));
        }
    }
    Ok(json!({ "metadata": { "total_size": total }, "weight_map": map }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, bytes: usize) -> NewTensor {
        NewTensor { name: name.to_owned(), format: Format::I8, shape: vec![bytes] }
    }

    #[test]
    fn groups_are_not_torn_apart() {
        let groups = vec![
            vec![tensor("a", 4)],
            vec![tensor("b", 3), tensor("c", 3)],
            vec![tensor("d", 9)],
            vec![tensor("e", 1)],
        ];
        let shards = shards(groups, 8).unwrap();
        let names: Vec<Vec<&str>> = shards.iter().map(|s| s.iter().map(|t| t.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a"], vec!["b", "c"], vec!["d"], vec!["e"]]);
        let index = index(&shards).unwrap();
        assert_eq!(index["metadata"]["total_size"], 20);
        assert_eq!(index["weight_map"]["c"], "model-00002-of-00004.safetensors");
        assert_eq!(shard_name(0, 1), "model.safetensors");
    }
}
