//! Constraints that must be refused, at once, and never loosened.

use super::CASES;
use nxd_engine::grammar::{Constraint, GrammarError};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Compiling is cut off at the service's own deadline; what is refused here is refused long before it, also without optimisation.
const SOON: Duration = Duration::from_secs(5);

/// The error for `constraint`, which must be the constraint's fault.
fn refused(constraint: &Constraint) -> GrammarError {
    let short: String = format!("{constraint:?}").chars().take(120).collect();
    let start = Instant::now();
    let error = CASES[0].grammars.compile(constraint).map(|_| ()).expect_err(&short);
    let took = start.elapsed();
    println!("{took:?} {short}\n    {error}");
    assert!(took < SOON, "{took:?} for {short}");
    assert!(error.is_refusal(), "{short}: {error}");
    assert!(error.to_string().len() < 700, "{error}");
    error
}

fn schema(schema: Value) -> String {
    refused(&Constraint::JsonSchema(schema)).to_string()
}

fn pattern(regex: &str) -> String {
    // An empty pattern finds itself in every text, but matches no other.
    let alone = refused(&Constraint::Regex(regex.to_owned())).to_string();
    if regex.is_empty() || regex == "()" {
        return alone;
    }
    let inside = schema(json!({ "type": "object", "properties": { "p": { "type": "string", "pattern": regex } } }));
    format!("{inside}\n{alone}")
}

fn lark(grammar: &str) -> String {
    refused(&Constraint::Lark(grammar.to_owned())).to_string()
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({ "type": "null" }), |inner, _| json!({ "type": "array", "items": inner }))
}

#[test]
fn references_in_a_circle_or_out_of_the_schema() {
    schema(json!({ "$ref": "#" }));
    schema(json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }));
    schema(json!({ "allOf": [{ "$ref": "#" }, { "type": "object" }] }));
    schema(json!({ "anyOf": [{ "$ref": "#" }] }));
    for reference in
        ["http://127.0.0.1:1/schema.json", "file:///etc/passwd", "other.json#/a", "#anchor", "#/$defs/missing"]
    {
        let error = schema(json!({ "properties": { "x": { "$ref": reference } } }));
        assert!(error.contains("`#/$defs/name`, is allowed"), "{error}");
    }
    assert_eq!(
        schema(json!({ "properties": { "x": { "$ref": "http://a/b" } } })),
        "the JSON schema's `#/properties/x/$ref` is a reference to `http://a/b`; a part of the same schema, as `#/$defs/name`, is allowed"
    );
    schema(json!({ "$ref": 3 }));
}

#[test]
fn schemas_that_are_too_deep_or_too_large() {
    assert_eq!(schema(nested(1000)), "the JSON schema has 1001 levels; at most 64 are allowed");
    schema(json!({ "enum": (0..1_000_000).collect::<Vec<u32>>() }));
    schema(json!({ "const": "x".repeat(70_000) }));
    schema(json!({ "x": { "minItems": 1e9 }, "$ref": "#/x" }));
    let error = schema(json!({ "type": "array", "minItems": 1_000_000_000 }));
    assert_eq!(error, "the JSON schema's `#/minItems` is 1000000000; a whole number from 0 to 100000 is allowed");
    schema(json!({ "type": "string", "minLength": u64::MAX }));
    schema(json!({ "type": "object", "minProperties": 1e300 }));
    let many: serde_json::Map<String, Value> = (0..40).map(|i| (format!("^x{i}$"), json!(true))).collect();
    schema(json!({ "type": "object", "patternProperties": many }));
    let strings: Vec<Value> = (0..300).map(|i| json!({ "type": "string", "pattern": format!("a{i}") })).collect();
    schema(json!({ "anyOf": strings }));
    let properties: serde_json::Map<String, Value> = (0..1001).map(|i| (format!("{i}"), json!({}))).collect();
    schema(json!({ "type": "object", "properties": properties }));
    let references: Vec<Value> = (0..2000).map(|_| json!({ "$ref": "#/a" })).collect();
    schema(json!({ "a": true, "anyOf": references }));
}

#[test]
fn what_is_no_schema_or_cannot_be_enforced() {
    for other in [json!(null), json!(3), json!("object"), json!([]), json!(false)] {
        let error = schema(other);
        assert!(error.contains("an object is allowed"), "{error}");
    }
    assert_eq!(
        schema(json!({ "properties": { "not": { "uniqueItems": true } } })),
        "the JSON schema's `#/properties/not/uniqueItems` is a keyword that cannot be enforced; leave it out"
    );
    for broken in [
        json!({ "type": 123 }),
        json!({ "type": "hiccup" }),
        json!({ "properties": [] }),
        json!({ "properties": { "a": 1 } }),
        json!({ "enum": 1 }),
        json!({ "enum": [] }),
        json!({ "allOf": [{ "type": "string" }, { "type": "null" }] }),
        json!({ "type": "integer", "minimum": 3, "maximum": 2 }),
        json!({ "type": "integer", "minimum": "é".repeat(200) }),
        json!({ "type": "string", "minLength": -1 }),
        json!({ "type": "string", "format": "hiccup" }),
        json!({ "type": "object", "required": "a" }),
        json!({ "oneOf": [{ "type": "string" }, { "type": "string", "maxLength": 3 }] }),
        json!({ "if": { "type": "string" }, "then": { "maxLength": 3 } }),
        json!({ "$schema": "http://json-schema.org/draft-07/schema#", "dependentRequired": { "a": ["b"] } }),
        json!({ "x-guidance": { "lenient": true }, "type": "string", "format": "hiccup" }),
        json!({ "type": "string", "pattern": 1 }),
    ] {
        schema(broken);
    }
}

#[test]
fn regular_expressions_that_are_none_or_too_large() {
    for regex in [
        "^+a",
        "(?<=x)*",
        "(?<=x)y",
        "a(?=b)",
        "(a{1000}){1000}",
        "(",
        ")",
        "[",
        "a{2,1}",
        r"\1",
        r"\",
        "a**{9}{99999}",
        "",
        "()",
    ] {
        let error = pattern(regex);
        assert!(!error.contains('\n') || error.lines().count() == 2, "{error}");
    }
    let error = pattern(&format!("{}{}", "(".repeat(60_000), ")".repeat(60_000)));
    assert!(error.ends_with("the regular expression has 120000 bytes; at most 2048 are allowed"), "{error}");
    pattern(&format!("{}{}", "(".repeat(1000), ")".repeat(1000)));
    pattern(&"(".repeat(2000));
    assert_eq!(
        refused(&Constraint::Regex("(?<=x)*".to_owned())).to_string(),
        "the regular expression cannot be used: look-around, including look-ahead and look-behind, is not supported"
    );
    schema(json!({ "type": "object", "patternProperties": { "(a{1000}){1000}": true } }));
}

#[test]
fn grammars_that_are_none_or_too_large() {
    lark("");
    lark("rule: \"a\"");
    lark("start: missing");
    lark("start: \"a");
    assert_eq!(
        lark("start: rule\nrule:"),
        "the Lark grammar cannot be used: the only text that it allows is the empty one"
    );
    lark("start: start");
    lark("start: a\na: b\nb: a");
    lark("start: @other");
    lark("start: <|no such token|>");
    lark("start: A\nA: B\nB: A");
    lark("start: %json { \"type\": \"hiccup\" }");
    lark(&format!("start: {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000)));
    lark(&format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000)));
    lark(&format!("start: {}", "[".repeat(60_000)));
    lark(&format!("start: /{}a{}/", "(".repeat(30_000), ")".repeat(30_000)));
    lark(&format!("start: \"{}\"", "a".repeat(70_000)));
    lark(&format!("start: {}start{}", "%lark { start: ".repeat(2000), "}".repeat(2000)));
    let chain: String = (0..5000).map(|i| format!("r{i}:r{}\n", i + 1)).collect();
    assert_eq!(
        lark(&format!("start:r0\n{chain}r5000:\"a\"")),
        "the Lark grammar has 5002 rules; at most 1024 are allowed"
    );
}

#[test]
fn choices_without_a_text_or_with_too_many() {
    let choice = |texts: Vec<String>| refused(&Constraint::Choice(texts)).to_string();
    assert_eq!(choice(Vec::new()), "the choice cannot be used: it is empty; name a text");
    assert_eq!(choice(vec!["a".to_owned(); 1025]), "the choice has 1025 texts; at most 1024 are allowed");
    choice(vec![String::new()]);
    assert_eq!(choice(vec!["a".repeat(70_000)]), "the choice has 70000 bytes; at most 65536 are allowed");
}

/// The largest that the limits let through; what recurses has the stack for it.
#[test]
fn the_longest_chains_are_followed_to_their_end() {
    let answered = |constraint: Constraint| {
        let start = Instant::now();
        let answer = CASES[0].grammars.compile(&constraint);
        let name = format!("{constraint:?}").chars().take(80).collect::<String>();
        println!("{:?} {name} {:?}", start.elapsed(), answer.as_ref().err());
        assert!(answer.as_ref().err().is_none_or(GrammarError::is_refusal), "{answer:?}");
    };
    let rules: String = (0..1000).map(|i| format!("r{i}: \"x\" ((r{}))\n", i + 1)).collect();
    answered(Constraint::Lark(format!("start: r0\n{rules}r1000: \"a\"")));
    let terminals: String = (0..1000).map(|i| format!("R{i}: \"x\" ((R{}))\n", i + 1)).collect();
    answered(Constraint::Lark(format!("start: R0\n{terminals}R1000: \"a\"")));
    let properties: serde_json::Map<String, Value> = (0..1000).map(|i| (format!("{i}"), json!({}))).collect();
    answered(Constraint::JsonSchema(json!({ "type": "object", "properties": properties })));
    let link = |i: u32| (format!("{i}"), json!({ "items": { "$ref": format!("#/$defs/{}", i + 1) } }));
    let mut links: serde_json::Map<String, Value> = (0..1000).map(link).collect();
    links.insert("1000".to_owned(), json!({ "type": "null" }));
    answered(Constraint::JsonSchema(json!({ "$ref": "#/$defs/0", "$defs": links })));
    let all: Vec<Value> = (0..2000).map(|_| json!({ "type": "string" })).collect();
    answered(Constraint::JsonSchema(json!({ "allOf": all })));
    let numbers: Vec<u32> = (0..12_000).collect();
    answered(Constraint::JsonSchema(json!({ "enum": numbers })));
    answered(Constraint::JsonSchema(nested(30)));
    answered(Constraint::Choice((0..1024).map(|i| format!("{i:060}")).collect()));
    answered(Constraint::Regex("(?s:.{0,99000})".to_owned()));
    answered(Constraint::Regex(r"[\p{L}\p{N}]{500}".repeat(100)));
    answered(Constraint::Lark(format!("start: {}\"a\"{}", "(".repeat(25), ")".repeat(25))));
}
