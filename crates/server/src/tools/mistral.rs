//! Mistral: `[TOOL_CALLS]` and a list of `{"name": …, "arguments": {…}}`; newer models write `[TOOL_CALLS]name[ARGS]{…}` for
//! each call, some with `[CALL_ID]` and an id before the arguments, some with neither mark.
//! Source: the tokenizers of the package mistral-common, versions 3, 7, 11 and 13.

use super::parser::Syntax;

pub(super) const SYNTAX: Syntax =
    Syntax { opening: Some("[TOOL_CALLS]"), closing: None, bare: false, name_first: true };

/// Whether `template` shows this format.
pub(super) fn is_taught_by(template: &str) -> bool {
    template.contains("[TOOL_CALLS]")
}

#[cfg(test)]
mod tests {
    use crate::tools::Format::Mistral;
    use crate::tools::tests::{check, check_text};

    #[test]
    fn a_list_of_calls() {
        let text = r#"[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Nîmes"}}, {"name": "time", "arguments": {}, "id": "123456789"}]"#;
        check(Mistral, text, "", &[("weather", r#"{"city": "Nîmes"}"#), ("time", "{}")]);
        check(
            Mistral,
            r#"[TOOL_CALLS][{"arguments": {"a":"]"}, "name": "time"}]</s>"#,
            "</s>",
            &[("time", r#"{"a":"]"}"#)],
        );
    }

    #[test]
    fn names_before_arguments() {
        let text = r#"Let me see.[TOOL_CALLS]weather[ARGS]{"city": "a[ARGS]{"}[TOOL_CALLS]time{}"#;
        check(Mistral, text, "Let me see.", &[("weather", r#"{"city": "a[ARGS]{"}"#), ("time", "{}")]);
        check(Mistral, "[TOOL_CALLS]time[CALL_ID]9aZ4bcd01[ARGS]{ }", "", &[("time", "{ }")]);
        check(Mistral, "[TOOL_CALLS] time {\"a\":1}\n", "", &[("time", r#"{"a":1}"#)]);
    }

    #[test]
    fn a_list_that_breaks_off() {
        let call = r#"[TOOL_CALLS][{"name": "time", "arguments": {}}"#;
        check(Mistral, call, "", &[("time", "{}")]);
        check(Mistral, &format!("{call}, 5]"), ", 5]", &[("time", "{}")]);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "[TOOL_CALLS]",
            "[TOOL_CALLS][]",
            "[TOOL_CALLS]nobody{}",
            "[TOOL_CALLS]time",
            "[TOOL_CALLS]time[ARGS]",
            "[TOOL_CALLS]time[ARG]{}",
            "[TOOL_CALLS]time[]",
            "[TOOL_CALLS]time[CALL_ID]ä{}",
            "[TOOL_CALLS][{\"name\": \"nobody\", \"arguments\": {}}]",
            "[TOOL[TOOL_CALLS",
        ] {
            check_text(Mistral, text);
        }
        let long = format!("[TOOL_CALLS]{}", "x".repeat(1000));
        check_text(Mistral, &long);
    }
}
