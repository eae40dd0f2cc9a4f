//! Constructs that templates of real models use.

use serde_json::json;

use super::render;

#[test]
fn tojson_is_that_of_transformers() {
    let x = json!({ "b": [1, 2.0, true, null], "a": "<é & '\"\n\u{1f44d}>", "e": {}, "l": [] });
    for (call, text) in [
        ("tojson", "{\"b\": [1, 2.0, true, null], \"a\": \"<é & '\\\"\\n👍>\", \"e\": {}, \"l\": []}"),
        (
            "tojson(ensure_ascii=true)",
            "{\"b\": [1, 2.0, true, null], \"a\": \"<\\u00e9 & '\\\"\\n\\ud83d\\udc4d>\", \"e\": {}, \"l\": []}",
        ),
        (
            "tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=false)",
            "{\"a\":\"<é & '\\\"\\n👍>\",\"b\":[1,2.0,true,null],\"e\":{},\"l\":[]}",
        ),
    ] {
        assert_eq!(render(&format!("{{{{ x | {call} }}}}"), x.clone()).unwrap(), text);
    }
    let indented = render("{{ x | tojson(indent=2) }}", json!({ "a": [1, { "b": [] }] })).unwrap();
    assert_eq!(indented, "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ]\n}");
    assert_eq!(render("{{ x | tojson(indent='\t') }}", json!([1])).unwrap(), "[\n\t1\n]");
    assert_eq!(render("{{ (x | fromjson).k[1] }}", json!("{\"k\": [1, 2]}")).unwrap(), "2");
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(render("{{ x }}|{{ none }}|{{ true }}", json!(null)).unwrap(), "None|None|True");
    assert_eq!(render("{{ x ~ '' }}{{ 'a' ~ none ~ false }}", json!(true)).unwrap(), "TrueaNoneFalse");
    assert_eq!(render("{{ x }}", json!(1.0)).unwrap(), "1.0");
    assert_eq!(render("{{ x }}", json!({ "a": ["b", true, null] })).unwrap(), "{'a': ['b', True, None]}");
}

#[test]
fn python_methods_slices_and_loop_controls_work() {
    for (template, text) in [
        ("{{ ' a '.strip() + 'b,c'.split(',')[-1] }}", "ac"),
        ("{{ x[::-1][0] }}{{ x[-2:] | length }}", "32"),
        ("{% for i in x %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% for i in x %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{{ messages[0].get('name', 'none') }}{{ messages.0.role }}", "noneuser"),
        ("{% set ns = namespace(n=0) %}{% for i in x %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hi;"),
        ("{{ 'hello world'.title() }} {{ bos_token }} {{ tools is none }}", "Hello World <s> True"),
        ("{%- generation -%} a {%- endgeneration -%} b", "ab"),
        ("  {% if true %}\na\n  {% endif %}\n", "a\n"),
        ("{{ undefined_name }}.", "."),
        ("{% macro f(a, b='z') %}{{ a ~ b }}{% endmacro %}{{ f('x', b='q' if x else 'r') }}", "xq"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ 'a%sb' | format('-') }}", "a-b"),
    ] {
        assert_eq!(render(template, json!([1, 2, 3])).unwrap(), text, "{template}");
    }
}

#[test]
fn today_is_the_time_that_is_asked_for() {
    use std::time::{Duration, UNIX_EPOCH};

    let template =
        nxd_models::chat::ChatTemplate::new("{{ strftime_now('%d %b %Y') }}".to_owned(), String::new(), Vec::new());
    let now = Some(UNIX_EPOCH + Duration::from_secs(1_721_952_000));
    let text = template.render(&nxd_models::chat::Conversation { now, ..Default::default() }).unwrap();
    assert_eq!(text, "26 Jul 2024");
}

#[test]
fn a_template_for_tools_is_used_when_there_are_tools() {
    use nxd_models::chat::{ChatTemplate, Conversation};

    let template = ChatTemplate::new("plain".to_owned(), String::new(), Vec::new()).with_tools("tools".to_owned());
    let read = |tools| template.render(&Conversation { tools, ..Default::default() }).unwrap();
    assert_eq!(
        (read(None), read(Some(&[])), read(Some(&[json!({})]))),
        ("plain".into(), "plain".into(), "tools".into())
    );
}
