//! Names for calls, which a tool's answer brings back.

use super::Format;
use crate::unique;

/// An id that no other call has: `call_` and 24 characters, or 9 letters and digits for Mistral's models, whose templates
/// take no other length.
pub fn call_id(format: Option<Format>) -> String {
    let characters = unique::bytes().into_iter().map(alphanumeric);
    match format {
        Some(Format::Mistral) => characters.take(9).collect(),
        _ => "call_".chars().chain(characters.take(24)).collect(),
    }
}

fn alphanumeric(byte: u8) -> char {
    match byte % 62 {
        digit @ 0..10 => char::from(b'0' + digit),
        letter @ 10..36 => char::from(b'a' + (letter - 10)),
        letter => char::from(b'A' + (letter - 36)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_differ_and_have_their_formats_length() {
        for (format, len) in [(None, 29), (Some(Format::Hermes), 29), (Some(Format::Mistral), 9)] {
            let ids: BTreeSet<String> = (0..1000).map(|_| call_id(format)).collect();
            assert_eq!(ids.len(), 1000);
            for id in ids {
                let letters = if len == 9 { &id } else { id.strip_prefix("call_").unwrap() };
                assert!(id.len() == len && letters.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
            }
        }
    }
}
