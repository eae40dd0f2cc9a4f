//! From a Hugging Face folder to one in the layout of compressed-tensors: the matrices of linear layers as bytes under a scale a row, the rest
//! as it is.
//!
//! Source: `QuantizationConfig` and the compressors `int-quantized` and `float-quantized` of compressed-tensors.

use super::rows::Rows;
use super::{QuantiseError, QuantiseOptions, Report, Work};
use crate::checkpoint::write::{NewTensor, Place, WriteError, safetensors};
use crate::checkpoint::{Checkpoint, Encoding, TensorInfo};
use crate::config::read_object;
use crate::model::Model;
use nxd_modules::Decoder;
use nxd_ops::quant;
use nxd_ops::{Format, Manifest, Mesh, Params, Role};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;

/// What stands beside the weights and still holds.
const BESIDE: [&str; 13] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
];

pub(super) fn write(
    path: &Path,
    out: &Path,
    format: Format,
    options: &QuantiseOptions,
    work: &mut Work<'_>,
) -> Result<Report, QuantiseError> {
    let model = Model::open(path, options.mode)?;
    let (checkpoint, folder) = (model.checkpoint(), model.checkpoint().dir().to_owned());
    if let Some(found) = quantised(&model) {
        return Err(QuantiseError::AlreadyQuantised { folder, found });
    }
    let linear = Linear::of(&model)?;
    let groups = checkpoint.tensors().map(|tensor| linear.group(checkpoint, tensor, format));
    let shards = safetensors::shards(groups.collect::<Result<_, _>>()?, options.shard_bytes)?;

    work.plan(shards.iter().flatten());
    let place = Place::of_folder(out, options.replace)?;
    let mut report = Report::default();
    for (index, shard) in shards.iter().enumerate() {
        let file = place.temporary().join(safetensors::shard_name(index, shards.len()));
        let mut file = safetensors::create(&file, shard)?;
        shard.iter().try_for_each(|tensor| report.add(tensor))?;
        for tensor in shard.iter().filter(|tensor| checkpoint.info(&tensor.name).is_some()) {
            let stored = checkpoint.tensor(&tensor.name)?;
            if tensor.format == stored.format {
                let bytes = stored.data.bytes().map(|bytes| &bytes[..]).unwrap_or_default();
                work.copy(&mut file, tensor, bytes)?;
                continue;
            }
            let (of_scales, rows) = (stored.format, Rows::of_tensor(stored)?);
            let mut scales = Vec::new();
            file.tensor(&tensor.name, |out| {
                scales = rows.encode_scaled(format, of_scales, work, &mut |bytes| Ok(out(bytes)?))?;
                Ok::<_, QuantiseError>(())
            })?;
            let mut bytes = vec![0; scales.len() * of_scales.block_bytes()];
            // A scale is one that its type holds.
            quant::encode_row(of_scales, &scales, &mut bytes).map_err(|source| QuantiseError::Value {
                origin: scale_name(&tensor.name),
                row: 0,
                source,
            })?;
            file.tensor::<WriteError>(&scale_name(&tensor.name), |out| out(&bytes))?;
            work.advance(scales.len());
        }
        file.finish()?;
    }
    if shards.len() > 1 {
        write_json(&place, "model.safetensors.index.json", &safetensors::index(&shards)?)?;
    }
    let mut config = read_object(&folder.join("config.json"))?;
    config.insert("quantization_config".to_owned(), linear.config(format));
    write_json(&place, "config.json", &Value::Object(config))?;
    copy_beside(&folder, &place)?;
    place.finish()?;
    Ok(report)
}

/// How a folder's weights are quantised, if they are.
fn quantised(model: &Model) -> Option<String> {
    let is_bytes = |tensor: &TensorInfo| match tensor.encoding {
        Encoding::Supported(format) => format.takes_scales(),
        Encoding::Other(name) => name == "I8" || name.starts_with("F8"),
    };
    let scheme = model.quantisation().scheme().map(ToString::to_string);
    let bytes = || model.checkpoint().tensors().find(|tensor| is_bytes(tensor)).map(|t| t.encoding.name().to_owned());
    scheme.or_else(bytes)
}

/// The matrices of linear layers, by their names in the files.
struct Linear {
    tensors: HashSet<String>,
    /// Modules with a matrix that stays as it is.
    ignored: BTreeSet<String>,
}

impl Linear {
    fn of(model: &Model) -> Result<Linear, QuantiseError> {
        let mut manifest = Manifest::new(Mesh::single());
        Decoder::new(&mut Params::new(&mut manifest), model.spec());
        // Tensors that belong to no weight are an error here as when the model is loaded.
        model.weights(&manifest)?;
        let (places, checkpoint) = (model.places(), model.checkpoint());
        let mut is_linear: HashMap<String, bool> = HashMap::new();
        let (mut tables, mut has_stacked) = (HashSet::new(), false);
        for weight in manifest.weights() {
            let place = places(weight);
            has_stacked |= place.slab.is_some();
            let is_head = weight.name == "lm_head.weight";
            let is_matrix = match weight.role {
                Role::Matrix | Role::Heads(_) => place.slab.is_none() && !place.transposed && !is_head,
                Role::Embedding | Role::TiedEmbedding => {
                    tables.insert(place.name.clone());
                    false
                }
                // A wrong choice costs more than the router's bytes.
                Role::Router | Role::Vector => false,
            };
            *is_linear.entry(place.name).or_insert(true) &= is_matrix;
        }
        let (mut tensors, mut ignored) = (HashSet::new(), BTreeSet::from(["lm_head".to_owned()]));
        for tensor in checkpoint.tensors() {
            let Some(module) = tensor.name.strip_suffix(".weight") else { continue };
            match is_linear.get(&tensor.name) {
                Some(true) if tensor.shape.len() == 2 => {
                    tensors.insert(tensor.name.clone());
                }
                // A table of rows is no layer that a loader would look for.
                _ if tensor.shape.len() == 2 && !tables.contains(&tensor.name) => {
                    ignored.insert(module.to_owned());
                }
                _ => {}
            }
        }
        if has_stacked {
            tracing::warn!(
                "experts that are stacked in one tensor stay as they are: compressed-tensors has no form for them"
            );
        }
        match tensors.is_empty() {
            true => Err(QuantiseError::NothingLinear { folder: checkpoint.dir().to_owned() }),
            false => Ok(Linear { tensors, ignored }),
        }
    }

    /// What a tensor becomes: itself, or bytes and their scales, whose numbers have the type that the weight had.
    fn group(
        &self,
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        format: Format,
    ) -> Result<Vec<NewTensor>, QuantiseError> {
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        let stored = match tensor.encoding {
            Encoding::Supported(stored) => stored,
            Encoding::Other(_) => checkpoint.tensor(&name)?.format,
        };
        Ok(match self.tensors.contains(&name) {
            false => vec![NewTensor { name, format: stored, shape }],
            true => {
                let scales = NewTensor { name: scale_name(&name), format: stored, shape: vec![shape[0], 1] };
                vec![NewTensor { name, format, shape }, scales]
            }
        })
    }

    /// `quantization_config`.
    fn config(&self, format: Format) -> Value {
        let (kind, name) = match format {
            Format::I8 => ("int", "int-quantized"),
            _ => ("float", "float-quantized"),
        };
        json!({
            "config_groups": { "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8, "type": kind, "symmetric": true, "strategy": "channel", "group_size": null,
                    "dynamic": false, "actorder": null, "block_structure": null, "observer": "minmax",
                    "observer_kwargs": {},
                },
                "input_activations": null,
                "output_activations": null,
                // Readers that take a layer's form from its scheme would look for packed integers.
                "format": name,
            } },
            "ignore": self.ignored,
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "kv_cache_scheme": null,
            "global_compression_ratio": null,
            "format": name,
        })
    }
}

fn scale_name(weight: &str) -> String {
    format!("{weight}_scale")
}

fn write_json(place: &Place, name: &str, value: &Value) -> Result<(), WriteError> {
    let path = place.temporary().join(name);
    let text = format!("{value:#}\n");
    fs::write(&path, text).map_err(|source| WriteError::Io { path, source })
}

fn copy_beside(folder: &Path, place: &Place) -> Result<(), QuantiseError> {
    for name in BESIDE {
        let file = folder.join(name);
        // Files of a cache are links; what they lead to is copied.
        if file.is_file() {
            let bytes = fs::read(&file).map_err(|source| QuantiseError::Copy { file, source })?;
            let path = place.temporary().join(name);
            fs::write(&path, bytes).map_err(|source| WriteError::Io { path, source })?;
        }
    }
    Ok(())
}
