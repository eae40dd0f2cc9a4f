//! Requests with adapters: the golden ones, made-up ones for every model, and how they come and go.

use crate::recorder::{Recorder, Rows, load};
use nxd_engine::{AdapterId, Engine, EngineError, EngineOptions, Request};
use nxd_executor::{Activations, ExecutorOptions, KvDtype};
use nxd_models::{Adapter, LoadMode, Model};
use nxd_modules::Decoder;
use nxd_ops::{Format, LowRank, Manifest, Mesh, Params, Role, SamplingParams, StoredWeight, WeightSpec};
use nxd_testkit::Tensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An adapter of all linear layers of `model`, of another rank for each.
pub(crate) fn made_up(model: &Model, seed: usize) -> Arc<[LowRank]> {
    let mut manifest = Manifest::new(Mesh::single());
    let _ = Decoder::new(&mut Params::new(&mut manifest), model.spec());
    let matrix = |shape: [usize; 2], step: f32| {
        let values = (0..shape[0] * shape[1]).map(|i| ((i + 7 * seed) as f32 * step).sin() * 0.3);
        let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let origin = "made up".to_owned();
        StoredWeight { origin, format: Format::F32, shape, data: data.into(), order: None, scales: None }
    };
    let is_linear = |spec: &&WeightSpec| {
        matches!(spec.role, Role::Matrix | Role::Router)
            && spec.name != "lm_head.weight"
            && !spec.name.contains(".experts.")
    };
    let part = |(i, spec): (usize, &WeightSpec)| {
        let (rank, [outputs, inputs]) = (1 + (i + seed) % 5, spec.shape);
        let (down, up) = (matrix([rank, inputs], 0.37), matrix([outputs, rank], 0.53));
        LowRank { weight: spec.name.clone(), down, up, scale: 0.5 }
    };
    manifest.weights().iter().filter(is_linear).enumerate().map(part).collect()
}

/// Golden models with adapters.
fn cases() -> Vec<PathBuf> {
    let has_base = |dir: &PathBuf| dir.join("base").is_dir() && dir.join("expected.json").exists();
    let cases: Vec<_> = nxd_testkit::folders(&nxd_testkit::goldens()).into_iter().filter(has_base).collect();
    println!("{} golden models with adapters ran", cases.len());
    assert!(!cases.is_empty(), "there is no golden model with adapters");
    cases
}

fn options(ranks: usize) -> ExecutorOptions {
    let mut options = ExecutorOptions {
        activations: Activations::F32,
        tensor_parallel_size: ranks,
        threads: ranks,
        ..ExecutorOptions::default()
    };
    (options.kv.dtype, options.kv.budget_bytes, options.kv.max_model_len) = (KvDtype::F32, 16 << 20, Some(256));
    options
}

fn engine_on(dir: &Path, model: &Model, ranks: usize) -> (Engine, crate::recorder::Bits) {
    let (recorder, bits) = Recorder::new(load(dir, model, &options(ranks)), |_, blocks| blocks);
    (Engine::new(Box::new(recorder), EngineOptions::default()), bits)
}

/// Runs all of `requests` together; each has a choice of its own. Gives their tokens by choice.
fn run(engine: &mut Engine, requests: impl IntoIterator<Item = Request>) -> BTreeMap<u32, Vec<u32>> {
    for request in requests {
        engine.add_request(request).unwrap();
    }
    let mut tokens = BTreeMap::<u32, Vec<u32>>::new();
    while engine.has_work() {
        for output in engine.step().unwrap() {
            tokens.entry(output.choice).or_default().extend(output.token);
        }
    }
    tokens
}

fn greedy(prompt: &[u32], max_tokens: usize, choice: usize, adapter: Option<AdapterId>) -> Request {
    Request {
        prompt: prompt.to_vec(),
        params: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(max_tokens),
        choice: choice as u32,
        adapter,
        ..Request::default()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn golden_adapters_give_their_logits_and_tokens_side_by_side_in_one_batch() {
    for dir in cases() {
        let expected: Value = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let tensors = Tensors::read(&dir.join("expected.safetensors"));
        let tolerance = expected["tolerance"]["f32_max_abs"].as_f64().unwrap() as f32;
        let prompts: Vec<Vec<u32>> = expected["prompts"].as_array().unwrap().iter().map(ids).collect();
        let model = Model::open(&dir.join("base"), LoadMode::default()).unwrap();
        let names: Vec<&String> = expected["adapters"].as_object().unwrap().keys().collect();
        for ranks in [1, 2, 4] {
            let (mut engine, bits) = engine_on(&dir, &model, ranks);
            let mut variants = vec![("base", None)];
            for name in &names {
                let adapter = Adapter::open(&dir.join(name), &model, LoadMode::default()).unwrap();
                variants.push((name, Some(engine.load_adapter(adapter.parts()).unwrap())));
            }
            // Every prompt with every variant, in one batch.
            let cases: Vec<(usize, &str, Option<AdapterId>)> = (0..prompts.len())
                .flat_map(|p| variants.iter().map(move |&(name, adapter)| (p, name, adapter)))
                .collect();
            let requests = cases.iter().enumerate();
            run(&mut engine, requests.map(|(i, &(p, _, adapter))| greedy(&prompts[p], 1, i, adapter)));
            let mut worst = 0.0f32;
            for (i, &(p, name, _)) in cases.iter().enumerate() {
                let found = &bits.lock().unwrap()[&(i as u32, prompts[p].len() as u32)];
                let wanted = tensors.floats(&format!("{name}.logits_last.{p}"));
                assert_eq!(found.len(), wanted.len());
                worst =
                    found.iter().zip(&wanted).fold(worst, |worst, (a, b)| worst.max((f32::from_bits(*a) - b).abs()));
            }
            assert!(worst <= tolerance, "{}: {worst} at {ranks} ranks, allowed is {tolerance}", dir.display());
            let runs: Vec<(&Value, Option<AdapterId>)> = variants
                .iter()
                .flat_map(|&(name, adapter)| {
                    let of_base = name == "base";
                    let runs = if of_base { &expected["base_greedy"] } else { &expected["adapters"][name]["greedy"] };
                    runs.as_array().unwrap().iter().map(move |run| (run, adapter))
                })
                .collect();
            let first = cases.len();
            let request = |(i, &(run, adapter)): (usize, &(&Value, Option<AdapterId>))| {
                let prompt = &prompts[run["prompt"].as_u64().unwrap() as usize];
                greedy(prompt, run["tokens"].as_array().unwrap().len(), first + i, adapter)
            };
            let tokens = self::run(&mut engine, runs.iter().enumerate().map(request));
            for (i, (run, _)) in runs.iter().enumerate() {
                assert_eq!(tokens[&((first + i) as u32)], ids(&run["tokens"]), "{}: {run}", dir.display());
            }
        }
    }
}

#[test]
fn requests_without_an_adapter_have_the_bits_of_an_engine_without_adapters() {
    let golden = cases().remove(0);
    let model = Model::open(&golden.join("base"), LoadMode::default()).unwrap();
    let prompt = |i: u32| (0..20 + i).map(|j| (i * 31 + j * 7) % 300).collect::<Vec<u32>>();
    let plain = |engine: &mut Engine, adapter: &dyn Fn(u32) -> Option<AdapterId>| {
        run(engine, (0..6).map(|i| greedy(&prompt(i), 8, i as usize, adapter(i))))
    };
    let of = |rows: &Rows| rows.iter().filter(|((i, _), _)| i % 2 == 0).map(|(k, v)| (*k, v.clone())).collect::<Rows>();
    for ranks in [1, 2] {
        let (mut without, expected) = engine_on(&golden, &model, ranks);
        let expected_tokens = plain(&mut without, &|_| None);
        let (mut with, found) = engine_on(&golden, &model, ranks);
        let id = with.load_adapter(&made_up(&model, 0)).unwrap();
        let tokens = plain(&mut with, &|i| (i % 2 == 1).then_some(id));
        assert_eq!(of(&found.lock().unwrap()), of(&expected.lock().unwrap()));
        assert!((0..6).step_by(2).all(|i| tokens[&i] == expected_tokens[&i]));
        assert_ne!(*found.lock().unwrap(), *expected.lock().unwrap(), "the adapter changes nothing");
    }
}

#[test]
fn an_adapter_that_goes_stays_for_the_requests_that_have_it() {
    let golden = cases().remove(0);
    let model = Model::open(&golden.join("base"), LoadMode::default()).unwrap();
    let (mut engine, _) = engine_on(&golden, &model, 2);
    let parts = made_up(&model, 1);
    let request = |id| greedy(&[1, 2, 3], 6, 0, Some(id));
    let first = engine.load_adapter(&parts).unwrap();
    let expected = run(&mut engine, [request(first)]);
    engine.add_request(request(first)).unwrap();
    let mut tokens: Vec<u32> = engine.step().unwrap().iter().filter_map(|output| output.token).collect();
    engine.unload_adapter(first).unwrap();
    assert!(matches!(engine.add_request(request(first)), Err(EngineError::NoAdapter)));
    assert!(matches!(engine.unload_adapter(first), Err(EngineError::NoAdapter)));
    while engine.has_work() {
        tokens.extend(engine.step().unwrap().iter().filter_map(|output| output.token));
    }
    assert_eq!(tokens, expected[&0]);
    // Also when its last request is taken out, and no step would follow.
    let aborted = engine.load_adapter(&parts).unwrap();
    let id = engine.add_request(request(aborted)).unwrap();
    engine.unload_adapter(aborted).unwrap();
    engine.abort(id);
    assert!(engine.has_work());
    engine.step().unwrap();
    assert!(!engine.has_work());
    let second = engine.load_adapter(&parts).unwrap();
    assert_ne!(first, second, "a number means one adapter");
    assert_eq!(run(&mut engine, [request(second)]), expected);
    assert!(matches!(engine.add_request(request(first)), Err(EngineError::NoAdapter)));
}
