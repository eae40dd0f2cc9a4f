//! What becomes of requests: refusals, ends, fairness, statistics, and golden continuations.

use crate::recorder::{Recorder, load, models};
use nxd_engine::{Engine, EngineOptions, FinishReason, Output, Request, RequestId, SamplingParams};
use nxd_executor::{Activations, ExecutorOptions, KvDtype, KvOptions};
use nxd_models::{LoadMode, Model};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn options() -> ExecutorOptions {
    let kv = KvOptions {
        block_size: 16,
        dtype: KvDtype::F32,
        budget_bytes: 64 << 20,
        max_model_len: None,
        max_num_seqs: 8,
        max_num_batched_tokens: 128,
    };
    ExecutorOptions { threads: 1, activations: Activations::F32, kv, ..ExecutorOptions::default() }
}

/// An engine over the first golden model that attends to everything and does not tie its embedding.
fn engine(limits: EngineOptions, num_blocks: usize) -> Engine {
    let (dir, model) = plain_model();
    let (recorder, _) = Recorder::new(load(&dir, &model, &options()), |_, _| num_blocks);
    Engine::new(Box::new(recorder), limits)
}

fn plain_model() -> (std::path::PathBuf, Model) {
    let plain = |(dir, model): &(std::path::PathBuf, Model)| {
        dir.join("model.safetensors").exists()
            && model.family() == "llama"
            && !model.spec().head.tied
            && model.spec().layers.iter().all(|layer| layer.attention.window.is_none())
            && model.spec().max_position_embeddings >= 256
    };
    models().into_iter().find(plain).expect("a plain golden model")
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), max_tokens: Some(max_tokens), ..Request::default() }
}

/// Steps until all requests have ended; gives each one's tokens and last output.
fn finish(engine: &mut Engine) -> BTreeMap<RequestId, (Vec<u32>, Output)> {
    let mut all: BTreeMap<RequestId, (Vec<u32>, Option<Output>)> = BTreeMap::new();
    for _ in 0..10_000 {
        for output in engine.step().unwrap() {
            let (tokens, last) = all.entry(output.id).or_default();
            assert!(last.as_ref().is_none_or(|last: &Output| last.finished.is_none()), "an output after the last one");
            tokens.extend(output.token);
            *last = Some(output);
        }
        if !engine.has_work() {
            assert_eq!(engine.kv_blocks().0, 0);
            return all.into_iter().map(|(id, (tokens, last))| (id, (tokens, last.unwrap()))).collect();
        }
    }
    panic!("the engine does not get on")
}

#[test]
fn requests_that_cannot_be_served_are_refused_with_the_reason() {
    let mut engine = engine(EngineOptions::default(), 4);
    let context = engine.info().max_model_len;
    let vocab_size = engine.info().vocab_size;
    let mut refused = |request: Request| engine.add_request(request).unwrap_err().to_string();
    assert_eq!(
        refused(request(&[], 1)),
        "the prompt has no tokens and the model has no token that starts a text; give a prompt of at least one token"
    );
    assert_eq!(
        refused(request(&vec![1; context], 1)),
        format!(
            "the prompt has {context} tokens, the context holds {context} together with at least one generated token; shorten the prompt or raise --max-model-len"
        )
    );
    assert_eq!(
        refused(request(&[1, 2, vocab_size as u32], 1)),
        format!("token id {vocab_size} at index 2 of the prompt is outside the vocabulary of {vocab_size} tokens")
    );
    assert_eq!(refused(request(&[1], 0)), "max_tokens is 0; ask for at least one token");
    let params = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
    assert_eq!(
        refused(Request { params, ..request(&[1], 1) }),
        "sampling parameter `temperature` is NaN; a number from 0 up is allowed"
    );
    assert_eq!(
        refused(request(&[1; 40], 26)),
        "the request needs 5 KV blocks for 65 tokens, the cache has 4; ask for fewer tokens or raise --kv-cache-memory"
    );
    assert!(!engine.has_work());
    engine.add_request(request(&[1; 40], 25)).unwrap();
    assert_eq!(finish(&mut engine).len(), 1);
}

#[test]
fn a_request_ends_at_its_stop_id_or_its_length_and_at_the_context_at_the_latest() {
    let mut engine = engine(EngineOptions::default(), 1000);
    let context = engine.info().max_model_len;
    engine.add_request(request(&[3, 4, 5], 8)).unwrap();
    let (tokens, last) = finish(&mut engine).pop_first().unwrap().1;
    assert_eq!((tokens.len(), last.finished.unwrap().reason), (8, FinishReason::Length));

    let stop = tokens[4];
    let before = tokens.iter().position(|&t| t == stop).unwrap();
    engine.add_request(Request { stop_ids: vec![stop], ..request(&[3, 4, 5], 8) }).unwrap();
    let (stopped, last) = finish(&mut engine).pop_first().unwrap().1;
    assert_eq!((&stopped[..], last.finished.unwrap().reason), (&tokens[..=before], FinishReason::Stop));

    engine.add_request(Request { max_tokens: None, ..request(&vec![7; context - 3], 1) }).unwrap();
    let (tokens, last) = finish(&mut engine).pop_first().unwrap().1;
    assert_eq!((tokens.len(), last.finished.unwrap().reason), (3, FinishReason::Length));
}

#[test]
fn a_running_request_gets_a_token_of_every_step_while_a_long_prompt_is_computed() {
    let mut engine =
        engine(EngineOptions { max_num_seqs: 4, max_num_batched_tokens: 8, ..EngineOptions::default() }, 1000);
    let running = engine.add_request(request(&[1, 2, 3], 60)).unwrap();
    assert_eq!(engine.step().unwrap().len(), 1);
    let long = engine.add_request(request(&[9; 70], 4)).unwrap();
    // Seven tokens a step: the first token comes with the tenth step.
    for step in 1..=10 {
        let outputs = engine.step().unwrap();
        assert_eq!(outputs[0].id, running);
        assert_eq!(outputs.iter().any(|output| output.id == long), step == 10, "step {step}");
    }
    let ends = finish(&mut engine);
    let stats = |id| ends[&id].1.finished.unwrap().stats;
    assert_eq!((stats(running).steps, stats(running).max_batch), (60, 2));
    assert_eq!((stats(long).steps, stats(long).max_batch), (13, 2));
}

#[test]
fn an_abort_frees_blocks_at_once_and_leaves_others_alone() {
    let mut engine = engine(EngineOptions::default(), 1000);
    let kept = engine.add_request(request(&[1, 2, 3], 10)).unwrap();
    let gone = engine.add_request(request(&[4; 40], 10)).unwrap();
    let never_ran = engine.add_request(request(&[4; 40], 10)).unwrap();
    engine.abort(never_ran).unwrap();
    engine.step().unwrap();
    assert_eq!(engine.kv_blocks().0, engine.info().kv_groups.len() * 4);
    let finished = engine.abort(gone).unwrap();
    assert_eq!((finished.reason, finished.stats.steps), (FinishReason::Abort, 1));
    assert_eq!(engine.abort(gone), None);
    assert_eq!(engine.kv_blocks().0, engine.info().kv_groups.len());
    assert_eq!(finish(&mut engine)[&kept].0.len(), 9);
}

#[test]
fn presence_penalties_look_at_generated_tokens_alone() {
    let mut engine = engine(EngineOptions::default(), 1000);
    let mut tokens_with = |presence_penalty| {
        let params = SamplingParams { presence_penalty, ..SamplingParams::default() };
        // More than half of the vocabulary stands in the prompt.
        let prompt: Vec<u32> = (0..engine.info().vocab_size as u32 * 3 / 5).collect();
        engine.add_request(Request { params, choice: presence_penalty as i32 as u32, ..request(&prompt, 6) }).unwrap();
        finish(&mut engine).pop_first().unwrap().1.0
    };
    let (plain, rewarded, punished) = (tokens_with(0.0), tokens_with(-1e4), tokens_with(1e4));
    assert_eq!((rewarded[0], punished[0]), (plain[0], plain[0]), "the prompt counts as generated");
    assert!(rewarded.iter().all(|&token| token == plain[0]));
    let distinct: std::collections::BTreeSet<_> = punished.iter().collect();
    assert_eq!(distinct.len(), punished.len());
}

#[test]
fn when_blocks_run_out_the_newest_request_is_preempted_and_goes_on_to_the_same_tokens() {
    let requests = [1, 2, 3].map(|id| Request { choice: id, ..request(&[id; 15], 60) });
    let windows = |model: &Model| model.spec().layers.iter().filter(|layer| layer.attention.window.is_some()).count();
    let all_models = models();
    let windowed = all_models.iter().find(|(_, model)| windows(model) == model.spec().layers.len());
    let (plain_dir, plain) = plain_model();
    // A window of 16 tokens needs two blocks at most, a whole request five.
    for (dir, model, tight_blocks) in
        [(&plain_dir, &plain, 6)].into_iter().chain(windowed.map(|(dir, model)| (dir, model, 3)))
    {
        let run = |num_blocks| {
            let (recorder, bits) = Recorder::new(load(dir, model, &options()), |_, _| num_blocks);
            let mut engine = Engine::new(Box::new(recorder), EngineOptions::default());
            for request in &requests {
                engine.add_request(request.clone()).unwrap();
            }
            let ends = finish(&mut engine);
            let preemptions: Vec<usize> =
                ends.values().map(|(_, last)| last.finished.unwrap().stats.preemptions).collect();
            let tokens: Vec<Vec<u32>> = ends.into_values().map(|(tokens, _)| tokens).collect();
            let bits = std::mem::take(&mut *bits.lock().unwrap());
            (preemptions, tokens, bits)
        };
        let (roomy, tight) = (run(1000), run(tight_blocks));
        assert_eq!(roomy.0, [0, 0, 0]);
        assert_eq!(tight.0[0], 0, "the oldest is never preempted");
        assert!(tight.0.iter().sum::<usize>() > 1, "{}: {:?}", dir.display(), tight.0);
        assert_eq!(roomy.1, tight.1, "{}", dir.display());
        assert!(roomy.2 == tight.2, "{}: logits differ", dir.display());
    }
}

#[test]
fn logits_that_become_nan_end_that_request_alone() {
    let (dir, _) = plain_model();
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let poison = 5;
    poison_embedding(&copy.path().join("model.safetensors"), poison);

    let sound = [8, 9, 10];
    let alone = {
        let mut engine = engine(EngineOptions::default(), 4);
        engine.add_request(request(&sound, 12)).unwrap();
        finish(&mut engine).pop_first().unwrap().1.0
    };
    let poisoned = Model::open(copy.path(), LoadMode::default()).unwrap();
    let (recorder, _) = Recorder::new(load(copy.path(), &poisoned, &options()), |_, _| 4);
    let mut engine = Engine::new(Box::new(recorder), EngineOptions::default());
    let bad = engine.add_request(request(&[8, poison, 10], 12)).unwrap();
    let good = engine.add_request(Request { choice: 1, ..request(&sound, 12) }).unwrap();
    let ends = finish(&mut engine);
    assert_eq!((ends[&bad].0.len(), ends[&bad].1.finished.unwrap().reason), (0, FinishReason::NotFinite));
    assert_eq!(ends[&good].0, alone, "a neighbour is disturbed");

    // The poisoned keys and values lie in blocks that later requests get; the recorder compares the bits, too.
    for _ in 0..4 {
        engine.add_request(Request { choice: 1, ..request(&sound, 12) }).unwrap();
    }
    for (tokens, _) in finish(&mut engine).values() {
        assert_eq!(*tokens, alone, "a successor is disturbed");
    }
}

/// Makes the embedding of token `id` NaN.
fn poison_embedding(file: &Path, id: u32) {
    let mut bytes = std::fs::read(file).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let entry = &header["model.embed_tokens.weight"];
    let offset = |end: usize| entry["data_offsets"][end].as_u64().unwrap() as usize;
    let row_bytes = (offset(1) - offset(0)) / entry["shape"][0].as_u64().unwrap() as usize;
    let row = 8 + header_len + offset(0) + id as usize * row_bytes;
    // All bits set is a NaN in each of the float types.
    bytes[row..row + row_bytes].fill(0xff);
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn golden_continuations_are_the_same_in_one_batch() {
    let models = models();
    for (dir, model) in &models {
        let expected: Value = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let ids = |value: &Value| -> Vec<u32> {
            value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (recorder, _) = Recorder::new(load(dir, model, &options()), |_, blocks| blocks);
        let mut engine = Engine::new(
            Box::new(recorder),
            EngineOptions { max_num_seqs: 8, max_num_batched_tokens: 11, ..EngineOptions::default() },
        );
        let mut wanted = BTreeMap::new();
        let mut add = |run: &Value, stop_ids: Vec<u32>| {
            let tokens = ids(&run["tokens"]);
            let prompt = ids(&expected["prompts"][run["prompt"].as_u64().unwrap() as usize]);
            // Runs with a stop id were made with room for more.
            let max_tokens = if stop_ids.is_empty() { tokens.len() } else { tokens.len() + 4 };
            let id = engine
                .add_request(Request { stop_ids, choice: wanted.len() as u32, ..request(&prompt, max_tokens) })
                .unwrap();
            wanted.insert(id, tokens);
        };
        for run in expected["greedy"].as_array().unwrap() {
            add(run, Vec::new());
        }
        if let Some(stop) = expected["greedy_stop"]["eos_token_id"].as_u64() {
            add(&expected["greedy_stop"], vec![stop as u32]);
        }
        let ends = finish(&mut engine);
        assert_eq!(ends.len(), wanted.len());
        for (id, tokens) in wanted {
            assert_eq!(ends[&id].0, tokens, "{}: {id:?}", dir.display());
        }
    }
    println!("{} golden cases ran", models.len());
}

#[test]
fn a_prompt_that_was_computed_before_is_found_but_for_its_last_token() {
    let mut engine = engine(EngineOptions::default(), 1000);
    let prompt: Vec<u32> = (0..49).collect();
    let mut cached = |request: Request| {
        engine.add_request(request).unwrap();
        let (tokens, last) = finish(&mut engine).pop_first().unwrap().1;
        (last.finished.unwrap().stats.cached_tokens, tokens)
    };
    let (first, tokens) = cached(request(&prompt, 20));
    assert_eq!(first, 0);
    assert_eq!(cached(request(&prompt, 20)), (48, tokens.clone()));
    assert_eq!(cached(request(&prompt[..48], 1)).0, 32, "the last token's row is needed");
    assert_eq!(cached(Request { cache_salt: Some("other".into()), ..request(&prompt, 20) }), (0, tokens.clone()));
    let whole = [&prompt[..], &tokens[..]].concat();
    assert_eq!(cached(request(&whole, 1)).0, 64, "an answer is part of the next prompt");
}

#[test]
fn completions_of_one_prompt_compute_it_once() {
    for (len, temperature) in [(49, 0.0), (48, 0.9), (1, 0.9), (33, 0.9)] {
        let mut engine = engine(EngineOptions::default(), 1000);
        let params = SamplingParams { temperature, seed: 5, ..SamplingParams::default() };
        let prompt: Vec<u32> = (0..len).collect();
        engine.add_request(Request { n: 3, params, choice: 4, ..request(&prompt, 9) }).unwrap();
        let (mut tokens, mut computed) = (BTreeMap::<u32, Vec<u32>>::new(), 0);
        while engine.has_work() {
            for output in engine.step().unwrap() {
                tokens.entry(output.choice).or_default().extend(output.token);
            }
            computed += engine.computed().0;
        }
        assert_eq!(tokens.keys().copied().collect::<Vec<_>>(), [4, 5, 6]);
        // Each of the others computes the prompt's last token again, to draw from its row.
        assert_eq!(computed, len as usize + 2 + 3 * 8, "{len}");
        for (&choice, tokens) in &tokens {
            engine.add_request(Request { params, choice, ..request(&prompt, 9) }).unwrap();
            assert_eq!(finish(&mut engine).pop_first().unwrap().1.0, *tokens, "choice {choice} alone");
        }
        assert_eq!(engine.kv_blocks().0, 0);
    }
}

#[test]
fn biases_allowed_tokens_and_min_tokens_decide_what_is_drawn() {
    let mut engine = engine(EngineOptions::default(), 1000);
    // The recorder tells requests apart by their choices, and these go different ways.
    let mut choices = 0..;
    let mut drawn = |request: Request| {
        engine.add_request(Request { choice: choices.next().unwrap(), ..request }).unwrap();
        finish(&mut engine).pop_first().unwrap().1.0
    };
    let plain = drawn(request(&[3, 4, 5], 6));
    let other = if plain[0] == 7 { 8 } else { 7 };
    assert_eq!(drawn(Request { logit_bias: vec![(other, 1e6)], ..request(&[3, 4, 5], 6) }), [other; 6]);
    assert_ne!(drawn(Request { logit_bias: vec![(plain[0], -1e6)], ..request(&[3, 4, 5], 1) }), plain[..1]);
    assert_eq!(drawn(Request { allowed_ids: Some(vec![other]), ..request(&[3, 4, 5], 2) }), [other; 2]);
    let stops = Request { stop_ids: vec![plain[0]], min_tokens: 3, ..request(&[3, 4, 5], 6) };
    let tokens = drawn(stops.clone());
    assert!(tokens.len() > 3 && !tokens[..3].contains(&plain[0]), "{tokens:?}");
    assert_eq!(drawn(Request { min_tokens: 0, ..stops }).len(), 1);
}

#[test]
fn log_probabilities_of_a_prompt_are_those_that_its_tokens_would_be_drawn_with() {
    let mut engine = engine(EngineOptions { max_num_batched_tokens: 7, ..EngineOptions::default() }, 1000);
    let mut last = |request: Request| {
        engine.add_request(request).unwrap();
        let mut all = Vec::new();
        while engine.has_work() {
            all.extend(engine.step().unwrap());
        }
        all
    };
    let outputs = last(Request { logprobs: Some(3), ..request(&[1, 2, 3], 20) });
    let tokens: Vec<u32> = outputs.iter().filter_map(|output| output.token).collect();
    let whole = [&[1, 2, 3], &tokens[..]].concat();
    for max_tokens in [0, 2] {
        let mut again = last(Request { prompt_logprobs: Some(3), ..request(&whole, max_tokens) });
        assert_eq!(again.len(), max_tokens.max(1));
        let reported = again.remove(0).prompt_logprobs.unwrap();
        assert_eq!(reported.len(), whole.len() - 1);
        for (output, row) in outputs.iter().zip(&reported[2..]) {
            assert_eq!(&output.logprobs, row);
        }
        assert!(again.iter().all(|output| output.prompt_logprobs.is_none()));
    }
}

#[test]
fn the_more_urgent_is_served_first_and_takes_the_place_of_the_less_urgent() {
    let mut engine = engine(EngineOptions { max_num_seqs: 1, ..EngineOptions::default() }, 1000);
    let later = engine.add_request(Request { priority: 5, ..request(&[1, 2], 3) }).unwrap();
    engine.step().unwrap();
    let also_later = engine.add_request(Request { priority: 5, choice: 1, ..request(&[1, 3], 1) }).unwrap();
    let urgent = engine.add_request(Request { priority: -1, choice: 2, ..request(&[1, 4], 2) }).unwrap();
    let mut order = Vec::new();
    while engine.has_work() {
        let outputs = engine.step().unwrap();
        order.extend(
            outputs.iter().filter(|o| o.finished.is_some()).map(|o| (o.id, o.finished.unwrap().stats.preemptions)),
        );
    }
    assert_eq!(order, [(urgent, 0), (later, 1), (also_later, 0)]);
}

#[test]
fn a_grammar_keeps_a_completion_to_it_whatever_shares_the_batch() {
    use nxd_engine::grammar::{Constraint, Grammars};
    let Some((dir, model)) = models().into_iter().find(|(_, model)| model.tokenizer().is_some()) else {
        panic!("no golden model has a tokenizer")
    };
    let tokenizer = model.tokenizer().unwrap();
    let grammars = Grammars::new(tokenizer, model.spec().vocab_size, model.eos_ids()).unwrap();
    let grammar = grammars.compile(&Constraint::Choice(vec!["abcab".into(), "bca".into()])).unwrap();
    let (recorder, _) = Recorder::new(load(&dir, &model, &options()), |_, blocks| blocks);
    let mut engine = Engine::new(Box::new(recorder), EngineOptions::default());
    let params = SamplingParams { temperature: 1.5, seed: 3, ..SamplingParams::default() };
    let bound =
        Request { grammar: Some(grammar), params, n: 4, stop_ids: model.eos_ids().to_vec(), ..request(&[1, 2], 30) };
    engine.add_request(bound).unwrap();
    engine.add_request(Request { choice: 9, ..request(&[1, 2, 3], 9) }).unwrap();
    let (mut tokens, mut reasons) = (BTreeMap::<u32, Vec<u32>>::new(), Vec::new());
    while engine.has_work() {
        for output in engine.step().unwrap().into_iter().filter(|output| output.choice < 4) {
            tokens.entry(output.choice).or_default().extend(output.token);
            reasons.extend(output.finished.map(|finished| finished.reason));
        }
    }
    assert_eq!(reasons, [FinishReason::Stop; 4]);
    for tokens in tokens.values() {
        let text = tokenizer.decode(tokens, true);
        assert!(["abcab", "bca"].contains(&text.trim_start()), "{text}");
    }
}
