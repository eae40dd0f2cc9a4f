//! What transformers renders, from the golden folder.

use std::collections::BTreeMap;

use nxd_models::chat::{ChatError, ChatTemplate, Conversation};
use nxd_models::tokenizer::Tokenizer;
use serde_json::Value;

#[test]
fn golden_conversations_render_as_transformers_does() {
    let goldens = nxd_testkit::goldens();
    let rows: Value = serde_json::from_slice(&std::fs::read(goldens.join("chat/expected.json")).unwrap()).unwrap();
    let mut tokenizers: BTreeMap<String, Tokenizer> = BTreeMap::new();
    let mut checked = 0;
    for row in rows.as_array().unwrap() {
        let name = row["tokenizer"].as_str().unwrap();
        let tokenizer = tokenizers.entry(name.to_owned()).or_insert_with(|| {
            Tokenizer::from_dir(&goldens.join("tokenizers").join(name), usize::MAX).unwrap().unwrap()
        });
        let file = goldens.join("chat").join(format!("{}.jinja", row["template"].as_str().unwrap()));
        let source = std::fs::read_to_string(&file).unwrap();
        let from_file = ChatTemplate::new(source, file.display().to_string(), tokenizer.special_tokens().to_vec());
        let conversation = Conversation {
            messages: row["messages"].as_array().unwrap(),
            tools: row["tools"].as_array().map(Vec::as_slice),
            add_generation_prompt: row["add_generation_prompt"].as_bool().unwrap(),
            extra: row["extra"].as_object().unwrap().clone(),
            now: None,
        };
        let what = format!("{name}, {}, {}", row["template"], row["chat"]);
        for template in [tokenizer.chat_template().unwrap(), &from_file] {
            match (template.render(&conversation), row["text"].as_str()) {
                (Ok(text), Some(expected)) => {
                    assert_eq!(text, expected, "{what}");
                    let ids: Vec<u64> = tokenizer.encode(&text, false).unwrap().into_iter().map(u64::from).collect();
                    assert_eq!(Value::from(ids), row["ids"], "{what}");
                }
                (Err(ChatError::Raised(message)), None) => {
                    assert_eq!(message, row["error"].as_str().unwrap(), "{what}")
                }
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
        checked += 1;
    }
    println!("{checked} conversations");
    assert!(checked > 0);
}
