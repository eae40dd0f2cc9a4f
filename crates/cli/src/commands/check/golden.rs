//! Reading golden data: what an independent implementation computed from the same checkpoint.

use crate::failure::{Failure, Kind};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest file read: golden data are small by nature.
const MAX_BYTES: u64 = 1 << 30;

/// The golden data of one checkpoint.
#[derive(Debug)]
pub(super) struct Golden {
    pub(super) prompts: Vec<Vec<u32>>,
    pub(super) greedy: Vec<Greedy>,
    pub(super) tolerance: f32,
    pub(super) logits: Vec<Logits>,
    /// `embed`, `layer.0` …, `final_norm` of the second prompt, each `[T, E]`.
    pub(super) hidden: BTreeMap<String, Vec<f32>>,
}

/// A greedy continuation.
#[derive(Debug, Deserialize)]
pub(super) struct Greedy {
    /// Index of the prompt.
    pub(super) prompt: usize,
    pub(super) tokens: Vec<u32>,
    /// The id that ends it; without one it goes on for as many tokens as there are.
    pub(super) eos_token_id: Option<u32>,
}

/// Expected logits at the last positions of a prompt.
#[derive(Debug)]
pub(super) struct Logits {
    /// The tensor's name.
    pub(super) name: String,
    pub(super) prompt: usize,
    /// How many of the prompt's last positions.
    pub(super) rows: usize,
    /// `[rows, V]`.
    pub(super) values: Vec<f32>,
}

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    #[serde(default)]
    greedy: Vec<Greedy>,
    #[serde(default)]
    greedy_stop: Option<OneOrMany>,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Greedy),
    Many(Vec<Greedy>),
}

#[derive(Deserialize)]
struct Tolerance {
    f32_max_abs: f32,
}

impl Golden {
    /// Reads `expected.json` and `expected.safetensors` of `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let (json, tensors) = (dir.join("expected.json"), dir.join("expected.safetensors"));
        let expected: Expected = serde_json::from_slice(&read(&json)?).map_err(|e| broken(&json, &e.to_string()))?;
        let mut greedy = expected.greedy;
        match expected.greedy_stop {
            Some(OneOrMany::One(one)) => greedy.push(one),
            Some(OneOrMany::Many(many)) => greedy.extend(many),
            None => {}
        }
        let mut golden = Golden {
            prompts: expected.prompts,
            greedy,
            tolerance: expected.tolerance.f32_max_abs,
            logits: Vec::new(),
            hidden: BTreeMap::new(),
        };
        let bytes = read(&tensors)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(&tensors, &e.to_string()))?;
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(broken(&tensors, &format!("tensor `{name}` is {:?}, expected F32", view.dtype())));
            }
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if let Some(place) = name.strip_prefix("hidden.") {
                golden.hidden.insert(place.to_owned(), values);
            } else if let Some((kind, prompt)) = name.split_once('.')
                && ["logits_last", "logits_full", "logits_tail"].contains(&kind)
            {
                let prompt = prompt.parse().ok().filter(|p| *p < golden.prompts.len());
                let prompt = prompt.ok_or_else(|| broken(&tensors, &format!("tensor `{name}` names no prompt")))?;
                let rows = if view.shape().len() == 2 { view.shape()[0] } else { 1 };
                golden.logits.push(Logits { name, prompt, rows, values });
            }
        }
        golden.logits.sort_by(|a, b| a.name.cmp(&b.name));
        golden.validate(&json)?;
        Ok(golden)
    }

    fn validate(&self, json: &Path) -> Result<(), Failure> {
        if let Some(greedy) = self.greedy.iter().find(|g| g.prompt >= self.prompts.len()) {
            return Err(broken(json, &format!("`greedy` names prompt {} of {}", greedy.prompt, self.prompts.len())));
        }
        if self.prompts.iter().any(Vec::is_empty) {
            return Err(broken(json, "`prompts` has an empty prompt"));
        }
        if let Some(logits) = self.logits.iter().find(|l| l.rows == 0 || l.rows > self.prompts[l.prompt].len()) {
            let tokens = self.prompts[logits.prompt].len();
            return Err(broken(
                json,
                &format!("`{}` has {} rows, its prompt {tokens} tokens", logits.name, logits.rows),
            ));
        }
        if self.logits.is_empty() && self.greedy.is_empty() {
            return Err(broken(json, "there is neither a logits tensor nor a greedy continuation to compare with"));
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let help = "golden data are `expected.json` and `expected.safetensors` beside the weights, or in the folder named by --against";
    bounded(path).map_err(|failure| failure.with_help(help))
}

/// The bytes of a file of bounded size.
pub(super) fn bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let fail = |reason: String| broken(path, &reason);
    let meta = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(fail(format!("not a regular file of at most {MAX_BYTES} bytes")));
    }
    std::fs::read(path).map_err(|e| fail(e.to_string()))
}

pub(super) fn broken(path: &Path, reason: &str) -> Failure {
    Failure::new(Kind::Model, format!("{}: {reason}", path.display()))
}
