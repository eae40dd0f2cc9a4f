//! Templates that are broken, refuse, or never end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::render;

#[test]
fn a_bad_template_is_an_error_that_says_where_and_why() {
    let bomb = "x".repeat(50 << 20);
    let deep = "{% if true %}".repeat(2000);
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let cases: [(&str, &[&str]); 16] = [
        (&bomb, &["tokenizer_config.json: `chat_template`", "52428800", "1048576"]),
        ("a\n{% for %}", &["tokenizer_config.json: `chat_template`", "line 2", "parse"]),
        ("{% if x %}", &["line 1"]),
        (&deep, &["parse"]),
        (&nested, &["parse"]),
        ("{% for i in range(10**9) %}{{ i }}{% endfor %}", &["line 1", "range"]),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            &["stopped after 2000000 steps"],
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ x }}{% endfor %}{% endfor %}",
            &["writes more than 67108864 bytes"],
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &["line 1", "recursion"]),
        (
            "{% set ns = namespace(a='aaaaaaaaaaaaaaaa') %}{% for i in range(90) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
            &["stopped"],
        ),
        ("{{ 'a' * 10**12 }}", &["stopped"]),
        ("{{ raise_exception('no <such> role') }}", &["no <such> role"]),
        ("{% macro f() %}{{ raise_exception('inner') }}{% endmacro %}{{ f() }}", &["inner"]),
        ("{{ x | nosuch }}", &["line 1", "nosuch"]),
        ("{{ messages[0].a.b }}", &["line 1", "undefined"]),
        ("{{ strftime_now('%Q') }}", &["line 1", "`Q`"]),
    ];
    for (template, parts) in cases {
        let shown: String = template.chars().take(60).collect();
        let start = Instant::now();
        let message = render(template, json!("y".repeat(1000))).expect_err(&shown).to_string();
        assert!(start.elapsed() < Duration::from_secs(2), "{shown}: took {:?}", start.elapsed());
        for part in parts {
            assert!(message.contains(part), "{shown}: {message:?} lacks {part:?}");
        }
        assert!(message.len() < 2000, "{shown}: message of {} bytes", message.len());
    }
}

#[test]
fn values_nested_too_deeply_for_json_are_an_error() {
    let message = render(
        "{% set ns = namespace(a=[]) %}{% for i in range(500) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a | tojson }}",
        json!(1),
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("nested too deeply"), "{message}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 300, ..Default::default() })]

    #[test]
    fn any_text_is_a_template_or_an_error(pieces in proptest::collection::vec(piece(), 0..12)) {
        let _ = render(&pieces.concat(), json!([1, "a", { "k": null }]));
    }
}

/// Text that is likely to hit the template language.
fn piece() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let words = [
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "-",
        "+",
        " ",
        "\n",
        "for i in x",
        "endfor",
        "if",
        "endif",
        "x",
        "messages",
        "[",
        "]",
        "::",
        "|",
        "tojson",
        "(",
        ")",
        "indent=",
        "generation",
        "endgeneration",
        "set a =",
        "macro f()",
        "endmacro",
        "raise_exception",
        "'",
        "\"",
        ".",
        "**",
        "range",
        "9999999",
        "~",
        "namespace",
        "loop.index",
        "é",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}"]
}
