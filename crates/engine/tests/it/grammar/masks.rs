//! What masks hold, and what taking tokens does.

use super::CASES;
use nxd_engine::grammar::{Constraint, Grammar, GrammarError, Grammars};
use serde_json::json;

#[test]
fn grammars_may_be_shared_and_sent() {
    fn shared<T: Send + Sync + Clone>() {}
    fn sent<T: Send + Clone + std::fmt::Debug>() {}
    shared::<Grammars>();
    sent::<Grammar>();
}

#[test]
fn between_parts_of_json_stands_one_space_or_none() {
    for case in CASES.iter() {
        let properties = json!({ "a": { "type": "integer" }, "b": { "type": "array", "items": {} } });
        let schema = case.schema(json!({ "type": "object", "properties": properties, "required": ["a", "b"] }));
        for text in [r#"{"a":1,"b":[]}"#, r#"{ "a" : 1 , "b" : [ ] }"#, r#"{"a": 1, "b": [1, {"c": null}]}"#] {
            assert!(case.accepts(&schema, text), "{}: {text}", case.name);
        }
        for text in ["{  ", "{\n", "{\t", "{\"a\":  ", "{\"a\":\n", "{\"a\": 1,\n", "{\"a\": 1,  ", " ", "\n", "{ \n"] {
            let taken = case.take(&mut schema.clone(), text);
            assert_eq!(taken, text.len() - 1, "{}: {text:?}", case.name);
        }
        let object = case.grammar(&Constraint::JsonObject);
        assert!(case.accepts(&object, r#"{"x": [true, 1.5e3, "\n\u0001 é"], "y": {}}"#));
        for text in ["{\n", "{  ", "[", "1", "\""] {
            assert!(case.take(&mut object.clone(), text) < text.len(), "{text:?}");
        }
    }
}

#[test]
fn a_complete_object_is_over() {
    for case in CASES.iter() {
        let mut object = case.grammar(&Constraint::JsonObject);
        assert!(!object.is_over() && !case.may_end(&mut object));
        assert_eq!(case.take(&mut object, r#"{"a": {}}"#), 9);
        assert!(object.is_over(), "{}", case.name);
        assert_eq!(case.allowed(&mut object), case.eos);
    }
}

#[test]
fn any_end_token_ends_a_text_where_it_may_end() {
    for case in CASES.iter() {
        let start = case.grammar(&Constraint::Regex("[a-z]{2,4}".to_owned()));
        for end in &case.eos {
            let mut grammar = start.clone();
            assert_eq!(grammar.take(*end), Err(GrammarError::NotAllowed { token: *end }));
            assert_eq!(case.take(&mut grammar, "ab"), 2);
            assert!(case.may_end(&mut grammar) && !grammar.is_over());
            grammar.take(*end).unwrap();
            assert!(grammar.is_over());
            assert!(grammar.take(*end).is_err());
        }
        let mut grammar = start.clone();
        assert_eq!(case.take(&mut grammar, "abcdef"), 4);
        assert!(grammar.is_over());
        let ends = case.allowed(&mut grammar);
        assert_eq!(ends, case.eos);
        grammar.take(ends[0]).unwrap();
    }
}

#[test]
fn without_an_end_token_a_complete_text_allows_nothing() {
    let case = &CASES[0];
    let grammars = Grammars::new(&case.tokenizer, case.vocab_size, &[]).unwrap();
    let mut grammar = grammars.compile(&Constraint::Choice(vec!["ab".to_owned()])).unwrap();
    assert_eq!(case.take(&mut grammar, "ab"), 2);
    assert!(grammar.is_over());
    assert!(grammar.mask().unwrap().iter().all(|word| *word == 0));
}

#[test]
fn only_tokens_with_a_text_are_allowed() {
    for case in CASES.iter() {
        let mut grammar = case.grammar(&Constraint::Regex("(?s:.*)".to_owned()));
        let allowed = case.allowed(&mut grammar);
        assert!(allowed.len() > 200, "{}", case.name);
        for id in allowed {
            let text = !case.tokenizer.is_special(id) && !case.bytes(id).is_empty();
            assert!(text || case.eos.contains(&id), "{}: {id}", case.name);
        }
    }
}

#[test]
fn the_text_of_a_control_token_is_written_in_other_tokens() {
    for case in CASES.iter() {
        let control = String::from_utf8_lossy(case.bytes(case.eos[0])).into_owned();
        let mut grammar = case.grammar(&Constraint::Choice(vec![format!("x{control}y")]));
        assert_eq!(case.take(&mut grammar, "x"), 1);
        assert!(!case.may_end(&mut grammar), "{}", case.name);
        assert_eq!(case.take(&mut grammar, &control), control.len(), "{}", case.name);
    }
}

#[test]
fn fewer_rows_than_tokens_and_a_multiple_of_a_word_are_fine() {
    for case in CASES.iter() {
        for vocab_size in [288, 320, case.tokenizer.vocab_size() + 64] {
            let grammars = Grammars::new(&case.tokenizer, vocab_size, &[0, 1_000_000]).unwrap();
            let mut grammar = grammars.compile(&Constraint::Regex("(?s:.*)".to_owned())).unwrap();
            let mask = grammar.mask().unwrap();
            assert_eq!(mask.len(), vocab_size.div_ceil(32));
            assert_eq!(mask[0] & 1, 1, "the end token");
            assert_eq!(mask[(vocab_size - 1) / 32] >> ((vocab_size - 1) % 32) >> 1, 0, "no row beyond the last");
        }
    }
    assert!(Grammars::new(&CASES[0].tokenizer, 0, &[]).is_err());
    assert!(Grammars::new(&CASES[0].tokenizer, 1 << 24, &[]).is_err());
}

#[test]
fn a_fork_goes_its_own_way() {
    for case in CASES.iter() {
        let mut grammar = case.grammar(&Constraint::Choice(vec!["left one".to_owned(), "left two".to_owned()]));
        assert_eq!(case.take(&mut grammar, "left "), 5);
        let before = grammar.mask().unwrap();
        let mut fork = grammar.clone();
        assert_eq!(case.take(&mut fork, "one"), 3);
        assert!(fork.is_over() && !grammar.is_over());
        assert_eq!(grammar.mask().unwrap(), before);
        assert_eq!(case.take(&mut grammar, "two"), 3);
        fork.take(case.eos[0]).unwrap();
        assert!(case.may_end(&mut grammar));
    }
}

#[test]
fn a_forbidden_token_changes_nothing() {
    for case in CASES.iter() {
        let mut grammar = case.grammar(&Constraint::Choice(vec!["ab".to_owned()]));
        let mask = grammar.mask().unwrap();
        let allowed = case.allowed(&mut grammar);
        for token in (0..case.vocab_size as u32 + 40).chain([u32::MAX]).filter(|id| !allowed.contains(id)) {
            assert_eq!(grammar.take(token), Err(GrammarError::NotAllowed { token }));
        }
        assert_eq!(grammar.mask().unwrap(), mask);
        assert_eq!(case.take(&mut grammar, "ab"), 2);
    }
}

#[test]
fn choices_are_the_texts_and_nothing_else() {
    let texts = ["yes", "no", "no way", "\"quoted\" \\ \n \u{7f} \u{0} 日本", "a/b//c", "#"].map(str::to_owned);
    for case in CASES.iter() {
        let grammar = case.grammar(&Constraint::Choice(texts.to_vec()));
        for text in &texts {
            assert!(case.accepts(&grammar, text), "{}: {text:?}", case.name);
        }
        for text in ["", "n", "yesno", "Yes", "no ", "a/b"] {
            assert!(!case.accepts(&grammar, text), "{}: {text:?}", case.name);
        }
        let with_empty = case.grammar(&Constraint::Choice(vec![String::new(), "x".to_owned()]));
        assert!(case.accepts(&with_empty, "") && case.accepts(&with_empty, "x") && !case.accepts(&with_empty, "xx"));
    }
}

#[test]
fn regular_expressions_match_the_whole_text() {
    for case in CASES.iter() {
        for (regex, good, bad) in [
            ("a*", "", "b"),
            ("a*", "aaa", "ab"),
            ("^ab?$", "a", "ba"),
            (r"\d+/\d+", "12/3", "12"),
            ("/", "/", "//"),
            ("/*", "//", "a"),
            ("//comment", "//comment", ""),
            (r"(?i)straße|[^a]", "STRAßE", "a"),
            ("a\nb", "a\nb", "ab"),
            (r"\\\\", r"\\", r"\"),
        ] {
            let grammar = case.grammar(&Constraint::Regex(regex.to_owned()));
            assert!(case.accepts(&grammar, good), "{}: {regex:?} {good:?}", case.name);
            assert!(!case.accepts(&grammar, bad), "{}: {regex:?} {bad:?}", case.name);
        }
    }
}

#[test]
fn lark_grammars_recurse() {
    for case in CASES.iter() {
        let lark = "start: sum\nsum: sum \"+\" term | term\nterm: NUMBER | \"(\" sum \")\"\nNUMBER: /[0-9]+/\n";
        let grammar = case.grammar(&Constraint::Lark(lark.to_owned()));
        for text in ["1", "1+2", "((1+20)+3)"] {
            assert!(case.accepts(&grammar, text), "{}: {text}", case.name);
        }
        for text in ["", "1+", "(1", "1)", "1 + 2"] {
            assert!(!case.accepts(&grammar, text), "{}: {text}", case.name);
        }
    }
}

#[test]
fn schemas_hold_what_their_keywords_say() {
    let case = &CASES[0];
    for (schema, good, bad) in [
        (json!(true), "[1]", "[1"),
        (json!({ "type": "integer", "minimum": 3, "maximum": 12 }), "12", "13"),
        (json!({ "enum": ["a", 1, null, { "b": [true] }] }), r#"{"b":[true]}"#, r#"{"b":[false]}"#),
        (json!({ "type": "string", "minLength": 2, "maxLength": 3 }), r#""abc""#, r#""a""#),
        (json!({ "type": "string", "pattern": "^[ab]+$" }), r#""abba""#, r#""abc""#),
        (json!({ "type": "string", "format": "date" }), r#""2024-02-29""#, r#""2024-2-9""#),
        (json!({ "type": "array", "items": { "type": "null" }, "minItems": 1, "maxItems": 2 }), "[null, null]", "[]"),
        (json!({ "anyOf": [{ "type": "null" }, { "type": "boolean" }] }), "true", "1"),
        (
            json!({ "$ref": "#/$defs/t", "$defs": { "t": { "type": "array", "items": { "$ref": "#" } } } }),
            "[[],[]]",
            "[1]",
        ),
        (
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{ "const": 1 }], "items": false,
                "type": "array" }),
            "[1]",
            "[2]",
        ),
    ] {
        let grammar = case.schema(schema.clone());
        assert!(case.accepts(&grammar, good), "{schema} {good}");
        assert!(!case.accepts(&grammar, bad), "{schema} {bad}");
    }
}
