//! What `tokenizers` and transformers give, from the golden folders.

use nxd_models::tokenizer::Tokenizer;
use serde_json::Value;

use super::{cases, ids, load, read};

/// Checks one tokenizer against an `expected.json`; the number of checked texts and sequences.
pub(super) fn check(tokenizer: &Tokenizer, expected: &Value, name: &str) -> usize {
    let mut checked = 0;
    for case in expected["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let all = ids(&case["ids"]);
        let plain = ids(&case["ids_no_special"]);
        assert_eq!(tokenizer.encode(text, true).unwrap(), all, "{name}: {text:?} with special tokens");
        assert_eq!(tokenizer.encode(text, false).unwrap(), plain, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&all, false), case["decoded"].as_str().unwrap(), "{name}: {text:?} decoded");
        let skipped = case["decoded_skip_special"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&all, true), skipped, "{name}: {text:?} decoded without special tokens");
        let mut stream = tokenizer.stream(false);
        for (place, (id, chunk)) in plain.iter().zip(case["stream_chunks"].as_array().unwrap()).enumerate() {
            let piece = stream.push(*id);
            assert_eq!(piece, chunk.as_str().unwrap_or(""), "{name}: {text:?}, piece {place}");
        }
        assert_eq!(stream.finish(), "", "{name}: {text:?}");
        checked += 1;
    }
    for case in expected["decode_random"].as_array().unwrap() {
        let sequence = ids(&case["ids"]);
        assert_eq!(tokenizer.decode(&sequence, false), case["decoded"].as_str().unwrap(), "{name}: {sequence:?}");
        let skipped = case["decoded_skip_special"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&sequence, true), skipped, "{name}: {sequence:?} without special tokens");
        checked += 1;
    }
    checked
}

#[test]
fn golden_tokenizers_encode_decode_and_stream_as_expected() {
    let mut checked = 0;
    let cases = cases();
    for dir in &cases {
        let tokenizer = load(dir);
        let expected = read(&dir.join("expected.json"));
        assert_eq!(tokenizer.vocab_size() as u64, expected["vocab_size"].as_u64().unwrap(), "{}", dir.display());
        checked += check(&tokenizer, &expected, &dir.display().to_string());
    }
    println!("{} tokenizers, {checked} texts and sequences", cases.len());
    assert!(checked > 0);
}

#[test]
fn golden_special_tokens_are_those_of_the_config() {
    for dir in cases() {
        let tokenizer = load(&dir);
        let config = read(&dir.join("tokenizer_config.json"));
        let id = |role: &str| config[role].as_str().map(|text| tokenizer.token_id(text).unwrap());
        assert_eq!(tokenizer.bos(), id("bos_token"), "{}", dir.display());
        assert_eq!(tokenizer.eos(), id("eos_token"), "{}", dir.display());
        for (role, text) in tokenizer.special_tokens() {
            assert_eq!(config[role.as_str()].as_str(), Some(text.as_str()));
            let id = tokenizer.token_id(text).unwrap();
            assert!(tokenizer.is_special(id) && tokenizer.token_bytes(id) == text.as_bytes());
        }
        assert_eq!(tokenizer.chat_template().unwrap().text(), config["chat_template"].as_str().unwrap());
    }
}
