//! Llama 3.1 and 3.2: the whole reply is `{"name": …, "parameters": {…}}`, perhaps behind `<|python_tag|>`; several are
//! separated by `;` or new lines. Calls of built-in tools, which are Python, stay text.
//! Source: the models' chat templates; Meta's page on prompt formats.

use super::parser::Syntax;

pub(super) const SYNTAX: Syntax =
    Syntax { opening: Some("<|python_tag|>"), closing: None, bare: true, name_first: false };

/// Whether `template` shows this format. The small models' templates have no tag but the same sentence.
pub(super) fn is_taught_by(template: &str) -> bool {
    template.contains("<|python_tag|>")
        || (template.contains("<|eot_id|>") && template.contains("\"parameters\": dictionary of argument name"))
}

#[cfg(test)]
mod tests {
    use crate::tools::Format::Llama3;
    use crate::tools::tests::{check, check_text};

    #[test]
    fn one_call_with_and_without_the_tag() {
        let call = r#"{"name": "weather", "parameters": {"city": "Paris"}}"#;
        for before in ["", "<|python_tag|>", "\n\n", " <|python_tag|> "] {
            check(Llama3, &format!("{before}{call}"), "", &[("weather", r#"{"city": "Paris"}"#)]);
        }
        check(Llama3, r#"{"type": "function", "name": "time", "parameters": {}}"#, "", &[("time", "{}")]);
    }

    #[test]
    fn calls_in_parallel() {
        for between in ["; ", ";", "\n", "", "<|python_tag|>"] {
            let text = format!(
                "{{\"name\": \"time\", \"parameters\": {{}}}}{between}{{\"name\": \"weather\", \"parameters\": {{\"a\": \"}};\"}}}}\n"
            );
            check(Llama3, &text, "", &[("time", "{}"), ("weather", r#"{"a": "};"}"#)]);
        }
    }

    #[test]
    fn the_tag_is_found_behind_text() {
        let text = "Sure.<|python_tag|>{\"name\": \"time\", \"parameters\": {}} Done.";
        check(Llama3, text, "Sure. Done.", &[("time", "{}")]);
    }

    #[test]
    fn json_that_is_no_call_stays_text() {
        for text in [
            r#"{"name": "Ann", "age": 7}"#,
            r#"{"name": "Ann", "parameters": {}}"#,
            r#"Sure. {"name": "time", "parameters": {}}"#,
            r#"{"answer": {"name": "time", "parameters": {}}}"#,
            "<|python_tag|>brave_search.call(query=\"x\")",
            "{\"name\": \"ti",
            "; {} ;",
            "<|python_tag|>",
        ] {
            check_text(Llama3, text);
        }
    }
}
