//! The facade on golden checkpoints: text, streams, stop strings, many prompts, conversations, errors.
#![allow(clippy::unwrap_used, reason = "a test's own functions unwrap, too")]

use nxd::{
    Device, Dtype, Error, ErrorKind, FinishReason, GenerateOptions, KvDtype, LoadOptions, Message, Model, Prompt,
    SamplingParams,
};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn options() -> LoadOptions {
    LoadOptions { threads: Some(2), kv_cache_memory_bytes: Some(32 << 20), ..LoadOptions::default() }
}

/// Golden models, those with a tokenizer or those without.
fn folders(with_tokenizer: bool) -> Vec<PathBuf> {
    let wanted = |dir: &PathBuf| {
        let has = |name: &str| dir.join(name).exists();
        has("config.json") && has("expected.json") && has("tokenizer.json") == with_tokenizer
    };
    let found: Vec<PathBuf> = nxd_testkit::folders(&nxd_testkit::goldens()).into_iter().filter(wanted).collect();
    assert!(!found.is_empty(), "no golden model of this kind");
    found
}

fn some_model() -> Model {
    let open = |dir: &PathBuf| Model::load(dir, options()).ok();
    folders(true).iter().find_map(open).expect("a golden model with a tokenizer")
}

fn max_tokens(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..GenerateOptions::default() }
}

#[test]
fn golden_models_write_the_same_text_streamed_alone_and_together() {
    let mut cases = 0;
    for dir in folders(true) {
        let model = match Model::load(&dir, options()) {
            Ok(model) => model,
            Err(error) => {
                println!("skipped {}: {error}", dir.display());
                continue;
            }
        };
        let prompts = ["The river", "12 + 30 =", "ça et là", "x"];
        let together = model.generate_many(prompts, max_tokens(24)).unwrap();
        for (prompt, shared) in prompts.into_iter().zip(&together) {
            let mut streamed = String::new();
            let alone = model
                .generate_stream(prompt, max_tokens(24), |text| {
                    streamed.push_str(text);
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(streamed, alone.text, "{}: {prompt}", dir.display());
            assert_eq!((&alone.tokens, &alone.text), (&shared.tokens, &shared.text), "{}: {prompt}", dir.display());
            assert_eq!(alone.prompt_tokens, model.hub().tokenizer().unwrap().encode(prompt, true).unwrap());
            assert_eq!((alone.steps, alone.max_batch, shared.max_batch), (24, 1, prompts.len()));
            assert!(alone.timing.prefill_s > 0.0 && alone.timing.tokens_per_s > 0.0);
        }
        cases += 1;
    }
    println!("{cases} golden cases ran");
    assert!(cases > 0);
}

#[test]
fn golden_models_without_a_tokenizer_take_ids_and_refuse_text() {
    let mut cases = 0;
    for dir in folders(false) {
        let Ok(model) = Model::load(&dir, options()) else { continue };
        let expected: Value = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let run = &expected["greedy"][0];
        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        let prompt = ids(&expected["prompts"][run["prompt"].as_u64().unwrap() as usize]);
        let f32_mode =
            LoadOptions { activations: nxd::Activations::F32, kv_cache_dtype: Some(KvDtype::F32), ..options() };
        let tokens = ids(&run["tokens"]);
        let completion = Model::load(&dir, f32_mode).unwrap().generate(prompt, max_tokens(tokens.len())).unwrap();
        assert_eq!((completion.tokens, completion.text.as_str()), (tokens, ""), "{}", dir.display());
        let error = model.generate("text", GenerateOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains("has no tokenizer files"), "{error}");
        cases += 1;
    }
    println!("{cases} golden cases ran");
    assert!(cases > 0);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let model = some_model();
    let whole = model.generate("The river", max_tokens(40)).unwrap();
    // A piece from the middle, longer than one token's text.
    let middle: Vec<char> = whole.text.chars().collect();
    let stop: String = middle[middle.len() / 2..][..4].iter().collect();
    let at = whole.text.find(&stop).unwrap();
    let mut streamed = String::new();
    let stopped = model
        .generate_stream("The river", GenerateOptions { stop: vec![stop], ..max_tokens(40) }, |text| {
            streamed.push_str(text);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((stopped.text.as_str(), stopped.finish_reason), (&whole.text[..at], FinishReason::Stop));
    assert_eq!(streamed, stopped.text);
    assert!(stopped.tokens.len() < whole.tokens.len() && whole.tokens.starts_with(&stopped.tokens));
}

#[test]
fn breaking_off_a_stream_aborts_the_request_and_the_model_goes_on() {
    let model = some_model();
    let mut pieces = 0;
    let completion = model
        .generate_stream("The river", max_tokens(40), |_| {
            pieces += 1;
            if pieces == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!((completion.tokens.len(), completion.finish_reason), (5, FinishReason::Abort));
    assert_eq!((completion.steps, completion.max_batch), (5, 1));

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        model.generate_stream("The river", max_tokens(40), |_| panic!("by the caller")).map(drop).unwrap()
    }));
    assert!(panicked.is_err());
    let after = model.generate("The river", max_tokens(5)).unwrap();
    assert_eq!((after.tokens, after.max_batch), (completion.tokens, 1));
}

#[test]
fn logprobs_stand_beside_each_token() {
    let model = some_model();
    let sampling = SamplingParams { temperature: 1.5, seed: 3, ..SamplingParams::default() };
    let completion =
        model.generate("The river", GenerateOptions { logprobs: Some(3), sampling, ..max_tokens(10) }).unwrap();
    let logprobs = completion.logprobs.unwrap();
    assert_eq!(logprobs.len(), completion.tokens.len());
    for (best, token) in logprobs.iter().zip(&completion.tokens) {
        assert!(best.len() == 3 || best.len() == 4 && best[3].id == *token);
        assert!(best.iter().any(|entry| entry.id == *token));
        assert!(best[0].logprob >= best[1].logprob && best[1].logprob >= best[2].logprob);
    }
}

#[test]
fn failed_prompts_say_which_and_why() {
    let model = some_model();
    let error = model.generate(vec![1, 2, 1 << 30], max_tokens(4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Request);
    assert!(error.to_string().starts_with("token id 1073741824 at index 2 of the prompt is outside"), "{error}");

    let prompts = vec![Prompt::Ids(vec![1]), Prompt::Ids(Vec::new())];
    let error = model.generate_many(prompts, max_tokens(4)).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Request, "prompt 2 of 2 failed"));
    assert!(matches!(error, Error::Prompt { index: 1, source, .. } if source.to_string().contains("no tokens")));

    let context = model.info().max_model_len;
    let error = model.generate(vec![1; context], max_tokens(4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Request);
    assert!(error.to_string().contains(&format!("the prompt has {context} tokens")), "{error}");
}

#[test]
fn models_that_cannot_be_loaded_say_whose_matter_it_is() {
    let error = Model::load("no/such/folder", options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Model);
    let dir = &folders(true)[0];
    let tiny = LoadOptions { kv_cache_memory_bytes: Some(1000), max_model_len: Some(64), ..options() };
    assert_eq!(Model::load(dir, tiny).err().unwrap().kind(), ErrorKind::Memory);
    let ranks = LoadOptions { tensor_parallel_size: 0, ..options() };
    assert_eq!(Model::load(dir, ranks).err().unwrap().kind(), ErrorKind::Distributed);
    let bf16 = LoadOptions { dtype: Some(Dtype::BF16), ..options() };
    let error = Model::load(dir, bf16).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Options);
    assert!(error.to_string().starts_with("--dtype bf16 on the device `cpu`: "), "{error}");
}

#[test]
fn a_device_without_its_library_is_an_error_that_names_it() {
    let device: Device = "pjrt:/no/such/plugin.so".parse().unwrap();
    let error = Model::load(&folders(true)[0], LoadOptions { device, ..options() }).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("/no/such/plugin.so"), "{text}");
    #[cfg(feature = "pjrt")]
    assert_eq!(error.kind(), ErrorKind::Model, "{text}");
    #[cfg(not(feature = "pjrt"))]
    assert_eq!((error.kind(), text.contains("cargo feature `pjrt`")), (ErrorKind::Options, true), "{text}");
}

#[test]
fn a_conversation_goes_through_the_models_template() {
    let source = folders(true).into_iter().find(|dir| Model::load(dir, options()).is_ok()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let messages = [Message::system("brief"), Message::user("hello")];
    let plain = without_template(copy.path());
    let error = plain.chat(&messages, max_tokens(4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Model);
    assert!(error.to_string().contains("has no chat template"), "{error}");

    let template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    std::fs::write(copy.path().join("chat_template.jinja"), template).unwrap();
    let model = Model::load(copy.path(), options()).unwrap();
    let text = "[system] brief\n[user] hello\n[assistant]";
    let expected = model.hub().tokenizer().unwrap().encode(text, false).unwrap();
    let completion = model.chat(&messages, max_tokens(4)).unwrap();
    assert_eq!((completion.prompt_tokens, completion.tokens.len()), (expected, 4));

    let refused =
        model.generate(Prompt::Messages(vec![json!({"role": "tool", "content": ""})]), max_tokens(4)).unwrap_err();
    assert_eq!((refused.kind(), refused.to_string().as_str()), (ErrorKind::Request, "no tools"));
}

/// The model in `dir`, whose folder loses its chat template.
fn without_template(dir: &Path) -> Model {
    let _ = std::fs::remove_file(dir.join("chat_template.jinja"));
    let config = dir.join("tokenizer_config.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&config, value.to_string()).unwrap();
    Model::load(dir, options()).unwrap()
}
