//! The typed key-value table of a GGUF file.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::GgufError;
use super::reader::Reader;
use crate::strings::Strings;
use nxd_ops::SharedBytes;
use serde_json::{Number, Value as Json};
use std::collections::HashMap;
use std::fmt;

const MAX_KEYS: u64 = 65_536;
const MAX_KEY_BYTES: u64 = 65_536;
/// Strings and arrays in all. Vocabularies of 262,144 tokens take about 16 MB.
const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Strings of one array: tokens or merges.
const MAX_STRINGS: u64 = 1 << 21;
/// Elements of the longest array that is given as JSON: hyper-parameters have one a layer.
const MAX_JSON_ARRAY: usize = 4096;

/// The type of a metadata value, with its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the types' own names")]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn from_number(number: u32) -> Option<Kind> {
        Kind::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::U8 => "u8",
            Kind::I8 => "i8",
            Kind::U16 => "u16",
            Kind::I16 => "i16",
            Kind::U32 => "u32",
            Kind::I32 => "i32",
            Kind::F32 => "f32",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::U64 => "u64",
            Kind::I64 => "i64",
            Kind::F64 => "f64",
        }
    }

    /// Bytes of a value; for strings and arrays the least they have.
    const fn bytes(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::String => 8,
            Kind::Array => 12,
        }
    }
}

/// A metadata value.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the types' own names")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub const fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// The value of any integer type.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value as JSON.
    ///
    /// What JSON cannot hold (NaN, infinities) and long arrays become a string that describes them, so that whoever expects a number
    /// or a list sees that the key is there and what is wrong with it.
    pub fn to_json(&self) -> Json {
        let described = || Json::String(self.to_string());
        let float = |v: f64| Number::from_f64(v).map_or_else(described, Json::Number);
        match self {
            Value::Bool(v) => Json::Bool(*v),
            Value::String(v) => Json::String(v.clone()),
            Value::F32(v) => float((*v).into()),
            Value::F64(v) => float(*v),
            Value::Array(v) if v.len <= MAX_JSON_ARRAY => v.values().map(|value| value.to_json()).collect(),
            Value::Array(_) => described(),
            Value::U64(v) => Json::from(*v),
            _ => self.integer().and_then(|v| i64::try_from(v).ok()).map_or_else(described, Json::from),
        }
    }
}

/// Type and value, strings cut short: for messages and listings.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().name();
        match self {
            Value::Bool(v) => write!(f, "{kind} {v}"),
            Value::F32(v) => write!(f, "{kind} {v}"),
            Value::F64(v) => write!(f, "{kind} {v}"),
            Value::String(v) if v.chars().count() > 60 => {
                write!(f, "{kind} `{}…`", v.chars().take(60).collect::<String>())
            }
            Value::String(v) => write!(f, "{kind} `{v}`"),
            Value::Array(v) => write!(f, "array of {} {}", v.len, v.element.name()),
            _ => write!(f, "{kind} {}", self.integer().unwrap_or_default()),
        }
    }
}

/// An array, checked when the file was opened and decoded when it is asked for.
#[derive(Clone, Debug)]
pub struct Array {
    element: Kind,
    len: usize,
    data: SharedBytes,
}

impl Array {
    /// The type of the elements; never an array.
    pub fn element(&self) -> Kind {
        self.element
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements one by one. It ends early when the file was overwritten after it was opened.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let mut reader = Reader::new(&self.data);
        (0..self.len).map_while(move |_| scalar(&mut reader, self.element, "").ok())
    }

    /// The elements of an array of strings; `None` of another one, or when the file was overwritten after it was opened.
    fn strings(&self) -> Option<Strings> {
        let mut reader = Reader::new(&self.data);
        let (mut bytes, mut ends) = (Vec::with_capacity(self.data.len()), Vec::with_capacity(self.len));
        for _ in 0..self.len {
            let len = reader.u64(format_args!("a length")).ok()?;
            bytes.extend_from_slice(reader.take(len, format_args!("a string")).ok()?);
            ends.push(bytes.len());
        }
        Strings::from_bytes(bytes, ends).filter(|_| self.element == Kind::String)
    }
}

/// A metadata value that is not what its reader expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: key `{key}` is {found}, expected {expected}")]
pub struct MetadataError {
    /// The file.
    pub file: String,
    /// The key.
    pub key: String,
    /// Type and value.
    pub found: String,
    /// What is expected.
    pub expected: &'static str,
}

/// The key-value table, in the order of the file.
///
/// Getters give `None` for an absent key and an error for one of another type.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: String,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Reads `count` entries; `bytes` are those that `reader` reads.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        bytes: &SharedBytes,
        count: u64,
        file: &str,
    ) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata { file: file.to_owned(), entries: Vec::new(), index: HashMap::new() };
        let start = reader.at() as u64;
        for index in 0..count {
            let key = reader.string(MAX_KEY_BYTES, format_args!("key at index {index}"))?.to_owned();
            if key.is_empty() {
                return Err(GgufError::EmptyKey { index });
            }
            if metadata.index.insert(key.clone(), metadata.entries.len()).is_some() {
                return Err(GgufError::DuplicateKey { key });
            }
            let value = read_value(reader, bytes, &key)?;
            let found = (reader.at() as u64).saturating_sub(start);
            if found > MAX_TABLE_BYTES {
                return Err(GgufError::Limit { what: "metadata".into(), found, limit: MAX_TABLE_BYTES });
            }
            metadata.entries.push((key, value));
        }
        Ok(metadata)
    }

    /// How many entries a file may claim, and the bytes of the smallest: an empty key, its type and one byte.
    pub(super) fn count(reader: &mut Reader<'_>) -> Result<u64, GgufError> {
        reader.count("key", 13, MAX_KEYS)
    }

    /// Says that the arrays will not be read for a while: a vocabulary of 262,144 tokens is 8 MB of the file.
    pub fn release(&self) {
        for (_, value) in &self.entries {
            if let Value::Array(array) = value {
                array.data.release();
            }
        }
    }

    /// The file the table is from, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(*self.index.get(key)?).map(|(_, value)| value)
    }

    /// A string.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.convert(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer of any width that is not negative.
    ///
    /// # Errors
    /// When the value has another type or is negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        self.convert(key, "an integer of at least 0", |value| value.integer()?.try_into().ok())
    }

    /// An integer of any width from 0 to 2³² − 1.
    ///
    /// # Errors
    /// When the value has another type or lies outside this range.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, MetadataError> {
        self.convert(key, "an integer from 0 to 4294967295", |value| value.integer()?.try_into().ok())
    }

    /// A float.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, MetadataError> {
        self.convert(key, "a float", |value| match *value {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        })
    }

    /// A bool.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.convert(key, "a bool", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn strings(&self, key: &str) -> Result<Option<Strings>, MetadataError> {
        self.convert(key, "an array of strings", |value| match value {
            Value::Array(array) => array.strings(),
            _ => None,
        })
    }

    /// An array of f32.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, MetadataError> {
        self.convert_array(key, "an array of f32", |value| match value {
            Value::F32(v) => Some(v),
            _ => None,
        })
    }

    /// An array of 32-bit integers that fit `i32`.
    ///
    /// # Errors
    /// When the value has another type, or an element is greater than 2³¹ − 1.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, MetadataError> {
        self.convert_array(key, "an array of i32", |value| match value {
            Value::I32(v) => Some(v),
            Value::U32(v) => v.try_into().ok(),
            _ => None,
        })
    }

    /// An array of bytes, signed or not.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, MetadataError> {
        self.convert_array(key, "an array of u8", |value| match value {
            Value::U8(v) => Some(v),
            Value::I8(v) => Some(v.cast_unsigned()),
            _ => None,
        })
    }

    fn convert<'m, T>(
        &'m self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'m Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                Err(MetadataError { file: self.file.clone(), key: key.to_owned(), found: value.to_string(), expected })
            }
        }
    }

    fn convert_array<T>(
        &self,
        key: &str,
        expected: &'static str,
        element: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, MetadataError> {
        self.convert(key, expected, |value| match value {
            Value::Array(array) => {
                let converted: Vec<T> = array.values().map(&element).collect::<Option<_>>()?;
                // Shorter only when the file was overwritten in the meantime.
                (converted.len() == array.len).then_some(converted)
            }
            _ => None,
        })
    }
}

fn read_value(reader: &mut Reader<'_>, bytes: &SharedBytes, key: &str) -> Result<Value, GgufError> {
    let kind = read_kind(reader, key)?;
    if kind != Kind::Array {
        return scalar(reader, kind, key);
    }
    let element = read_kind(reader, key)?;
    if element == Kind::Array {
        return Err(GgufError::NestedArray { key: key.to_owned() });
    }
    let count = reader.u64(format_args!("the array length of key `{key}`"))?;
    let least = count.saturating_mul(element.bytes());
    reader.check_length(count, least, MAX_TABLE_BYTES, format_args!("key `{key}`: array"))?;
    let start = reader.at();
    match element {
        Kind::String if count > MAX_STRINGS => {
            return Err(GgufError::Strings { key: key.to_owned(), found: count, limit: MAX_STRINGS });
        }
        Kind::String if reader.pass_strings(count, MAX_TABLE_BYTES) => {}
        Kind::String => {
            for index in 0..count {
                reader.string(MAX_TABLE_BYTES, format_args!("key `{key}`: string at index {index}"))?;
            }
        }
        Kind::Bool => {
            for _ in 0..count {
                scalar(reader, element, key)?;
            }
        }
        _ => {
            reader.take(least, format_args!("key `{key}`"))?;
        }
    }
    let data = bytes.slice(reader.since(start)).expect("the reader stays inside its bytes");
    let len = usize::try_from(count).expect("a count was checked against bytes in memory");
    Ok(Value::Array(Array { element, len, data }))
}

fn read_kind(reader: &mut Reader<'_>, key: &str) -> Result<Kind, GgufError> {
    let found = reader.u32(format_args!("the type of key `{key}`"))?;
    Kind::from_number(found).ok_or_else(|| GgufError::ValueType { key: key.to_owned(), found })
}

fn scalar(reader: &mut Reader<'_>, kind: Kind, key: &str) -> Result<Value, GgufError> {
    let what = format_args!("the value of key `{key}`");
    Ok(match kind {
        Kind::U8 => Value::U8(u8::from_le_bytes(reader.array(what)?)),
        Kind::I8 => Value::I8(i8::from_le_bytes(reader.array(what)?)),
        Kind::U16 => Value::U16(u16::from_le_bytes(reader.array(what)?)),
        Kind::I16 => Value::I16(i16::from_le_bytes(reader.array(what)?)),
        Kind::U32 => Value::U32(u32::from_le_bytes(reader.array(what)?)),
        Kind::I32 => Value::I32(i32::from_le_bytes(reader.array(what)?)),
        Kind::F32 => Value::F32(f32::from_le_bytes(reader.array(what)?)),
        Kind::U64 => Value::U64(u64::from_le_bytes(reader.array(what)?)),
        Kind::I64 => Value::I64(i64::from_le_bytes(reader.array(what)?)),
        Kind::F64 => Value::F64(f64::from_le_bytes(reader.array(what)?)),
        Kind::Bool => match reader.array(what)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [found] => return Err(GgufError::Bool { key: key.to_owned(), found }),
        },
        Kind::String => Value::String(reader.string(MAX_TABLE_BYTES, format_args!("key `{key}`: string"))?.to_owned()),
        Kind::Array => return Err(GgufError::NestedArray { key: key.to_owned() }),
    })
}
