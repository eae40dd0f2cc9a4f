//! Hermes 2 Pro and what learned from it (Qwen 2.5, Qwen 3): `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once a
//! call. SmolLM2 writes a list of such objects in one frame.
//! Source: the models' chat templates.

use super::parser::Syntax;

pub(super) const SYNTAX: Syntax =
    Syntax { opening: Some("<tool_call>"), closing: Some("</tool_call>"), bare: false, name_first: false };

/// Whether `template` shows this format. Others (Qwen 3 Coder, GLM) have the same marker round something that is no JSON.
pub(super) fn is_taught_by(template: &str) -> bool {
    template.contains("<tool_call>")
        && template.contains("arguments")
        && !["<function=", "<arg_key>"].iter().any(|other| template.contains(other))
}

#[cfg(test)]
mod tests {
    use crate::tools::Format::Hermes;
    use crate::tools::tests::{check, check_text};

    #[test]
    fn one_call() {
        let text = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";
        check(Hermes, text, "", &[("weather", r#"{"city": "Paris"}"#)]);
    }

    #[test]
    fn text_before_and_behind() {
        let text = "I look.\n<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>\nWait.";
        check(Hermes, text, "I look.\n\nWait.", &[("time", "{}")]);
    }

    #[test]
    fn calls_in_parallel() {
        let text = "\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln 🌧\"}}\n</tool_call>\n\
                    <tool_call>{\"arguments\": {\"zone\": null}, \"name\": \"time\"}</tool_call>\n";
        check(Hermes, text, "", &[("weather", r#"{"city": "Köln 🌧"}"#), ("time", r#"{"zone": null}"#)]);
    }

    #[test]
    fn braces_and_markers_within_strings_are_text() {
        let arguments = r#"{"a": {"b": [{"c": "}}</tool_call>\"\\"}]}, "d": "<tool_call>{"}"#;
        let text = format!("<tool_call>{{\"name\": \"time\", \"arguments\": {arguments}}}</tool_call>");
        check(Hermes, &text, "", &[("time", arguments)]);
    }

    #[test]
    fn a_list_in_one_frame() {
        let text = "<tool_call>[{\"name\": \"time\", \"arguments\": {}}, {\"name\": \"weather\", \"arguments\": {\"city\": \"B\"}}]</tool_call>";
        check(Hermes, text, "", &[("time", "{}"), ("weather", r#"{"city": "B"}"#)]);
    }

    #[test]
    fn the_closing_marker_may_be_missing() {
        let call = r#"<tool_call>{"name": "time", "arguments": {}}"#;
        check(Hermes, call, "", &[("time", "{}")]);
        check(Hermes, &format!("{call}\n{call}\n"), "", &[("time", "{}"), ("time", "{}")]);
        check(Hermes, &format!("{call} <b>"), " <b>", &[("time", "{}")]);
        check(Hermes, &format!("{call} </tool {call}"), " </tool ", &[("time", "{}"), ("time", "{}")]);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "<tool_call>",
            "<tool_call></tool_call>",
            "<tool_call>[]</tool_call>",
            "<tool_call>\n{\"name\": \"time\"",
            "<tool_call>{\"name\": \"time\"}</tool_call>",
            "<tool_call>{\"name\": \"nobody\", \"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"time\", \"arguments\": \"{}\"}</tool_call>",
            "{\"name\": \"time\", \"arguments\": {}}",
            "<tool_cal<tool_call<<tool_call >",
            "a < b <tool",
        ] {
            check_text(Hermes, text);
        }
        check(
            Hermes,
            "<tool_call>x<tool_call>{\"name\": \"time\", \"arguments\": {}}",
            "<tool_call>x",
            &[("time", "{}")],
        );
    }
}
