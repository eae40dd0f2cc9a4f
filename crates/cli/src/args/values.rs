//! Parsers of flag values: sizes, ranges, token ids, devices. Their errors say what is accepted.

use std::path::PathBuf;
use std::time::Duration;

use nxd::Device;

/// A comma-separated list of token ids; the empty text is the empty list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

pub(super) fn token_ids(text: &str) -> Result<TokenIds, String> {
    if text.trim().is_empty() {
        return Ok(TokenIds(Vec::new()));
    }
    let ids = text.split(',').map(|id| {
        id.trim().parse().map_err(|_| format!("`{}` is not a token id; write whole numbers, as in `1,2,3`", id.trim()))
    });
    Ok(TokenIds(ids.collect::<Result<_, _>>()?))
}

/// An adapter and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoraModule {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

pub(super) fn lora_module(text: &str) -> Result<LoraModule, String> {
    let wrong = || format!("`{text}` is no adapter; write NAME=PATH, as in `sql=adapters/sql`");
    let (named, path) = text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or_else(wrong)?;
    Ok(LoraModule { name: name(named)?, path: path.into() })
}

/// A size in bytes: `4GiB`, `8 GB`, `512MiB`, `1.5G` or a plain number of bytes. `G` alone means `GiB`.
pub(super) fn size_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write a number and a unit, as in `4GiB`, `8GB` or `512MiB`");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(scale).ok_or_else(wrong)?,
        // A float cast saturates, so even an absurd number stays defined.
        Err(_) => (number.parse::<f64>().map_err(|_| wrong())? * scale as f64) as u64,
    };
    if bytes == 0 { Err("a size of 0 bytes holds nothing".to_owned()) } else { Ok(bytes) }
}

pub(super) fn device(text: &str) -> Result<Device, String> {
    let device = text.parse::<Device>().map_err(|error| error.to_string())?;
    if device != Device::Cpu && !cfg!(feature = "pjrt") {
        return Err(format!("device `{text}` is not in this build; supported: `cpu`"));
    }
    Ok(device)
}

pub(super) fn one_stage(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(1) => Ok(1),
        _ => Err("pipeline parallelism is not in this build; supported: `1`".to_owned()),
    }
}

pub(super) fn no_speculation(_: &str) -> Result<String, String> {
    Err("speculative decoding is not in this build; leave this flag out".to_owned())
}

/// A span of time in seconds, above 0.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_none(text) {
        Ok(span) if !span.is_zero() => Ok(span),
        _ => Err("expected a number of seconds above 0, at most 1000000000".to_owned()),
    }
}

/// A span of time in seconds; 0 is none.
pub(super) fn seconds_or_none(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        // The limit keeps every later sum of times in range.
        Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds from 0 to 1000000000".to_owned()),
    }
}

/// A name of the served model.
pub(super) fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let good = !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("expected a name of 1 to 256 characters".to_owned()) }
}

/// An API key, which must be able to stand in a header. The error does not repeat it.
pub(super) fn api_key(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err("a key is made of visible ASCII characters, at least one".to_owned()) }
}

/// An origin of web pages, or `*`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    let host = text.split_once("://").map_or("", |(_, host)| host);
    let good = text == "*" || !host.is_empty() && !host.contains('/') && text.chars().all(|c| c.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err(format!("`{text}` is not an origin; write `https://a.example` or `*`")) }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

pub(super) fn block_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (8..=4096).contains(&n) && n % 8 == 0 => Ok(n),
        _ => Err("expected a multiple of 8 from 8 to 4096".to_owned()),
    }
}

pub(super) fn thread_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("expected a number of threads from 1 to 1024".to_owned()),
    }
}

pub(super) fn temperature(text: &str) -> Result<f32, String> {
    within(text, |t| t >= 0.0, "a finite number of at least 0; 0 is greedy")
}

pub(super) fn top_p(text: &str) -> Result<f32, String> {
    within(text, |p| p > 0.0 && p <= 1.0, "a number above 0 and at most 1; 1 switches it off")
}

pub(super) fn min_p(text: &str) -> Result<f32, String> {
    within(text, |p| (0.0..=1.0).contains(&p), "a number from 0 to 1; 0 switches it off")
}

pub(super) fn repetition_penalty(text: &str) -> Result<f32, String> {
    within(text, |p| p > 0.0, "a finite number above 0; 1 switches it off")
}

pub(super) fn additive_penalty(text: &str) -> Result<f32, String> {
    within(text, |p| (-2.0..=2.0).contains(&p), "a number from -2 to 2; 0 switches it off")
}

fn within(text: &str, accept: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if value.is_finite() && accept(value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_and_decimal_units_with_or_without_a_space() {
        for (text, bytes) in [
            ("4GiB", 4 << 30),
            ("8 GB", 8_000_000_000),
            ("512MiB", 512 << 20),
            ("1.5G", 3 << 29),
            ("4096", 4096),
            ("2kb", 2000),
        ] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_refuse_what_is_not_one() {
        for text in ["", "-1", "1e3", "GiB", "4 GiBs", "0", "0GiB", "1.2.3G", "NaN", "99999999999999999999TiB"] {
            let refused = size_bytes(text).is_err() || size_bytes(text) == Ok(u64::MAX);
            assert!(refused, "{text}: {:?}", size_bytes(text));
        }
        assert!(size_bytes("18446744073709551615KiB").is_err());
    }

    #[test]
    fn token_ids_are_whole_numbers_between_commas() {
        assert_eq!(token_ids("1,2, 3"), Ok(TokenIds(vec![1, 2, 3])));
        assert_eq!(token_ids(" "), Ok(TokenIds(Vec::new())));
        for text in ["1,,2", "-1", "1.5", "a", "1,", "4294967296"] {
            assert!(token_ids(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sampling_values_outside_their_range_are_refused() {
        assert!(temperature("-0.1").is_err() && temperature("NaN").is_err() && temperature("1e308").is_err());
        assert!(top_p("0").is_err() && top_p("1.1").is_err() && top_p("1").is_ok());
        assert!(min_p("-1").is_err() && min_p("0").is_ok());
        assert!(repetition_penalty("0").is_err() && additive_penalty("-3").is_err() && additive_penalty("-2").is_ok());
    }
}
