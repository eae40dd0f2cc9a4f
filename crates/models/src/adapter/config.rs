//! `adapter_config.json`: what is read of it, and what is refused.

use crate::config::{ConfigError, read_object, short};
use regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;

/// How an adapter's sums are scaled.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    file: String,
    alpha: f64,
    /// Whether sums are divided by the root of the rank (Kalajdzievski, arXiv:2312.03732).
    rank_stabilised: bool,
    /// Patterns of modules with a numerator of their own, in the order of the file.
    alphas: Vec<(Regex, f64)>,
}

/// Keys that change what an adapter computes: they must be absent, null, false or empty.
const REFUSED: [&str; 13] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

impl AdapterConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it cannot be read, is of another method than LoRA, or asks for something that is not computed.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let fields = read_object(path)?;
        let unsupported = |key: &str, supported: &str| {
            let found = short(fields.get(key).unwrap_or(&Value::Null));
            ConfigError::Unsupported { file: file.clone(), key: key.to_owned(), found, supported: supported.to_owned() }
        };
        if fields.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(unsupported("peft_type", "\"LORA\""));
        }
        if fields.get("bias").is_some_and(|bias| !bias.is_null() && bias != "none") {
            return Err(unsupported("bias", "\"none\""));
        }
        let is_set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        };
        if let Some(key) = REFUSED.into_iter().find(|key| fields.get(*key).is_some_and(is_set)) {
            return Err(unsupported(key, "adapters without it"));
        }
        let alpha = match fields.get("lora_alpha") {
            Some(alpha) => number(&file, "lora_alpha", alpha)?,
            None => return Err(ConfigError::Missing { file, key: "lora_alpha".to_owned() }),
        };
        let rank_stabilised = fields.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        let alphas = alphas(&file, &fields)?;
        Ok(AdapterConfig { file, alpha, rank_stabilised, alphas })
    }

    /// What the sum of `module` is multiplied with, whose matrices have `rank`.
    ///
    /// # Errors
    /// When it is no number.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f32, ConfigError> {
        let own = self.alphas.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        let scale = (alpha / if self.rank_stabilised { rank.sqrt() } else { rank }) as f32;
        if scale.is_finite() {
            return Ok(scale);
        }
        let (file, key) = (self.file.clone(), "lora_alpha".to_owned());
        Err(ConfigError::Value { file, key, found: alpha.to_string(), expected: "a number of usual size".to_owned() })
    }
}

/// `alpha_pattern`: names of modules, or patterns of them, of which a module's path has to end in one.
fn alphas(file: &str, fields: &Map<String, Value>) -> Result<Vec<(Regex, f64)>, ConfigError> {
    let patterns = match fields.get("alpha_pattern") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(patterns)) => patterns,
        Some(other) => return Err(wrong(file, "alpha_pattern", other, "an object")),
    };
    let pattern = |(pattern, alpha): (&String, &Value)| {
        let key = format!("alpha_pattern.{pattern}");
        let compiled = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        let compiled = compiled.map_err(|_| wrong(file, &key, alpha, "a regular expression as its key"))?;
        Ok((compiled, number(file, &key, alpha)?))
    };
    patterns.iter().map(pattern).collect()
}

fn number(file: &str, key: &str, value: &Value) -> Result<f64, ConfigError> {
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| wrong(file, key, value, "a number"))
}

fn wrong(file: &str, key: &str, found: &Value, expected: &str) -> ConfigError {
    let (file, key) = (file.to_owned(), key.to_owned());
    ConfigError::Value { file, key, found: short(found), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(fields: Value) -> Result<AdapterConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_config.json");
        std::fs::write(&path, fields.to_string()).unwrap();
        AdapterConfig::read(&path)
    }

    #[test]
    fn the_scale_follows_rank_and_pattern() {
        let alphas = json!({"gate_proj": 16, r"layers\.[01]\.self_attn\.q_proj": 2, "q_proj": 32});
        let mut fields = json!({"peft_type": "LORA", "lora_alpha": 8, "alpha_pattern": alphas});
        let plain = read(fields.clone()).unwrap();
        let is =
            |config: &AdapterConfig, module, scale: f32| config.scale(module, 4).unwrap().to_bits() == scale.to_bits();
        assert!(is(&plain, "model.layers.0.mlp.up_proj", 2.0));
        assert!(is(&plain, "model.layers.0.mlp.gate_proj", 4.0));
        assert!(is(&plain, "model.layers.1.self_attn.q_proj", 0.5), "the first that fits");
        assert!(is(&plain, "model.layers.2.self_attn.q_proj", 8.0));
        assert!(is(&plain, "model.layers.0.mlp.my_gate_proj", 2.0), "whole names only");
        fields["use_rslora"] = json!(true);
        assert!(is(&read(fields).unwrap(), "model.layers.0.mlp.up_proj", 4.0));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let base =
            json!({"peft_type": "LORA", "lora_alpha": 8, "bias": "none", "use_dora": false, "modules_to_save": null});
        assert!(read(base.clone()).is_ok());
        for (key, value, part) in [
            ("peft_type", json!("IA3"), "`peft_type` is \"IA3\""),
            ("bias", json!("lora_only"), "`bias` is \"lora_only\""),
            ("use_dora", json!(true), "`use_dora` is true"),
            ("modules_to_save", json!(["lm_head"]), "`modules_to_save` is [\"lm_head\"]"),
            ("lora_alpha", json!("many"), "`lora_alpha` is \"many\", expected a number"),
            ("alpha_pattern", json!({"(": 2}), "`alpha_pattern.(`"),
        ] {
            let mut fields = base.clone();
            fields[key] = value;
            let error = read(fields).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
