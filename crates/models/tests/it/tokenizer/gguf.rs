//! The golden vocabularies written as GGUF metadata must give the same ids and the same text.

use nxd_models::Strings;
use nxd_models::tokenizer::{GgufVocab, Tokenizer};
use serde_json::Value;

use super::{cases, golden, read};

const FILE: &str = "model.gguf";

/// The GGUF name of how a `tokenizer.json` cuts words, known by its expressions.
fn pre_name(json: &Value) -> Option<&'static str> {
    let cuts = json["pre_tokenizer"].to_string();
    Some(if cuts.contains("[A-Za-z]+|") {
        "deepseek-v3"
    } else if cuts.contains(r"\\p{Lu}") {
        "gpt-4o"
    } else if cuts.contains(r"\\p{N}{1,3}") {
        "llama-bpe"
    } else if cuts.contains(r"|\\p{N}|") {
        "qwen2"
    } else if json["pre_tokenizer"]["type"] == "ByteLevel" {
        "gpt-2"
    } else {
        return None;
    })
}

/// What a converter would write for this `tokenizer.json`.
fn vocab(json: &Value, config: &Value) -> GgufVocab {
    let model = &json["model"];
    let mut tokens: Vec<(u64, String, f32)> = match &model["vocab"] {
        Value::Object(vocab) => vocab
            .iter()
            .map(|(text, id)| (id.as_u64().unwrap(), text.clone(), -(id.as_u64().unwrap() as f32)))
            .collect(),
        list => list
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(id, pair)| (id as u64, pair[0].as_str().unwrap().to_owned(), pair[1].as_f64().unwrap() as f32))
            .collect(),
    };
    let added = json["added_tokens"].as_array().unwrap();
    for token in added {
        let id = token["id"].as_u64().unwrap();
        if tokens.iter().all(|(other, ..)| *other != id) {
            tokens.push((id, token["content"].as_str().unwrap().to_owned(), 0.0));
        }
    }
    tokens.sort_by_key(|(id, ..)| *id);
    let kind = |id: u64, text: &str| {
        let unknown = model["unk_token"].as_str() == Some(text) || model["unk_id"].as_u64() == Some(id);
        let special = added.iter().any(|token| token["id"].as_u64() == Some(id));
        let byte = model["byte_fallback"] == Value::Bool(true) && text.len() == 6 && text.starts_with("<0x");
        if unknown {
            2
        } else if special {
            3
        } else if byte {
            6
        } else {
            1
        }
    };
    let post = json["post_processor"].to_string();
    let adds = |role: &str| config[role].as_str().is_some_and(|text| post.contains(&Value::from(text).to_string()));
    let id = |role: &str| {
        let text = config[role].as_str()?;
        tokens.iter().position(|(_, token, _)| token == text).map(|id| id as u32)
    };
    let byte_level = json["decoder"]["type"] == "ByteLevel";
    let unigram = model["type"] == "Unigram";
    GgufVocab {
        model: if unigram {
            "t5"
        } else if byte_level {
            "gpt2"
        } else {
            "llama"
        }
        .to_owned(),
        pre: if byte_level { pre_name(json).map(str::to_owned) } else { None },
        token_types: tokens.iter().map(|(id, text, _)| kind(*id, text)).collect(),
        scores: if byte_level { Vec::new() } else { tokens.iter().map(|(.., score)| *score).collect() },
        merges: match model["merges"].as_array() {
            Some(merges) if byte_level => {
                merges.iter().map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect()
            }
            _ => Strings::default(),
        },
        bos: id("bos_token"),
        eos: id("eos_token"),
        unk: id("unk_token"),
        pad: id("pad_token"),
        add_bos: Some(adds("bos_token")),
        add_eos: Some(adds("eos_token")),
        add_space_prefix: (!byte_level).then(|| json["normalizer"].to_string().contains("Prepend") || unigram),
        chat_template: config["chat_template"].as_str().map(str::to_owned),
        tokens: tokens.into_iter().map(|(_, text, _)| text).collect(),
        ..GgufVocab::default()
    }
}

/// Checks the ids of texts that SentencePiece's normalisation leaves alone: GGUF keeps it as a table, which these files, made
/// without one, do not have.
fn check_plain_texts(tokenizer: &Tokenizer, expected: &Value, name: &str) -> usize {
    let mut checked = 0;
    for case in expected["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        if text.is_ascii() && !text.contains("  ") {
            assert_eq!(tokenizer.encode(text, true).unwrap(), super::ids(&case["ids"]), "{name}: {text:?}");
            checked += 1;
        }
    }
    checked
}

#[test]
fn golden_vocabularies_by_way_of_gguf_give_the_same_ids_and_text() {
    let mut checked = 0;
    let cases = cases();
    for dir in &cases {
        let json = read(&dir.join("tokenizer.json"));
        let vocab = vocab(&json, &read(&dir.join("tokenizer_config.json")));
        let rows = vocab.tokens.len();
        let unigram = vocab.model == "t5";
        if vocab.model == "gpt2" && vocab.pre.is_none() {
            println!("skipped: {} cuts words in a way that has no GGUF name here", dir.display());
            continue;
        }
        let tokenizer = Tokenizer::from_gguf(vocab, FILE.as_ref(), rows).unwrap();
        let expected = read(&dir.join("expected.json"));
        let name = format!("{} as GGUF", dir.display());
        checked += match unigram {
            true => check_plain_texts(&tokenizer, &expected, &name),
            false => golden::check(&tokenizer, &expected, &name),
        };
    }
    println!("{checked} texts and sequences");
    assert!(checked > 0);
}

#[test]
fn smollm_cuts_digits_one_by_one() {
    let tokens = ["1", "2", "12", "a", "b", "ab", "<|endoftext|>"].iter().collect();
    let vocab = GgufVocab {
        model: "gpt2".to_owned(),
        pre: Some("smollm".to_owned()),
        token_types: vec![1, 1, 1, 1, 1, 1, 3],
        merges: ["1 2", "a b"].iter().collect(),
        tokens,
        ..GgufVocab::default()
    };
    let tokenizer = Tokenizer::from_gguf(vocab, FILE.as_ref(), 7).unwrap();
    assert_eq!(tokenizer.encode("12ab<|endoftext|>", true).unwrap(), [0, 1, 5, 6]);
}

#[test]
fn a_missing_add_bos_follows_the_kind_of_vocabulary() {
    let vocab = |model: &str, pre: Option<&str>| GgufVocab {
        model: model.to_owned(),
        pre: pre.map(str::to_owned),
        tokens: ["<unk>", "<s>", "</s>", "a", "\u{2581}", "\u{2581}a"].iter().collect(),
        token_types: vec![2, 3, 3, 1, 1, 1],
        scores: vec![0.0, 0.0, 0.0, -3.0, -2.0, -1.0],
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    for (model, pre, ids) in [
        ("llama", None, vec![1, 5]),
        ("gpt2", Some("llama-bpe"), vec![1, 3]),
        ("gpt2", Some("gpt-2"), vec![3]),
        ("t5", None, vec![5, 2]),
    ] {
        let tokenizer = Tokenizer::from_gguf(vocab(model, pre), FILE.as_ref(), 6).unwrap();
        assert_eq!(tokenizer.encode("a", true).unwrap(), ids, "{model} {pre:?}");
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    }
}
