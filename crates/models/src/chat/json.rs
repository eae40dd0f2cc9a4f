//! `tojson` as transformers has it, and `fromjson`.
//!
//! It is Python's `json.dumps` with `ensure_ascii=False`: no HTML escapes, `", "` and `": "`, numbers as Python writes them.
//! `minijinja`'s own filter escapes `<`, `>`, `&` and `'` and refuses `ensure_ascii`, `separators` and `sort_keys`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Nesting that is followed; deeper values are errors, since each level takes stack.
const MAX_DEPTH: usize = 128;

struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    /// What one level is indented by; `None`: all on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// The filter. `indent` may also be given by place, after `ensure_ascii`, as in transformers.
pub(super) fn tojson(state: &State, value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent = match arguments.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => match (value.as_str(), value.as_i64()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(count)) => Some(" ".repeat(usize::try_from(count).unwrap_or(0).min(64))),
            _ => return Err(invalid("`indent` is neither a number nor a string")),
        },
    };
    let separators = match arguments.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let parts: Vec<Value> = pair.try_iter()?.collect();
            match parts.as_slice() {
                [item, key] => (item.to_string(), key.to_string()),
                _ => return Err(invalid("`separators` is not a pair")),
            }
        }
        // With line breaks Python leaves the space after a comma out.
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let style = Style {
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator: separators.0,
        key_separator: separators.1,
    };
    arguments.assert_all_used()?;
    let mut text = String::new();
    style.value(state, value, 0, &mut text)?;
    Ok(Value::from(text))
}

/// Reads JSON text into a value.
pub(super) fn fromjson(text: &str) -> Result<Value, Error> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| invalid("not valid JSON").with_source(e))?;
    Ok(Value::from(Serde(value)))
}

fn invalid(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

impl Style {
    fn value(&self, state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("value is nested too deeply for JSON"));
        }
        // Pays for the bytes before they pile up; one fuel is worth 64.
        state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value, out)?,
            ValueKind::String => self.string(state, value.as_str().unwrap_or_default(), out)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item));
                self.group(state, items, ('[', ']'), depth, out)?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                let mut entries = Vec::with_capacity(keys.len());
                for key in keys {
                    let item = value.get_item(&key)?;
                    entries.push((Some(key), item));
                }
                self.group(state, entries.into_iter(), ('{', '}'), depth, out)?;
            }
            kind => {
                let detail = format!("a value of kind `{kind}` is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        }
        Ok(())
    }

    fn group(
        &self,
        state: &State,
        items: impl Iterator<Item = (Option<Value>, Value)>,
        brackets: (char, char),
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        out.push(brackets.0);
        let mut empty = true;
        for (key, item) in items {
            if !std::mem::take(&mut empty) {
                out.push_str(&self.item_separator);
            }
            self.line_break(depth + 1, out);
            if let Some(key) = key {
                // Python writes numbers and booleans that are keys as strings.
                match key.as_str() {
                    Some(text) => self.string(state, text, out)?,
                    None => {
                        let mut text = String::new();
                        self.value(state, &key, depth + 1, &mut text)?;
                        self.string(state, &text, out)?;
                    }
                }
                out.push_str(&self.key_separator);
            }
            self.value(state, &item, depth + 1, out)?;
        }
        if !empty {
            self.line_break(depth, out);
        }
        out.push(brackets.1);
        Ok(())
    }

    fn line_break(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn string(&self, state: &State, text: &str, out: &mut String) -> Result<(), Error> {
        state.consume_fuel(text.len() as u64 / 64)?;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20
                    || (self.ensure_ascii && !c.is_ascii())
                    || (self.ensure_ascii && c == '\u{7f}') =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        escape(*unit, out);
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }

    fn number(&self, value: &Value, out: &mut String) -> Result<(), Error> {
        if value.is_integer() {
            out.push_str(&value.to_string());
            return Ok(());
        }
        let number = f64::try_from(value.clone())?;
        out.push_str(&python_float(number));
        Ok(())
    }
}

fn escape(unit: u16, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\u{unit:04x}");
}

/// A float as Python's `repr` writes it: shortest digits, an exponent below 1e-4 and from 1e16 on, at least one decimal.
fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = number.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_read_as_python_writes_them() {
        for (number, text) in [
            (7.0, "7.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (1e100, "1e+100"),
            (0.0001, "0.0001"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(python_float(number), text);
        }
    }
}
