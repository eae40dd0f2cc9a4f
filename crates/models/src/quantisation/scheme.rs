//! What `quantization_config` says, as types.

use crate::config::{Config, ConfigError};
use serde_json::{Map, Value};
use std::fmt;

/// How a checkpoint's weights are quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `fp8` and `fbgemm_fp8`: floats of one byte, whose scales serve blocks of so many rows and columns, or rows, or a tensor.
    Fp8 {
        /// Rows and columns of a block.
        block: Option<[usize; 2]>,
    },
    /// `gptq`.
    Gptq {
        /// Bits of an integer: 4 or 8.
        bits: u32,
        /// Values of a group; `None` for a whole row.
        group: Option<usize>,
        /// What is added to stored zero points.
        zero_offset: i16,
    },
    /// `awq`, 4 bits.
    Awq {
        /// Values of a group; `None` for a whole row.
        group: Option<usize>,
    },
    /// `compressed-tensors`: what its groups of modules have.
    CompressedTensors(Vec<WeightArgs>),
    /// `mxfp4`.
    Mxfp4,
}

/// The weights of one of `config_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightArgs {
    /// Bits of a number: 4 or 8.
    pub bits: u32,
    /// Whether the numbers are floats.
    pub is_float: bool,
    /// Whether there are no zero points.
    pub symmetric: bool,
    /// What shares a scale.
    pub strategy: Strategy,
}

/// Values that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All of a tensor.
    Tensor,
    /// All of a row.
    Channel,
    /// So many neighbours of a row.
    Group(usize),
    /// Blocks of rows and columns.
    Block([usize; 2]),
}

/// The methods, as a message lists them.
const METHODS: &str = "fp8, fbgemm_fp8, gptq, awq, compressed-tensors, mxfp4";

impl Scheme {
    /// Reads the scheme of a configuration; `None` where it has none.
    ///
    /// # Errors
    /// When the method is not known, an option of it is not implemented, or a value is impossible.
    pub fn read(config: &Config) -> Result<Option<Self>, ConfigError> {
        let found = ["quantization_config", "compression_config"].into_iter().find_map(|key| {
            let value = config.value(key)?;
            Some((key, value))
        });
        let Some((key, value)) = found else { return Ok(None) };
        let Some(fields) = value.as_object() else { return Err(config.wrong(key, value, "an object")) };
        let fields = Fields { config, path: key.to_owned(), fields };
        let method = match fields.text("quant_method")? {
            Some(method) => method,
            None if key == "compression_config" => "compressed-tensors",
            None => return Err(config.missing(&fields.path("quant_method"))),
        };
        match method {
            "fp8" | "fbgemm_fp8" => fp8(&fields),
            "gptq" => gptq(&fields),
            "awq" => awq(&fields),
            "compressed-tensors" => compressed_tensors(&fields),
            "mxfp4" => Ok(Scheme::Mxfp4),
            other => Err(fields.unsupported("quant_method", &Value::from(other), METHODS)),
        }
        .map(Some)
    }
}

fn fp8(fields: &Fields<'_>) -> Result<Scheme, ConfigError> {
    fields.one_of("fmt", &["e4m3", "e5m2"])?;
    let block = match fields.get("weight_block_size") {
        None => None,
        Some(value) => Some(fields.pair("weight_block_size", value)?),
    };
    Ok(Scheme::Fp8 { block })
}

fn gptq(fields: &Fields<'_>) -> Result<Scheme, ConfigError> {
    let bits = fields.size("bits")?;
    if !matches!(bits, 4 | 8) {
        return Err(fields.unsupported("bits", &Value::from(bits), "4, 8"));
    }
    fields.refuse("is_marlin_format", &Value::Bool(true), "weights in the plain layout")?;
    let own = fields.object("dynamic")?.is_some_and(|rules| rules.fields.keys().any(|rule| !rule.starts_with("-:")));
    if own {
        let value = fields.get("dynamic").cloned().unwrap_or_default();
        return Err(fields.unsupported("dynamic", &value, "rules `-:…` that leave modules as they are"));
    }
    let zero_offset = match fields.text("checkpoint_format")? {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(other) => {
            return Err(fields.unsupported("checkpoint_format", &Value::from(other), "gptq, gptq_v2"));
        }
    };
    Ok(Scheme::Gptq { bits: bits as u32, group: fields.group("group_size")?, zero_offset })
}

fn awq(fields: &Fields<'_>) -> Result<Scheme, ConfigError> {
    for key in ["bits", "w_bit"] {
        if let Some(bits) = fields.get(key).filter(|bits| bits.as_u64() != Some(4)) {
            return Err(fields.unsupported(key, bits, "4"));
        }
    }
    fields.refuse("zero_point", &Value::Bool(false), "true")?;
    if let Some(version) = fields.text("version")?.filter(|version| !version.eq_ignore_ascii_case("gemm")) {
        return Err(fields.unsupported("version", &Value::from(version), "gemm"));
    }
    let key = if fields.get("q_group_size").is_some() { "q_group_size" } else { "group_size" };
    Ok(Scheme::Awq { group: fields.group(key)? })
}

fn compressed_tensors(fields: &Fields<'_>) -> Result<Scheme, ConfigError> {
    const FORMATS: [&str; 6] =
        ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense"];
    fields.one_of("format", &FORMATS)?;
    if let Some(sparsity) = fields.object("sparsity_config")? {
        sparsity.one_of("format", &["dense"])?;
    }
    if let Some(value) = fields.get("transform_config").filter(|value| value.as_object().is_none_or(|v| !v.is_empty()))
    {
        return Err(fields.unsupported("transform_config", value, "weights that are not rotated"));
    }
    let Some(groups) = fields.object("config_groups")? else { return Ok(Scheme::CompressedTensors(Vec::new())) };
    let mut args = Vec::new();
    for name in groups.fields.keys() {
        let Some(group) = groups.object(name)? else { continue };
        group.one_of("format", &FORMATS)?;
        if let Some(weights) = group.object("weights")? {
            args.push(weight_args(&weights)?);
        }
    }
    Ok(Scheme::CompressedTensors(args))
}

fn weight_args(fields: &Fields<'_>) -> Result<WeightArgs, ConfigError> {
    fields.one_of("type", &["int", "float"])?;
    let is_float = fields.text("type")? == Some("float");
    let bits = fields.size("num_bits")?;
    if !(bits == 8 || bits == 4 && !is_float) {
        return Err(fields.unsupported("num_bits", &Value::from(bits), "4 and 8 of type int, 8 of type float"));
    }
    let group = match fields.get("group_size") {
        None => None,
        Some(_) => fields.group("group_size")?,
    };
    let strategy = match (fields.text("strategy")?, group) {
        (Some("tensor"), _) => Strategy::Tensor,
        (Some("channel"), _) | (None, None) => Strategy::Channel,
        (Some("group") | None, Some(group)) => Strategy::Group(group),
        (Some("group"), None) => Strategy::Channel,
        (Some("block"), _) => {
            let value = fields.get("block_structure").cloned().unwrap_or_default();
            Strategy::Block(fields.pair("block_structure", &value)?)
        }
        (Some(other), _) => {
            return Err(fields.unsupported("strategy", &Value::from(other), "tensor, channel, group, block"));
        }
    };
    let symmetric = fields.get("symmetric").is_none_or(|value| value.as_bool() != Some(false));
    Ok(WeightArgs { bits: bits as u32, is_float, symmetric, strategy })
}

/// An object of the configuration, whose mistakes are named by their whole path.
struct Fields<'c> {
    config: &'c Config,
    path: String,
    fields: &'c Map<String, Value>,
}

impl<'c> Fields<'c> {
    fn get(&self, key: &str) -> Option<&'c Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn unsupported(&self, key: &str, found: &Value, supported: &str) -> ConfigError {
        self.config.unsupported(&self.path(key), found, supported)
    }

    fn text(&self, key: &str) -> Result<Option<&'c str>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.config.wrong(&self.path(key), value, "a string"))
    }

    fn object(&self, key: &str) -> Result<Option<Fields<'c>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_object() {
            Some(fields) => Ok(Some(Fields { config: self.config, path: self.path(key), fields })),
            None => Err(self.config.wrong(&self.path(key), value, "an object")),
        }
    }

    /// Refuses a text that is none of `supported`.
    fn one_of(&self, key: &str, supported: &[&str]) -> Result<(), ConfigError> {
        match self.text(key)?.filter(|text| !supported.contains(text)) {
            Some(text) => Err(self.unsupported(key, &Value::from(text), &supported.join(", "))),
            None => Ok(()),
        }
    }

    fn refuse(&self, key: &str, refused: &Value, supported: &str) -> Result<(), ConfigError> {
        match self.get(key).filter(|value| *value == refused) {
            Some(value) => Err(self.unsupported(key, value, supported)),
            None => Ok(()),
        }
    }

    /// A count of at least 1.
    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        let Some(value) = self.get(key) else { return Err(self.config.missing(&self.path(key))) };
        count(value).ok_or_else(|| self.config.wrong(&self.path(key), value, "a whole number above 0"))
    }

    /// Values of a group; `None` for -1.
    fn group(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        match self.get(key) {
            Some(value) if value.as_i64() == Some(-1) => Ok(None),
            _ => self.size(key).map(Some),
        }
    }

    fn pair(&self, key: &str, value: &Value) -> Result<[usize; 2], ConfigError> {
        match value.as_array().map(|pair| pair.iter().map(count).collect::<Vec<_>>()).as_deref() {
            Some(&[Some(rows), Some(cols)]) => Ok([rows, cols]),
            _ => Err(self.config.wrong(&self.path(key), value, "two whole numbers above 0")),
        }
    }
}

/// A size of at least 1 and at most 2²⁸.
fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 28).contains(n))
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = |group: Option<usize>| match group {
            Some(group) => format!("groups of {group}"),
            None => "channels".to_owned(),
        };
        match self {
            Scheme::Fp8 { block: Some([rows, cols]) } => write!(f, "fp8, blocks of {rows} × {cols}"),
            Scheme::Fp8 { block: None } => write!(f, "fp8"),
            Scheme::Gptq { bits, group, .. } => write!(f, "gptq int{bits}, {}", groups(*group)),
            Scheme::Awq { group } => write!(f, "awq int4, {}", groups(*group)),
            Scheme::CompressedTensors(args) => {
                let args: Vec<_> = args.iter().map(ToString::to_string).collect();
                write!(f, "compressed-tensors {}", args.join(" and "))
            }
            Scheme::Mxfp4 => write!(f, "mxfp4"),
        }
    }
}

impl fmt::Display for WeightArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_float { "fp" } else { "int" };
        let strategy = match self.strategy {
            Strategy::Tensor => "tensors".to_owned(),
            Strategy::Channel => "channels".to_owned(),
            Strategy::Group(group) => format!("groups of {group}"),
            Strategy::Block([rows, cols]) => format!("blocks of {rows} × {cols}"),
        };
        write!(f, "{kind}{}, {strategy}", self.bits)
    }
}
