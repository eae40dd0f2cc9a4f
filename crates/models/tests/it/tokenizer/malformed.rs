//! Malformed files: each is an error that names file, field, what is there and what may be.

use std::path::Path;
use std::time::{Duration, Instant};

use nxd_models::Strings;
use nxd_models::tokenizer::{GgufVocab, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Asserts that the error says all of `parts`, sources included, and came at once.
fn expect<T>(result: impl FnOnce() -> Result<T, nxd_models::tokenizer::TokenizerError>, name: &str, parts: &[&str]) {
    let start = Instant::now();
    let Err(error) = result() else { panic!("{name}: loaded") };
    assert!(start.elapsed() < Duration::from_secs(2), "{name}: took {:?}", start.elapsed());
    let mut message = error.to_string();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(cause) = next {
        message = format!("{message}: {cause}");
        next = cause.source();
    }
    for part in parts {
        assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
    }
    assert!(message.len() < 2000, "{name}: message of {} bytes", message.len());
}

/// A small byte-level tokenizer that loads.
fn good() -> Value {
    json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        "added_tokens": [{ "id": 4, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 2, "Ġ": 3 }, "merges": [["a", "b"]] },
    })
}

/// `good()` with the value at `pointer` replaced.
fn with(pointer: &str, value: Value) -> Vec<u8> {
    let mut json = good();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    json.to_string().into_bytes()
}

fn load(files: &[(&str, &[u8])]) -> Result<Option<Tokenizer>, nxd_models::tokenizer::TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    Tokenizer::from_dir(dir.path(), 8)
}

#[test]
fn a_folder_without_tokenizer_is_none_and_a_good_one_loads() {
    assert!(load(&[("tokenizer_config.json", b"{}")]).unwrap().is_none());
    let tokenizer = load(&[("tokenizer.json", good().to_string().as_bytes())]).unwrap().unwrap();
    assert_eq!(tokenizer.encode("ab a<end>", true).unwrap(), [2, 3, 0, 4]);
    assert_eq!(tokenizer.vocab_size(), 5);
}

#[test]
fn a_bad_tokenizer_file_is_an_error_that_names_the_field() {
    let template = |special: Value| {
        json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }], "special_tokens": special })
    };
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", Vec::new(), &["not valid JSON"]),
        ("cut", good().to_string().into_bytes()[..90].to_vec(), &["not valid JSON", "line 1"]),
        ("not UTF-8", vec![b'"', 0xff, b'"'], &["not valid JSON"]),
        ("deep", deep, &["not valid JSON", "recursion"]),
        ("a list", b"[]".to_vec(), &["a list", "an object"]),
        ("no model", b"{}".to_vec(), &["`model`", "missing", "an object"]),
        ("unknown version", with("/version", json!("2.0")), &["2.0"]),
        ("unknown model", with("/model/type", json!("Magic")), &["`model.type`", "Magic", "BPE, Unigram"]),
        ("model of a number", with("/model/type", json!(7)), &["`model.type`", "7"]),
        ("no vocabulary", with("/model/vocab", json!({})), &["`model.merges[0]`", "0 tokens"]),
        ("id past the embedding", with("/model/vocab/b", json!(600)), &["`b`", "600", "8 rows"]),
        ("huge id", with("/model/vocab/b", json!(4_294_967_295_u64)), &["`b`", "4294967295", "8 rows"]),
        ("id of 2^40", with("/model/vocab/b", json!(1_u64 << 40)), &["`model.vocab.b`", "1099511627776"]),
        ("negative id", with("/model/vocab/b", json!(-1)), &["`model.vocab.b`", "-1"]),
        ("id twice", with("/model/vocab/b", json!(0)), &["`a`", "`b`", "same id"]),
        (
            "merge of unknown tokens",
            with("/model/merges/0", json!(["a", "zz"])),
            &["`model.merges[0]`", "`zz`", "4 tokens"],
        ),
        ("merge into an unknown token", with("/model/merges/0", json!(["b", "a"])), &["`model.merges[0]`", "`ba`"]),
        ("merge of long tokens", with("/model/merges/0", json!(["ab", "ab"])), &["`model.merges[0]`", "`abab`"]),
        ("merge of one part", with("/model/merges", json!(["ab"])), &["`model.merges[0]`", "two parts"]),
        ("added token past the embedding", with("/added_tokens/0/id", json!(4000)), &["`<end>`", "4000", "8 rows"]),
        ("added token elsewhere", with("/added_tokens/0/id", json!(6)), &["`added_tokens[0].id`", "6", "4"]),
        (
            "junk charsmap",
            with("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
            &["tokenizer.json"],
        ),
        (
            "null charsmap",
            with("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": null })),
            &["tokenizer.json"],
        ),
        ("template of an unknown token", with("/post_processor", template(json!({}))), &["tokenizer.json"]),
        (
            "template of an id that is no token",
            with(
                "/post_processor",
                template(json!({ "<s>": { "id": "<s>", "ids": [4_000_000_000_u64], "tokens": ["<s>"] } })),
            ),
            &["4000000000", "not a token"],
        ),
        (
            "bad expression",
            with(
                "/pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": "(a" }, "behavior": "Isolated", "invert": false }),
            ),
            &["tokenizer.json"],
        ),
        ("unknown decoder", with("/decoder/type", json!("Magic")), &["`decoder`", "Magic", "`ByteLevel`"]),
        (
            "decoder that no stream can follow",
            with("/decoder", json!({ "type": "CTC", "pad_token": "", "word_delimiter_token": "|", "cleanup": true })),
            &["`decoder`", "CTC"],
        ),
        (
            "decoder in a sequence",
            with(
                "/decoder",
                json!({ "type": "Sequence", "decoders": [{ "type": "Fuse" }, { "type": "ByteFallback" }] }),
            ),
            &["`decoder.decoders[1]`", "ByteFallback"],
        ),
        (
            "prefix inside words",
            {
                let mut json = good();
                json["model"]["continuing_subword_prefix"] = json!("##");
                json.to_string().into_bytes()
            },
            &["continuing_subword_prefix", "##"],
        ),
    ];
    for (name, bytes, parts) in cases {
        expect(|| load(&[("tokenizer.json", &bytes)]), name, parts);
        expect(|| load(&[("tokenizer.json", &bytes)]), name, &["tokenizer.json"]);
    }
}

#[test]
fn a_bad_config_is_an_error_that_names_the_field() {
    let tokenizer = good().to_string();
    let cases: [(&str, &str, &[&str]); 9] = [
        ("not JSON", "{", &["not valid JSON"]),
        ("a list", "[]", &["a list"]),
        ("bos not in the vocabulary", r#"{"bos_token": "<s>"}"#, &["`bos_token`", "`<s>`", "5 tokens"]),
        ("eos not in the vocabulary", r#"{"eos_token": {"content": "</s>"}}"#, &["`eos_token`", "`</s>`"]),
        ("eos of a number", r#"{"eos_token": 2}"#, &["`eos_token`", "a number", "a string"]),
        ("template of a number", r#"{"chat_template": 2}"#, &["`chat_template`", "a number"]),
        (
            "no default",
            r#"{"chat_template": [{"name": "tool_use", "template": ""}]}"#,
            &["`chat_template`", "`tool_use`", "`default`"],
        ),
        ("empty list", r#"{"chat_template": []}"#, &["`chat_template`", "`default`"]),
        ("unnamed", r#"{"chat_template": [{"template": ""}]}"#, &["`chat_template[0]`", "`name`"]),
    ];
    for (name, config, parts) in cases {
        let files = [("tokenizer.json", tokenizer.as_bytes()), ("tokenizer_config.json", config.as_bytes())];
        expect(|| load(&files), name, parts);
        expect(|| load(&files), name, &["tokenizer_config.json"]);
    }
    let files: [(&str, &[u8]); 2] = [("tokenizer.json", tokenizer.as_bytes()), ("chat_template.jinja", &[0xff])];
    expect(|| load(&files), "template not UTF-8", &["chat_template.jinja", "UTF-8"]);
}

#[test]
fn a_broken_template_does_not_keep_the_tokenizer_from_loading() {
    let tokenizer = good().to_string();
    let config: &[u8] = br#"{"eos_token": "<end>", "chat_template": [{"name": "default", "template": "{% if %}"}, {"name": "tool_use", "template": "t"}]}"#;
    let files = [("tokenizer.json", tokenizer.as_bytes()), ("tokenizer_config.json", config)];
    let loaded = load(&files).unwrap().unwrap();
    let template = loaded.chat_template().unwrap();
    let message = template.render(&Default::default()).unwrap_err().to_string();
    assert!(message.contains("tokenizer_config.json") && message.contains("`chat_template`"), "{message}");
    assert_eq!(loaded.eos(), Some(4));

    // A file of its own wins over the field.
    let files = [files[0], files[1], ("chat_template.jinja", b"{{ eos_token }}!".as_slice())];
    let loaded = load(&files).unwrap().unwrap();
    assert_eq!(loaded.chat_template().unwrap().render(&Default::default()).unwrap(), "<end>!");
}

#[cfg(unix)]
#[test]
fn a_folder_or_device_in_place_of_a_file_is_an_error_and_no_hang() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    expect(|| Tokenizer::from_dir(dir.path(), 8), "folder", &["tokenizer.json", "a folder", "regular file"]);
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("tokenizer.json")).unwrap();
    expect(|| Tokenizer::from_dir(dir.path(), 8), "device", &["tokenizer.json", "device", "regular file"]);
}

#[test]
fn padding_and_truncation_are_not_followed() {
    let mut json = good();
    json["truncation"] = json!({ "max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right" });
    json["padding"] = json!({ "strategy": { "Fixed": 1_u64 << 40 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a" });
    let tokenizer = load(&[("tokenizer.json", json.to_string().as_bytes())]).unwrap().unwrap();
    assert_eq!(tokenizer.encode("ab ab", true).unwrap(), [2, 3, 2]);
}

#[test]
fn an_image_placeholder_without_an_embedding_row_is_left_out() {
    let mut json = good();
    let mut token = json["added_tokens"][0].clone();
    (token["id"], token["content"]) = (json!(5), json!("<image_soft_token>"));
    json["added_tokens"].as_array_mut().unwrap().push(token);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let load = |rows| Tokenizer::from_dir(dir.path(), rows).unwrap().unwrap();
    assert_eq!((load(5).vocab_size(), load(6).vocab_size()), (5, 6));
}

#[test]
fn an_expression_that_backtracks_without_end_is_bounded() {
    let split = json!({ "type": "Split", "pattern": { "Regex": "(?=(a+))(\\1*)*\\1c" }, "behavior": "Isolated", "invert": false });
    for pattern in ["(a+)+$", "(?:a|a)*(?!a)c", "(a+)+(?!a)c"] {
        let mut split = split.clone();
        split["pattern"]["Regex"] = json!(pattern);
        let json = {
            let mut json = good();
            json["pre_tokenizer"] = split;
            json.to_string()
        };
        let tokenizer = load(&[("tokenizer.json", json.as_bytes())]).unwrap().unwrap();
        let start = Instant::now();
        let _ = tokenizer.encode(&("a".repeat(5000) + "b"), false);
        assert!(start.elapsed() < Duration::from_secs(2), "{pattern}: {:?}", start.elapsed());
    }
}

fn vocab() -> GgufVocab {
    GgufVocab {
        model: "llama".to_owned(),
        tokens: ["<unk>", "<s>", "</s>", "<0x41>", "a", "b", "ab", "\u{2581}"].iter().collect(),
        scores: vec![0.0, 0.0, 0.0, 0.0, -3.0, -4.0, -1.0, -2.0],
        token_types: vec![2, 3, 3, 6, 1, 1, 1, 1],
        bos: Some(1),
        eos: Some(2),
        ..GgufVocab::default()
    }
}

/// Gives the token `id` another text.
fn replace(vocab: &mut GgufVocab, id: usize, text: &str) {
    vocab.tokens = vocab.tokens.iter().enumerate().map(|(i, old)| if i == id { text } else { old }).collect();
}

#[test]
fn a_bad_gguf_vocabulary_is_an_error_that_names_the_key() {
    let file = Path::new("dir/model.gguf");
    let load = |change: &dyn Fn(&mut GgufVocab)| {
        let mut vocab = vocab();
        change(&mut vocab);
        Tokenizer::from_gguf(vocab, file, 8)
    };
    assert_eq!(load(&|_| {}).unwrap().encode("ab", true).unwrap(), [1, 7, 6]);

    type Change<'c> = &'c dyn Fn(&mut GgufVocab);
    let cases: Vec<(&str, Change<'_>, &[&str])> = vec![
        (
            "unknown model",
            &|v| v.model = "rwkv".to_owned(),
            &["`tokenizer.ggml.model`", "`rwkv`", "`gpt2`, `llama` or `t5`"],
        ),
        ("no tokens", &|v| v.tokens = Strings::default(), &["`tokenizer.ggml.tokens`", "0", "at least one"]),
        (
            "one token and eos of 2^32 - 1",
            &|v| {
                *v = GgufVocab {
                    tokens: ["a"].iter().collect(),
                    scores: vec![0.0],
                    token_types: vec![1],
                    eos: Some(u32::MAX),
                    bos: None,
                    ..v.clone()
                }
            },
            &["`tokenizer.ggml.eos_token_id`", "4294967295", "1 token"],
        ),
        ("bos past the end", &|v| v.bos = Some(8), &["`tokenizer.ggml.bos_token_id`", "8"]),
        ("unknown past the end", &|v| v.unk = Some(99), &["`tokenizer.ggml.unknown_token_id`", "99"]),
        (
            "more tokens than rows",
            &|v| {
                v.tokens.push("c");
                v.scores.push(0.0);
                v.token_types.push(1)
            },
            &["`tokenizer.ggml.tokens`", "9", "8"],
        ),
        (
            "short scores",
            &|v| {
                v.scores.pop();
            },
            &["`tokenizer.ggml.scores`", "7", "8"],
        ),
        ("no scores", &|v| v.scores.clear(), &["`tokenizer.ggml.scores`", "0", "8"]),
        (
            "short types",
            &|v| {
                v.token_types.pop();
            },
            &["`tokenizer.ggml.token_type`", "7", "8"],
        ),
        ("score that is not a number", &|v| v.scores[4] = f32::NAN, &["`tokenizer.ggml.scores[4]`", "not finite"]),
        ("unknown type", &|v| v.token_types[5] = 77, &["`tokenizer.ggml.token_type[5]`", "77", "1 to 6"]),
        ("text twice", &|v| replace(v, 5, "a"), &["tokenizer.ggml.tokens[4]", "[5]", "same text"]),
        ("byte of -1", &|v| replace(v, 3, "<0x-1>"), &["`tokenizer.ggml.tokens[3]`", "`<0x-1>`", "`<0xFF>`"]),
        ("byte of letters", &|v| replace(v, 3, "<0xGG>"), &["`<0xGG>`"]),
        ("byte of nothing", &|v| replace(v, 3, "<0x>"), &["`<0x>`"]),
        (
            "merge of one part",
            &|v| v.merges = ["ab"].iter().collect(),
            &["`tokenizer.ggml.merges[0]`", "`ab`", "two parts"],
        ),
        (
            "merge of an unknown token",
            &|v| v.merges = ["a b", "a zz"].iter().collect(),
            &["`tokenizer.ggml.merges[1]`", "`zz`", "8 tokens"],
        ),
        (
            "merge into an unknown token",
            &|v| v.merges = ["b a"].iter().collect(),
            &["`tokenizer.ggml.merges[0]`", "`ba`"],
        ),
        (
            "ten million merges",
            &|v| v.merges = std::iter::repeat_n("", 10_000_000).collect(),
            &["`tokenizer.ggml.merges`", "10000000", "128"],
        ),
        (
            "endless piece",
            &|v| replace(v, 6, &"a".repeat(1 << 20)),
            &["`tokenizer.ggml.tokens[6]`", "1048576 bytes", "1024"],
        ),
        (
            "bos asked for but not named",
            &|v| (v.bos, v.add_bos) = (None, Some(true)),
            &["`tokenizer.ggml.bos_token_id`", "missing", "add_bos_token"],
        ),
        (
            "unknown cut",
            &|v| {
                v.model = "gpt2".to_owned();
                v.pre = Some("martian".to_owned())
            },
            &["`tokenizer.ggml.pre`", "`martian`", "`llama-bpe`", "`smollm`"],
        ),
        (
            "unigram without unknown",
            &|v| {
                v.model = "t5".to_owned();
                v.token_types[0] = 1
            },
            &["`tokenizer.ggml.unknown_token_id`", "missing"],
        ),
        (
            "junk normalisation table",
            &|v| {
                v.model = "t5".to_owned();
                v.precompiled_charsmap = vec![1, 2, 3]
            },
            &["malformed"],
        ),
    ];
    for (name, change, parts) in cases {
        expect(|| load(change), name, parts);
        expect(|| load(change), name, &["dir/model.gguf"]);
    }
}

#[test]
fn a_gguf_token_without_text_leaves_a_gap() {
    let mut vocab = vocab();
    replace(&mut vocab, 5, "");
    let tokenizer = Tokenizer::from_gguf(vocab, Path::new("m.gguf"), 8).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_bytes(5)), (8, b"".as_slice()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_tokenizer_file_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
        sentence_pieces in any::<bool>(),
    ) {
        let mut bytes = if sentence_pieces { pieces() } else { good() }.to_string().into_bytes();
        for (place, byte, kind) in changes {
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, b"0123456789\"[]{},:-"[usize::from(byte) % 18]),
                _ => { bytes.remove(place); }
            }
        }
        if let Ok(Some(tokenizer)) = load(&[("tokenizer.json", &bytes)]) {
            let ids = tokenizer.encode("ab a<end> \u{e9}A\u{1f44d}", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }

    #[test]
    fn any_gguf_vocabulary_loads_or_is_an_error(
        tokens in proptest::collection::vec("[ab\u{2581}<0xF> ]{0,4}", 0..8),
        types in proptest::collection::vec(0..8i32, 8),
        scores in proptest::collection::vec(-3.0..3.0f32, 8),
        merges in proptest::collection::vec("[ab ]{0,4}", 0..4),
        model in 0..3usize,
        special in proptest::option::of(0..9u32),
    ) {
        let size = tokens.len();
        let vocab = GgufVocab {
            model: ["gpt2", "llama", "t5"][model].to_owned(),
            tokens: tokens.iter().collect(), merges: merges.iter().collect(), scores: scores[..size].to_vec(), token_types: types[..size].to_vec(),
            bos: special, unk: special, add_eos: Some(true),
            ..GgufVocab::default()
        };
        if let Ok(tokenizer) = Tokenizer::from_gguf(vocab, Path::new("m.gguf"), 8) {
            let ids = tokenizer.encode("ab \u{e9}", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }
}

/// A small tokenizer with byte fallback that loads.
fn pieces() -> Value {
    json!({
        "version": "1.0", "post_processor": null, "pre_tokenizer": null,
        "added_tokens": [{ "id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "\u{2581}" }, { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }] },
        "decoder": { "type": "Sequence", "decoders": [{ "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": { "<unk>": 0, "<0x41>": 1, "a": 2, "b": 3, "ab": 4, "\u{2581}": 5 }, "merges": [["a", "b"]] },
    })
}
