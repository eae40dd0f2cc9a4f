//! `{% generation %}` … `{% endgeneration %}` marks what an assistant wrote, for training. Rendering ignores it.

/// Turns the pair of tags into `{% if true %}` … `{% endif %}`, which keeps their whitespace marks and line breaks in force.
pub(super) fn strip(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let inner = tag.strip_prefix(['-', '+']).unwrap_or(tag);
        let word_start = inner.trim_start();
        let word_length = word_start.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word_start.len());
        let (word, after) = word_start.split_at(word_length);
        let ends = after.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        let instead = match word {
            "generation" if ends => "if true",
            "endgeneration" if ends => "endif",
            _ => {
                rest = tag;
                continue;
            }
        };
        out.push_str(&tag[..tag.len() - word_start.len()]);
        out.push_str(instead);
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::strip;

    #[test]
    fn the_tags_become_an_if_and_keep_their_marks() {
        assert_eq!(strip("a{%- generation -%}b{% endgeneration %}c"), "a{%- if true -%}b{% endif %}c");
        assert_eq!(strip("{%generation%}x{%+ endgeneration+%}"), "{%if true%}x{%+ endif+%}");
    }

    #[test]
    fn other_tags_and_plain_words_stay() {
        for source in [
            "{% if add_generation_prompt %}generation{% endif %}",
            "{% set generation = 1 %}",
            "{%",
            "{% generation",
            "é{%-",
        ] {
            assert_eq!(strip(source), source);
        }
    }
}
