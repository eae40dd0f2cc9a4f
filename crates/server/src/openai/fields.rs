//! Fields of a body: what each may hold stands in one place, from which values are read and the schema is written.
//!
//! A field that is null counts as absent, and one that nobody asks for is ignored.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::room::Held;
use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// Most characters of a request's value that an error repeats.
const MAX_SHOWN_CHARS: usize = 60;

/// The fields of a body, which is an object.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// The memory that they take of what all bodies may take; an object within a body takes none of its own.
    _held: Option<Held>,
}

/// A field of which the schema knows.
pub(super) trait Field: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// What it means, and what it may hold, as JSON schema.
    fn schema(&self) -> Value;
}

/// `true` or `false`.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
}

/// A whole number.
pub(super) struct Integer {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) min: i64,
    pub(super) max: i64,
}

/// A number.
pub(super) struct Number {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) min: f64,
    /// Whether `min` itself is not allowed.
    pub(super) above: bool,
    pub(super) max: f64,
}

/// A string.
pub(super) struct Text {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) min_chars: usize,
    pub(super) max_chars: usize,
}

/// A list of token ids.
pub(super) struct Ids {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) max_items: usize,
}

/// Something else, read where it is used.
pub(super) struct Other {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) schema: fn() -> Value,
}

impl Fields {
    /// The fields of an object within a body.
    pub(super) fn new(map: Map<String, Value>) -> Fields {
        Fields { map, _held: None }
    }

    /// The fields of a body, which give `held` back when they are dropped.
    pub(super) fn of_body(map: Map<String, Value>, held: Held) -> Fields {
        Fields { map, _held: Some(held) }
    }

    /// A field's value; `None` when it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }
}

impl Flag {
    /// The field's value.
    ///
    /// # Errors
    /// When it is something else.
    pub(super) fn read(&self, fields: &Fields) -> Result<Option<bool>, ApiError> {
        match fields.get(self.name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(self.name, other, "true or false")),
        }
    }

    /// Whether it is there and true.
    pub(super) fn is_set(&self, fields: &Fields) -> Result<bool, ApiError> {
        Ok(self.read(fields)?.unwrap_or(false))
    }
}

impl Integer {
    /// The field's value.
    ///
    /// # Errors
    /// When it is no whole number of its range.
    pub(super) fn read(&self, fields: &Fields) -> Result<Option<i64>, ApiError> {
        self.read_up_to(fields, self.max)
    }

    /// As [`Integer::read`], with the limit that this server has.
    pub(super) fn read_up_to(&self, fields: &Fields, max: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = fields.get(self.name) else { return Ok(None) };
        match integer(value) {
            Some(found) if (self.min..=max).contains(&found) => Ok(Some(found)),
            _ if max == i64::MAX => Err(wrong(self.name, value, &format!("a whole number from {} up", self.min))),
            _ => Err(wrong(self.name, value, &format!("a whole number from {} to {max}", self.min))),
        }
    }

    /// The field's value as a count, which its range must allow.
    pub(super) fn count(&self, fields: &Fields, max: i64) -> Result<Option<u32>, ApiError> {
        Ok(self.read_up_to(fields, max.min(i64::from(u32::MAX)))?.and_then(|found| u32::try_from(found).ok()))
    }
}

impl Number {
    /// The field's value.
    ///
    /// # Errors
    /// When it is no number of its range.
    #[allow(clippy::cast_possible_truncation, reason = "sampling computes in f32; the range is within it")]
    pub(super) fn read(&self, fields: &Fields) -> Result<Option<f32>, ApiError> {
        let Some(value) = fields.get(self.name) else { return Ok(None) };
        let good = |found: &f64| *found <= self.max && if self.above { *found > self.min } else { *found >= self.min };
        match value.as_f64().filter(good) {
            // A tiny number that f32 rounds to an excluded zero is as good as the smallest one.
            Some(found) if self.above => Ok(Some((found as f32).max(f32::MIN_POSITIVE))),
            Some(found) => Ok(Some(found as f32)),
            None => {
                let from = if self.above { "above" } else { "from" };
                Err(wrong(self.name, value, &format!("a number {from} {} to {}", self.min, self.max)))
            }
        }
    }
}

impl Text {
    /// The field's value.
    ///
    /// # Errors
    /// When it is no string, or one that is too short or too long.
    pub(super) fn read(&self, fields: &Fields) -> Result<Option<String>, ApiError> {
        match fields.get(self.name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() >= self.min_chars && text.chars().nth(self.max_chars).is_none() => {
                Ok(Some(text.clone()))
            }
            Some(other) => {
                let allowed = format!("a string of {} to {} characters", self.min_chars, self.max_chars);
                Err(wrong(self.name, other, &allowed))
            }
        }
    }
}

impl Ids {
    /// The field's value.
    ///
    /// # Errors
    /// When it is no list, too long, or holds something that is no token id below `vocab_size`.
    pub(super) fn read(&self, fields: &Fields, vocab_size: usize) -> Result<Option<Vec<u32>>, ApiError> {
        match fields.get(self.name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= self.max_items => {
                token_ids(self.name, list, vocab_size).map(Some)
            }
            Some(Value::Array(list)) => Err(too_many(self.name, list.len(), self.max_items)),
            Some(other) => Err(wrong(self.name, other, "a list of token ids")),
        }
    }
}

impl Field for Flag {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Value {
        json!({"type": ["boolean", "null"], "description": self.about})
    }
}

impl Field for Integer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Value {
        json!({"type": ["integer", "null"], "minimum": self.min, "maximum": self.max, "description": self.about})
    }
}

impl Field for Number {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Value {
        let minimum = if self.above { "exclusiveMinimum" } else { "minimum" };
        json!({"type": ["number", "null"], minimum: self.min, "maximum": self.max, "description": self.about})
    }
}

impl Field for Text {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Value {
        let Text { min_chars, max_chars, about, .. } = self;
        json!({"type": ["string", "null"], "minLength": min_chars, "maxLength": max_chars, "description": about})
    }
}

impl Field for Ids {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Value {
        let items = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        json!({"type": ["array", "null"], "items": items, "maxItems": self.max_items, "description": self.about})
    }
}

impl Field for Other {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Value {
        let mut schema = (self.schema)();
        if let Value::Object(fields) = &mut schema {
            fields.insert("description".to_owned(), self.about.into());
        }
        schema
    }
}

/// A whole number, however it is written: JSON has one kind of number.
pub(super) fn integer(value: &Value) -> Option<i64> {
    /// Up to here every whole number has a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
    let whole = |x: f64| (x.fract().abs() < f64::MIN_POSITIVE && x.abs() <= EXACT).then_some(x as i64);
    value.as_i64().or_else(|| if value.is_f64() { value.as_f64().and_then(whole) } else { None })
}

/// Token ids below `vocab_size`; `name` is the list's.
pub(super) fn token_ids(name: &str, list: &[Value], vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    let id = |(index, value): (usize, &Value)| {
        let id = integer(value).and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocab_size);
        id.ok_or_else(|| match integer(value) {
            Some(id) => {
                let message = format!(
                    "`{name}[{index}]` is {id}, out of vocabulary: token ids are 0 to {}",
                    vocab_size.saturating_sub(1)
                );
                ApiError::invalid(name, message)
            }
            None => ApiError::invalid(name, format!("`{name}[{index}]` is {}; a token id is allowed", found(value))),
        })
    };
    list.iter().enumerate().map(id).collect()
}

/// A field that holds something else than it can.
pub(super) fn wrong(name: &str, value: &Value, allowed: &str) -> ApiError {
    ApiError::invalid(name, format!("`{name}` is {}; {allowed} is allowed", found(value)))
}

/// A list that is too long.
pub(super) fn too_many(name: &str, found: usize, allowed: usize) -> ApiError {
    ApiError::invalid(name, format!("`{name}` has {found} entries; at most {allowed} are allowed"))
}

/// A field that the server knows, and cannot do.
pub(super) fn unsupported(name: &str) -> ApiError {
    ApiError::invalid(name, format!("`{name}` is not supported; leave it out"))
}

/// What a value is, at a length that suits a message: containers are described, not repeated.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().nth(MAX_SHOWN_CHARS).is_some() => {
            format!("a string of {} characters", text.chars().count())
        }
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Integer = Integer { name: "count", about: "", min: 0, max: 10 };
    const SHARE: Number = Number { name: "share", about: "", min: 0.0, above: true, max: 1.0 };

    fn fields(value: Value) -> Fields {
        let Value::Object(map) = value else { panic!("an object") };
        Fields::new(map)
    }

    #[test]
    fn integers_are_whole_numbers_of_their_range() {
        let read = |value: Value| COUNT.read(&fields(json!({"count": value})));
        assert_eq!(read(json!(7)), Ok(Some(7)));
        assert_eq!(read(json!(7.0)), Ok(Some(7)));
        assert_eq!(read(json!(null)), Ok(None));
        for (bad, text) in [
            (json!(-1), "`count` is -1; a whole number from 0 to 10 is allowed"),
            (json!(7.5), "`count` is 7.5; a whole number from 0 to 10 is allowed"),
            (json!("7"), "`count` is \"7\"; a whole number from 0 to 10 is allowed"),
            (json!(true), "`count` is true; a whole number from 0 to 10 is allowed"),
            (json!([[1]]), "`count` is a list; a whole number from 0 to 10 is allowed"),
            (json!(u64::MAX), "`count` is 18446744073709551615; a whole number from 0 to 10 is allowed"),
            (json!(1e300), "`count` is 1e+300; a whole number from 0 to 10 is allowed"),
            (
                json!("x".repeat(1 << 20)),
                "`count` is a string of 1048576 characters; a whole number from 0 to 10 is allowed",
            ),
        ] {
            let error = read(bad).unwrap_err();
            assert_eq!(
                (error.status.as_u16(), error.param.as_deref(), error.message.as_str()),
                (400, Some("count"), text)
            );
        }
    }

    #[test]
    fn numbers_may_leave_out_their_lower_end() {
        let read = |value: Value| SHARE.read(&fields(json!({"share": value})));
        assert_eq!(read(json!(1)), Ok(Some(1.0)));
        assert!(read(json!(1e-300)).unwrap().unwrap() > 0.0);
        assert_eq!(read(json!(0)).unwrap_err().message, "`share` is 0; a number above 0 to 1 is allowed");
        assert!(read(json!(1.1)).is_err() && read(json!("NaN")).is_err());
    }
}
