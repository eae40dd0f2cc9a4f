//! Calls in texts that come in pieces: the same whatever the pieces, nothing lost, time in proportion to the text.

use super::Format::{Hermes, Llama3, Mistral};
use super::{Delta, Format, ToolParser};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const KNOWN: [&str; 2] = ["weather", "time"];

/// What a client makes of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reply {
    content: String,
    calls: Vec<(String, String)>,
    incomplete: Vec<usize>,
}

fn known() -> Vec<String> {
    KNOWN.map(str::to_owned).to_vec()
}

fn read<'a>(mut parser: ToolParser, pieces: impl IntoIterator<Item = &'a str>) -> Reply {
    let mut reply = Reply::default();
    let mut deltas = Vec::new();
    for piece in pieces {
        deltas.extend(parser.push(piece));
    }
    deltas.extend(parser.finish());
    for delta in deltas {
        match delta {
            Delta::Content(text) => {
                assert!(!text.is_empty());
                reply.content.push_str(&text);
            }
            Delta::Call { index, name } => {
                assert_eq!(index, reply.calls.len());
                reply.calls.push((name, String::new()));
            }
            Delta::Arguments { index, text } => {
                assert!(!text.is_empty() && index + 1 == reply.calls.len());
                reply.calls[index].1.push_str(&text);
            }
        }
    }
    assert_eq!(parser.calls(), reply.calls.len());
    reply.incomplete = parser.incomplete().to_vec();
    for (index, (_, arguments)) in reply.calls.iter().enumerate() {
        let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(arguments);
        assert_eq!(object.is_err(), reply.incomplete.contains(&index), "{arguments}");
    }
    reply
}

fn characters(text: &str) -> Vec<&str> {
    text.split("").filter(|piece| !piece.is_empty()).collect()
}

/// Reads `text` whole and a character at a time.
fn read_both(parser: &ToolParser, text: &str) -> Reply {
    let whole = read(parser.clone(), [text]);
    assert_eq!(read(parser.clone(), characters(text)), whole, "{text}");
    whole
}

/// Asserts what a reply in `format` is made of.
#[track_caller]
pub(super) fn check(format: Format, text: &str, content: &str, calls: &[(&str, &str)]) {
    let reply = read_both(&ToolParser::new(format, &known()), text);
    let calls = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
    assert_eq!(reply, Reply { content: content.to_owned(), calls, incomplete: vec![] }, "{text}");
}

/// Asserts that a reply in `format` is nothing but text.
#[track_caller]
pub(super) fn check_text(format: Format, text: &str) {
    check(format, text, text, &[]);
}

#[test]
fn names_and_templates_tell_the_format() {
    for name in Format::NAMES {
        assert!(Format::named(name).is_some());
    }
    assert_eq!(Format::named("llama3_json"), Some(Llama3));
    assert_eq!(Format::named("Hermes"), None);
    let hermes = r#"<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>"#;
    assert_eq!(Format::detect(hermes), Some(Hermes));
    assert_eq!(Format::detect("{{- '<tool_call>\n<function=' + tool_call.name }} arguments"), None);
    assert_eq!(Format::detect("{{ '[TOOL_CALLS]' + arguments }}"), Some(Mistral));
    assert_eq!(Format::detect("{{- '<|python_tag|>' }}"), Some(Llama3));
    let small = r#"{"name": function name, "parameters": dictionary of argument name and its value}. <|eot_id|>"#;
    assert_eq!(Format::detect(small), Some(Llama3));
    assert_eq!(Format::detect("<|im_start|>{{ role }}"), None);
}

#[test]
fn names_come_whole_and_arguments_as_they_are_written() {
    let mut parser = ToolParser::new(Hermes, &known());
    assert_eq!(parser.push("Hm <"), [Delta::Content("Hm ".into())]);
    assert_eq!(parser.push("tool_call>{\"name\": \"wea"), []);
    assert_eq!(parser.push("ther\", \"arguments\""), []);
    let call = Delta::Call { index: 0, name: "weather".into() };
    let arguments = |text: &str| Delta::Arguments { index: 0, text: text.into() };
    assert_eq!(parser.push(": {"), [call, arguments("{")]);
    assert_eq!(parser.push("\"ci"), [arguments("\"ci")]);
    assert_eq!(parser.push("ty\": 1}"), [arguments("ty\": 1}")]);
    assert_eq!(parser.push("}\n</tool_call>\n"), []);
    assert_eq!((parser.finish(), parser.calls()), (vec![], 1));
}

#[test]
fn a_call_that_goes_wrong_ends_as_content_and_is_told() {
    let parser = ToolParser::new(Hermes, &known());
    let good = "<tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>";
    let bad = "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\": tru, \"b\"}}</tool_call>";
    let reply = read_both(&parser, &format!("{good}{bad}{good}"));
    assert_eq!(reply.content, ", \"b\"}}</tool_call>");
    let calls: Vec<_> = reply.calls.iter().map(|(_, arguments)| arguments.as_str()).collect();
    assert_eq!((calls, reply.incomplete), (vec!["{}", "{\"a\": tru", "{}"], vec![1]));
}

#[test]
fn a_call_that_breaks_off_is_told() {
    let reply = read_both(&ToolParser::new(Llama3, &known()), "{\"name\": \"time\", \"parameters\": {\"a\": \"b");
    assert_eq!(reply.calls, [("time".to_owned(), "{\"a\": \"b".to_owned())]);
    assert_eq!((reply.content.as_str(), reply.incomplete), ("", vec![0]));
    // The arguments are whole, so the call can be made.
    check(Llama3, "{\"name\": \"time\", \"parameters\": {}\n", "", &[("time", "{}")]);
    check(Llama3, "{\"name\": \"time\", \"parameters\": {} oh", " oh", &[("time", "{}")]);
}

#[test]
fn only_the_first_call_where_only_one_is_wanted() {
    let call = |name: &str| format!("{{\"name\": \"{name}\", \"parameters\": {{\"a\": 1}}}}\n");
    let parser = ToolParser::new(Llama3, &known()).only_first();
    let reply = read_both(
        &parser,
        &(call("time") + &call("weather") + &call("weather") + "{\"name\": \"time\", \"parameters\": {"),
    );
    assert_eq!(reply, Reply { calls: vec![("time".into(), "{\"a\": 1}".into())], ..Reply::default() });
}

#[test]
fn forced_replies_are_read_without_a_frame() {
    let list = ToolParser::forced(&known());
    let text = r#"[{"name":"time","parameters":{}}, {"name": "weather", "parameters": {"city": "]"}}]"#;
    let calls = vec![("time".to_owned(), "{}".to_owned()), ("weather".to_owned(), r#"{"city": "]"}"#.to_owned())];
    assert_eq!(read_both(&list, text), Reply { calls, ..Reply::default() });
    let reply = read_both(&list, r#" [{"name":"time","parameters":{"a"#);
    assert_eq!((reply.calls.len(), reply.incomplete), (1, vec![0]));

    let one = ToolParser::forced_one("weather");
    let calls = vec![("weather".to_owned(), r#"{"city": {"a": "}"} }"#.to_owned())];
    assert_eq!(read_both(&one, "\n{\"city\": {\"a\": \"}\"} }\n"), Reply { calls, ..Reply::default() });
    assert_eq!(read_both(&one, "no").content, "no");
    assert_eq!(read_both(&one, "[1]").content, "[1]");
}

#[test]
fn hostile_text_takes_time_in_proportion() {
    let n = 1_000_000;
    let start = Instant::now();
    for format in [Hermes, Llama3, Mistral] {
        let parser = ToolParser::new(format, &known());
        for before in ["", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "{\"name\": \"time\", \"parameters\": "] {
            for again in ["{", "[", "{\"a\":", "<", "<tool_call>", "[TOOL_CALLS]time", "{\"name\": ", ";", "\\"] {
                let text = format!("{before}{}", again.repeat(n / 10 / again.len()));
                let reply = read(parser.clone(), [text.as_str()]);
                assert!(reply.calls.len() <= 1 && reply.content.len() <= text.len());
            }
        }
    }
    let text = "{".repeat(n);
    for parser in [ToolParser::new(Llama3, &known()), ToolParser::forced(&known()), ToolParser::forced_one("time")] {
        let reply = read(parser, characters(&text));
        let arguments: usize = reply.calls.iter().map(|(_, arguments)| arguments.len()).sum();
        assert_eq!(reply.content.len() + arguments, n);
    }
    let text = format!("[TOOL_CALLS]time{{\"a\": \"{}\"}}", "{\u{e9}".repeat(n / 3));
    let reply = read(ToolParser::new(Mistral, &known()), characters(&text));
    assert!(reply.calls.len() == 1 && reply.content.is_empty() && reply.incomplete.is_empty());
    // Seconds when each character is read once, hours when all text is read again for each.
    assert!(start.elapsed() < Duration::from_secs(60));
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    let parts = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "{\"name\": \"time\", ",
        "\"arguments\": {}}",
        "\"parameters\": {\"a\": ",
        "\"}é\\\"\"}}",
        "time",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        " ",
        "\n",
        "x",
        "😀",
        "<",
        "{\"name\": \"weather\", \"arguments\": {\"city\": \"B\"}}",
    ]);
    prop::collection::vec(parts.prop_map(str::to_owned), 0..24)
}

fn parsers() -> impl Strategy<Value = ToolParser> {
    prop::sample::select(vec![
        ToolParser::new(Hermes, &known()),
        ToolParser::new(Llama3, &known()),
        ToolParser::new(Mistral, &known()),
        ToolParser::new(Mistral, &known()).only_first(),
        ToolParser::forced(&known()),
        ToolParser::forced_one("time"),
    ])
}

/// Whether `part` is what is left of `text` without some of its characters.
fn is_left_of(part: &str, text: &str) -> bool {
    let mut rest = text.chars();
    part.chars().all(|c| rest.any(|other| other == c))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn deltas_do_not_depend_on_the_pieces(parser in parsers(), text in pieces(), cuts in prop::collection::vec(0..400_usize, 0..8)) {
        let text = text.concat();
        let whole = read(parser.clone(), [text.as_str()]);
        prop_assert_eq!(&read(parser.clone(), characters(&text)), &whole);
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&read(parser, parts), &whole);
        prop_assert!(is_left_of(&whole.content, &text));
    }

    #[test]
    fn text_without_calls_is_kept(text in "[ -~\né<>\\[\\]{}]{0,60}") {
        for format in [Hermes, Llama3, Mistral] {
            let parser = ToolParser::new(format, &known());
            prop_assert_eq!(&read_both(&parser, &text).content, &text);
        }
    }
}
