//! Rotary embeddings from a configuration, in the old key style (`rope_theta`, `rope_scaling`) and the new (`rope_parameters`).

use super::{Config, ConfigError, Container};
use nxd_ops::{RopeScaling, RopeSpec};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Names of scaling kinds, for messages.
const KINDS: &str = "default, linear, dynamic, llama3, yarn, longrope";

/// The parameters of one rotary embedding, wherever the configuration keeps them.
struct Parameters<'a> {
    config: &'a Config,
    section: &'static str,
    fields: Option<&'a Map<String, Value>>,
}

impl Parameters<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.fields.and_then(|f| f.get(key)).filter(|v| !v.is_null())
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.section)
    }

    fn optional(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.value(key).map(|v| self.config.positive_value(&self.key(key), v)).transpose()
    }

    fn number(&self, key: &str) -> Result<f64, ConfigError> {
        self.optional(key)?.ok_or_else(|| self.config.missing(&self.key(key)))
    }

    /// A context length: in the section, or at the top level.
    fn original_context(&self) -> Result<Option<usize>, ConfigError> {
        let key = "original_max_position_embeddings";
        match self.optional(key)? {
            // Some writers store it as a float.
            Some(n) if (1.0..1e9).contains(&n) && n.fract() <= 0.0 => Ok(Some(n as usize)),
            Some(n) => Err(self.config.wrong(&self.key(key), &Value::from(n), "a whole number of tokens below 10⁹")),
            None => self.config.optional_size(key),
        }
    }

    fn factors(&self, key: &str, half: usize) -> Result<Arc<[f64]>, ConfigError> {
        let value = self.value(key).ok_or_else(|| self.config.missing(&self.key(key)))?;
        let list = value.as_array().and_then(|l| l.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
        match list {
            Some(list) if list.len() == half && list.iter().all(|x| x.is_finite() && *x > 0.0) => Ok(list.into()),
            _ => Err(self.config.wrong(&self.key(key), value, &format!("a list of {half} finite numbers above 0"))),
        }
    }
}

impl Config {
    /// The rotary embedding of layers of `kind` (`full_attention` …; configurations may hold one a kind).
    ///
    /// # Errors
    /// When a parameter is missing, impossible or of an unknown kind.
    pub fn rope(&self, head_dim: usize, kind: &str, default_theta: f64) -> Result<RopeSpec, ConfigError> {
        let object = |key: &'static str| match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(self.wrong(key, value, "an object")),
        };
        let (section, fields) = match object("rope_parameters")? {
            Some(map) => match map.get(kind).and_then(Value::as_object) {
                Some(of_kind) => ("rope_parameters", Some(of_kind)),
                None => ("rope_parameters", Some(map)),
            },
            None => ("rope_scaling", object("rope_scaling")?),
        };
        let parameters = Parameters { config: self, section, fields };
        let theta = match parameters.optional("rope_theta")? {
            Some(theta) => theta,
            None => self.positive("rope_theta", default_theta)?,
        };
        let partial = match parameters.optional("partial_rotary_factor")? {
            Some(factor) => factor,
            None => self.positive("partial_rotary_factor", 1.0)?,
        };
        // GGUF files say it in values.
        let in_values = if self.container == Container::Gguf { self.optional_size("rotary_dim")? } else { None };
        let rotary_dim = in_values.unwrap_or((head_dim as f64 * partial) as usize);
        if in_values.is_some_and(|values| values > head_dim) {
            let expected = format!("at most the head length, {head_dim}");
            return Err(self.wrong("rotary_dim", &Value::from(rotary_dim), &expected));
        }
        if rotary_dim == head_dim && !head_dim.is_multiple_of(2) {
            let expected =
                "an even number, as values of a head are rotated in pairs; without the key it is hidden_size / heads";
            return Err(self.wrong("head_dim", &Value::from(head_dim), expected));
        }
        if partial > 1.0 || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
            let expected = format!("a factor that makes an even part of head_dim {head_dim}");
            return Err(self.wrong("partial_rotary_factor", &Value::from(partial), &expected));
        }
        let scaling = self.rope_scaling(&parameters, rotary_dim)?;
        Ok(RopeSpec { head_dim, rotary_dim, theta, scaling })
    }

    fn rope_scaling(&self, parameters: &Parameters<'_>, rotary_dim: usize) -> Result<RopeScaling, ConfigError> {
        if let Some(factors) = &self.rope_factors {
            if factors.len() != rotary_dim / 2 {
                let expected = format!("{} values, half of the rotated part of a head", rotary_dim / 2);
                return Err(self.wrong("rope_freqs.weight", &Value::from(factors.len()), &expected));
            }
            return Ok(RopeScaling::Factors(factors.clone().into()));
        }
        let kind = parameters.value("rope_type").or_else(|| parameters.value("type"));
        let Some(kind) = kind else { return Ok(RopeScaling::None) };
        let max = self.optional_size("max_position_embeddings")?;
        let required_max = || max.ok_or_else(|| self.missing("max_position_embeddings"));
        match kind.as_str() {
            Some("default" | "none") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: parameters.number("factor")? }),
            Some("dynamic") => Ok(RopeScaling::DynamicNtk {
                factor: parameters.number("factor")?,
                max_position_embeddings: required_max()?,
            }),
            Some("llama3") => {
                let original = parameters.original_context()?;
                let (low, high) = (parameters.number("low_freq_factor")?, parameters.number("high_freq_factor")?);
                if high <= low {
                    let (key, expected) =
                        (parameters.key("high_freq_factor"), format!("a number above low_freq_factor {low}"));
                    return Err(self.wrong(&key, &Value::from(high), &expected));
                }
                Ok(RopeScaling::Llama3 {
                    factor: parameters.number("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original
                        .ok_or_else(|| self.missing(&parameters.key("original_max_position_embeddings")))?,
                })
            }
            Some("yarn") => {
                let original = match parameters.original_context()? {
                    Some(original) => original,
                    None => required_max()?,
                };
                let factor = parameters.number("factor")?;
                let truncate = parameters.value("truncate").and_then(Value::as_bool).unwrap_or(true);
                let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let mscales = (parameters.optional("mscale")?, parameters.optional("mscale_all_dim")?);
                let attention_factor = match (parameters.optional("attention_factor")?, mscales) {
                    (Some(factor), _) => factor,
                    (None, (Some(one), Some(all))) => mscale(one) / mscale(all),
                    (None, _) => mscale(1.0),
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: parameters.optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: parameters.optional("beta_slow")?.unwrap_or(1.0),
                    truncate,
                    attention_factor,
                })
            }
            Some("longrope" | "su") => {
                let max = required_max()?;
                let original = parameters.original_context()?.unwrap_or(max);
                let factor = match parameters.optional("factor")? {
                    Some(factor) => factor,
                    None => max as f64 / original as f64,
                };
                if factor > 1.0 && original == 1 {
                    let key = parameters.key("original_max_position_embeddings");
                    return Err(self.wrong(&key, &Value::from(original), "a context of 2 or more"));
                }
                let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
                // Phi 3.5 MoE has a factor for each set of divisors.
                let default = match (parameters.optional("short_mscale")?, parameters.optional("long_mscale")?) {
                    (Some(short), Some(long)) if (short - long).abs() < 1e-9 => short,
                    (Some(short), Some(long)) => {
                        let (key, expected) = (parameters.key("long_mscale"), format!("{short}, as short_mscale"));
                        return Err(self.unsupported(&key, &Value::from(long), &expected));
                    }
                    _ => default,
                };
                Ok(RopeScaling::LongRope {
                    short_factor: parameters.factors("short_factor", rotary_dim / 2)?,
                    long_factor: parameters.factors("long_factor", rotary_dim / 2)?,
                    original_max_position_embeddings: original,
                    attention_factor: parameters.optional("attention_factor")?.unwrap_or(default),
                })
            }
            _ => Err(self.unsupported(&parameters.key("rope_type"), kind, KINDS)),
        }
    }
}
