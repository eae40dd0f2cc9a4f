//! Random walks over masks: whatever is drawn, the text that ends is one of the constraint's.

use super::{CASES, Case};
use nxd_engine::grammar::{Constraint, Grammar};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Tokens of chance, before the walk makes for the end.
const WANDER: usize = 60;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "kind": { "enum": ["cat", "dog", "ä\n\"b\""] },
            "tags": { "type": "array", "items": { "type": "string", "pattern": "^[a-c]{1,3}$" }, "maxItems": 3 },
            "next": { "anyOf": [{ "type": "null" }, { "$ref": "#" }] },
            "extra": { "type": "number" }
        },
        "required": ["name", "age", "kind", "next"],
        "additionalProperties": false
    })
}

fn describes(value: &Value) -> bool {
    let Some(fields) = value.as_object() else { return false };
    let known = ["name", "age", "kind", "tags", "next", "extra"];
    let tag =
        |tag: &Value| tag.as_str().is_some_and(|t| (1..4).contains(&t.len()) && t.chars().all(|c| "abc".contains(c)));
    fields.keys().all(|key| known.contains(&key.as_str()))
        && fields["name"].as_str().is_some_and(|name| name.chars().count() <= 12)
        && fields["age"].as_u64().is_some_and(|age| age <= 150)
        && ["cat", "dog", "ä\n\"b\""].map(Value::from).contains(&fields["kind"])
        && fields.get("tags").is_none_or(|tags| tags.as_array().is_some_and(|t| t.len() <= 3 && t.iter().all(tag)))
        && (fields["next"].is_null() || describes(&fields["next"]))
        && fields.get("extra").is_none_or(Value::is_number)
}

/// Walks to an end: by chance first, then by what closes things. `None` when the walk is too long.
fn walk(case: &Case, mut grammar: Grammar, mut random: impl FnMut(usize) -> usize) -> Option<String> {
    let mut tokens = Vec::new();
    for step in 0..2000 {
        let allowed = case.allowed(&mut grammar);
        assert!(!allowed.is_empty());
        assert!(!grammar.is_over() || allowed == case.eos);
        let closing = ["\"", "}", "]", ",", ":", "n", "c"].map(|text| text.as_bytes());
        let rank = |id: &u32| match case.eos.contains(id) {
            true => 0,
            false => closing.iter().position(|text| case.bytes(*id) == *text).map_or(closing.len() + 1, |at| at + 1),
        };
        let token = match step < WANDER {
            true => allowed[random(allowed.len())],
            false => *allowed.iter().min_by_key(|id| rank(id)).unwrap(),
        };
        grammar.take(token).unwrap();
        if case.eos.contains(&token) {
            assert!(grammar.is_over());
            let bytes: Vec<u8> = tokens.iter().flat_map(|id| case.bytes(*id)).copied().collect();
            return Some(String::from_utf8(bytes).unwrap());
        }
        tokens.push(token);
    }
    None
}

/// A stream of numbers below what is asked.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

fn starts(constraint: &Constraint) -> Vec<Grammar> {
    CASES.iter().map(|case| case.grammar(constraint)).collect()
}

static SCHEMA: LazyLock<Vec<Grammar>> = LazyLock::new(|| starts(&Constraint::JsonSchema(schema())));
static OBJECT: LazyLock<Vec<Grammar>> = LazyLock::new(|| starts(&Constraint::JsonObject));
static REGEX: LazyLock<Vec<Grammar>> =
    LazyLock::new(|| starts(&Constraint::Regex(r"[A-Z]{2}-[0-9]{3}(x|yz|日本)*\.".to_owned())));
proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_walk_ends_in_json_that_the_schema_describes(seed: u64, index: prop::sample::Index) {
        let case = index.get(&CASES);
        let text = walk(case, index.get(&SCHEMA).clone(), random(seed)).expect("an end");
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => prop_assert!(describes(&value), "{}: {text}", case.name),
            Err(e) => prop_assert!(e.to_string().starts_with("number out of range"), "{}: {text:?}: {e}", case.name),
        }
        prop_assert!(!text.contains('\n'));
    }

    #[test]
    fn a_walk_ends_in_a_json_object(seed: u64, index: prop::sample::Index) {
        let case = index.get(&CASES);
        let text = walk(case, index.get(&OBJECT).clone(), random(seed)).expect("an end");
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => prop_assert!(value.is_object(), "{}: {text}", case.name),
            // JSON has numbers that no float holds.
            Err(e) => prop_assert!(e.to_string().starts_with("number out of range"), "{}: {text:?}: {e}", case.name),
        }
    }

    #[test]
    fn a_walk_ends_in_a_text_of_the_regular_expression(seed: u64, index: prop::sample::Index) {
        let case = index.get(&CASES);
        let Some(text) = walk(case, index.get(&REGEX).clone(), random(seed)) else { return Ok(()) };
        let (head, tail) = text.split_at(6);
        let head: Vec<char> = head.chars().collect();
        prop_assert!(head[..2].iter().all(char::is_ascii_uppercase) && head[2] == '-', "{text}");
        prop_assert!(head[3..].iter().all(char::is_ascii_digit), "{text}");
        let rest = tail.strip_suffix('.').unwrap().replace("yz", "").replace("日本", "").replace('x', "");
        prop_assert!(rest.is_empty(), "{text}");
    }
}
