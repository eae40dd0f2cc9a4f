//! Text with frames: free until a mark stands there, then held to the schema.

use super::{CASES, Case};
use nxd_engine::grammar::{Constraint, Frames, Grammar, GrammarError};
use serde_json::{Value, json};

fn frames(schema: Value, several: bool) -> Constraint {
    let (opening, closing) = ("<call>".to_owned(), "</call>".to_owned());
    Constraint::Frames(Frames { opening, closing, schema, several })
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false})
}

/// How much of `text` is allowed.
fn taken<'t>(case: &Case, grammar: &Grammar, text: &'t str) -> &'t str {
    &text[..case.take(&mut grammar.clone(), text)]
}

#[test]
fn text_is_free_and_what_is_framed_is_not() {
    for case in CASES.iter() {
        let grammar = case.grammar(&frames(schema(), true));
        for text in [
            "",
            "Any text: {\"on\": 5}, <b>bold</b>, a < b, <call",
            "<call>{\"on\": true}</call>",
            "<call>\n{\"on\":false}\n</call>\n",
            "Look:\n\n<call>{\"on\": true}</call> and \u{fc}<call>\n{\"on\": false}</call> done </call>",
            "<<call>{\"on\": true}</call>",
            "<call<call>{\"on\": true}</call>",
        ] {
            assert!(case.accepts(&grammar, text), "{}: {text:?}", case.name);
        }
        for (text, allowed) in [
            ("<call>x", "<call>"),
            ("so <call>{\"on\": 5}</call>", "so <call>{\"on\": "),
            ("<call>{\"off\"", "<call>{\"o"),
            ("<call>{\"on\": true, ", "<call>{\"on\": true"),
            ("<call>{\"on\": true}</call><call>1", "<call>{\"on\": true}</call><call>"),
            ("<call>\n\n", "<call>\n"),
        ] {
            assert_eq!(taken(case, &grammar, text), allowed, "{}", case.name);
        }
        // A frame that has begun is ended.
        for text in ["<call>", "a<call>{\"on\": true}", "<call>{\"on\": true}</call"] {
            assert!(!case.accepts(&grammar, text), "{}: {text:?}", case.name);
        }
    }
}

#[test]
fn one_frame_may_be_all_there_is() {
    for case in CASES.iter() {
        let grammar = case.grammar(&frames(schema(), false));
        assert!(case.accepts(&grammar, "none") && case.accepts(&grammar, "<call>{\"on\": true}</call> <call"));
        let twice = "<call>{\"on\": true}</call> <call>";
        assert_eq!(taken(case, &grammar, twice), &twice[..twice.len() - 1], "{}", case.name);
    }
}

#[test]
fn marks_that_are_control_tokens_are_found_as_tokens_and_as_text() {
    for case in CASES.iter() {
        let special = |id: &u32| case.tokenizer.is_special(*id) && !case.eos.contains(id) && case.bytes(*id).len() > 2;
        let Some(id) = (0..case.tokenizer.vocab_size() as u32).find(special) else { continue };
        let opening = String::from_utf8(case.bytes(id).to_vec()).unwrap();
        let closing = "</call>".to_owned();
        let framed = Frames { opening: opening.clone(), closing, schema: schema(), several: true };
        let grammar = case.grammar(&Constraint::Frames(framed));
        let mut by_token = grammar.clone();
        assert_eq!(case.take(&mut by_token, "Look: "), 6);
        by_token.take(id).unwrap();
        assert!(!case.may_end(&mut by_token));
        assert_eq!(case.take(&mut by_token, "{\"on\": 1"), 7, "{}: {opening:?}", case.name);
    }
}

#[test]
fn schemas_of_frames_are_looked_at_like_others() {
    let case = &CASES[0];
    for schema in [json!({"type": "object", "not": {}}), json!({"type": "hiccup"}), json!(false)] {
        let error = case.grammars.compile(&frames(schema.clone(), true)).unwrap_err();
        assert!(matches!(error, GrammarError::Schema { .. }), "{schema}: {error}");
    }
    let large = json!({"enum": (0..30_000).collect::<Vec<_>>()});
    assert!(case.grammars.compile(&frames(large, true)).unwrap_err().is_refusal());
}
