//! The engine on its own thread: streams, stop strings, callers that go away, limits, deadlines, and an engine that fails.

use crate::recorder::{load, models};
use ndarray::ArrayView2;
use nxd_engine::service::{
    Event, Failure, Handle, Job, Limits, Refusal, Service, State, StepReport, Stop, SubmitError,
};
use nxd_engine::{Engine, EngineOptions, FinishReason, Request, Task};
use nxd_executor::{Executor, ExecutorError, ExecutorOptions, ModelInfo, StepId, StepOutput};
use nxd_models::Model;
use nxd_ops::{Batch, Output, SamplingBatch};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than any test should wait.
const LONG: Duration = Duration::from_secs(60);

/// An executor that can be told to wait before a step, or to panic in one.
struct Gate {
    inner: Box<dyn Executor>,
    /// A step waits for a word each; `None` once nobody can say one.
    words: Mutex<Option<Receiver<Word>>>,
}

enum Word {
    Go,
    Panic,
}

impl Executor for Gate {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepId, ExecutorError> {
        let word = self.words.lock().unwrap().as_ref().and_then(|words| words.recv_timeout(LONG).ok());
        match word {
            Some(Word::Panic) => panic!("told to"),
            Some(Word::Go) => {}
            None => *self.words.lock().unwrap() = None,
        }
        self.inner.forward(batch)
    }

    fn sample(&mut self, step: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        self.inner.sample(step, sampling)
    }

    fn hidden(&self, step: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError> {
        self.inner.hidden(step)
    }

    fn captured(&self, step: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError> {
        self.inner.captured(step)
    }
}

/// A model with a tokenizer, so that there is text.
fn model() -> (std::path::PathBuf, Model) {
    models().into_iter().find(|(_, model)| model.tokenizer().is_some()).unwrap_or_else(|| models().remove(0))
}

type Reports = Arc<Mutex<Vec<StepReport>>>;

fn start(limits: Limits, words: Option<Receiver<Word>>) -> (Service, Reports) {
    let (dir, model) = model();
    let inner = load(&dir, &model, &ExecutorOptions { threads: 1, ..ExecutorOptions::default() });
    let executor = Gate { inner: Box::new(inner), words: Mutex::new(words) };
    let reports = Reports::default();
    let kept = Arc::clone(&reports);
    let engine = Engine::new(Box::new(executor), EngineOptions { max_num_seqs: 2, ..EngineOptions::default() });
    let service =
        Service::start(engine, Arc::new(model), limits, move |r| kept.lock().unwrap().push(r.clone())).unwrap();
    (service, reports)
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), max_tokens: Some(max_tokens), ..Request::default() }
}

fn submit(handle: &Handle, job: Job) -> nxd_engine::service::Stream {
    handle.submit(handle.admit().unwrap(), job).unwrap()
}

/// Waits until a report says `wanted`.
fn wait(reports: &Reports, wanted: impl Fn(&StepReport) -> bool) {
    let start = Instant::now();
    while !reports.lock().unwrap().last().is_some_and(&wanted) {
        assert!(start.elapsed() < LONG, "never reported");
        std::thread::yield_now();
    }
}

#[test]
fn choices_stream_side_by_side_and_the_reports_add_up() {
    let (service, reports) = start(Limits::default(), None);
    let mut stream = submit(&service.handle(), Job::new(Request { n: 3, ..request(&[1, 2, 3], 5) }));
    assert_eq!(stream.recv_timeout(LONG), Some(Event::Started));
    let (mut tokens, mut ends) = (BTreeMap::<u32, Vec<u32>>::new(), 0);
    while let Some(event) = stream.recv_timeout(LONG) {
        match event {
            Event::Piece(piece) => tokens.entry(piece.choice).or_default().push(piece.token),
            Event::End(end) => {
                assert_eq!((end.reason, end.stop), (FinishReason::Length, None));
                ends += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ends, tokens.len()), (3, 3));
    assert!(
        tokens.values().all(|of_choice| of_choice.len() == 5 && *of_choice == tokens[&0]),
        "greedy choices are equal"
    );
    wait(&reports, |report| report.running == 0 && report.kv_blocks_used == 0);
    let reports = reports.lock().unwrap();
    let sum = |count: fn(&StepReport) -> usize| reports.iter().map(count).sum::<usize>();
    assert_eq!((sum(|r| r.first_tokens.len()), sum(|r| r.further_tokens.len())), (3, 12));
    let ended: Vec<_> = reports.iter().flat_map(|report| &report.ended).collect();
    assert_eq!((ended.len(), ended[0].generated_tokens, ended[0].prompt_tokens, ended[0].n), (1, 15, 3, 3));
}

#[test]
fn a_stop_string_ends_a_completion_before_its_next_step() {
    let (service, _) = start(Limits::default(), None);
    if service.handle().model().tokenizer().is_none() {
        return println!("no golden model has a tokenizer");
    }
    let collect = |job: Job| {
        let mut stream = submit(&service.handle(), job);
        let (mut text, mut end) = (String::new(), None);
        while let Some(event) = stream.recv_timeout(LONG) {
            match event {
                Event::Piece(piece) => text += &piece.text,
                Event::End(last) => {
                    text += &last.text;
                    end = Some(last);
                }
                _ => {}
            }
        }
        (text, end.unwrap())
    };
    let (whole, _) = collect(Job::new(request(&[5, 6], 24)));
    let stop: String = whole.chars().skip(4).take(2).collect();
    let at = whole.find(&stop).unwrap();
    let mut job = Job::new(request(&[5, 6], 24));
    job.text.stop = vec![stop.clone()];
    let (cut, end) = collect(job.clone());
    assert_eq!(
        (cut.as_str(), end.reason, end.stop),
        (&whole[..at], FinishReason::Stop, Some(Stop::Text(stop.clone())))
    );
    job.text.include_stop = true;
    assert_eq!(collect(job).0, whole[..at + stop.len()]);
}

#[test]
fn a_dropped_stream_frees_its_blocks_before_the_next_step() {
    let (words, gate) = channel();
    let (service, reports) = start(Limits::default(), Some(gate));
    let gone = submit(&service.handle(), Job::new(request(&[1; 40], 50)));
    let mut kept = submit(&service.handle(), Job::new(request(&[2, 3], 2)));
    words.send(Word::Go).unwrap();
    wait(&reports, |report| report.running == 2);
    let before = reports.lock().unwrap().last().unwrap().kv_blocks_used;
    drop(gone);
    words.send(Word::Go).unwrap();
    while kept.recv_timeout(LONG).is_some() {}
    wait(&reports, |report| report.running == 0);
    let reports = reports.lock().unwrap();
    assert!(before > 0 && reports.last().unwrap().kv_blocks_used == 0);
    let reasons: Vec<_> = reports.iter().flat_map(|r| &r.ended).map(|e| (e.reason, e.failure.clone())).collect();
    assert!(reasons.contains(&(FinishReason::Abort, None)) && reasons.contains(&(FinishReason::Length, None)));
}

#[test]
fn the_queue_is_bounded_and_a_place_comes_back_when_a_request_starts() {
    let (words, gate) = channel();
    let (service, _) = start(Limits { max_queued_requests: 2, max_queued_tokens: 100 }, Some(gate));
    let handle = service.handle();
    let mut first = submit(&handle, Job::new(request(&[1, 2], 1)));
    let _second = submit(&handle, Job::new(request(&[1; 30], 1)));
    assert!(matches!(handle.admit(), Err(Refusal::QueueFull { waiting: 2, allowed: 2 })));
    words.send(Word::Go).unwrap();
    assert_eq!(first.recv_timeout(LONG), Some(Event::Started));
    let start = Instant::now();
    let ticket = loop {
        match handle.admit() {
            Ok(ticket) => break ticket,
            Err(_) => assert!(start.elapsed() < LONG),
        }
    };
    let too_long = handle.submit(ticket, Job::new(request(&[1, u32::MAX], 1)));
    assert!(matches!(too_long, Err(SubmitError::Request(_))));
}

#[test]
fn requests_fail_when_their_time_is_over() {
    let (words, gate) = channel();
    let (service, _) = start(Limits::default(), Some(gate));
    let past = Some(Instant::now());
    let mut late = submit(&service.handle(), Job { deadline: past, ..Job::new(request(&[1, 2], 9)) });
    assert_eq!(late.recv_timeout(LONG), Some(Event::Failed(Failure::Timeout)));
    assert_eq!(late.recv_timeout(LONG), None);
    let mut waits = submit(&service.handle(), Job { queue_deadline: past, ..Job::new(request(&[1, 2], 9)) });
    assert_eq!(waits.recv_timeout(LONG), Some(Event::Failed(Failure::QueueTimeout)));
    drop(words);
    let mut good = submit(&service.handle(), Job::new(request(&[1, 2], 1)));
    assert_eq!(good.recv_timeout(LONG), Some(Event::Started));
}

#[test]
fn an_engine_that_panics_ends_every_request_with_the_reason_and_takes_no_more() {
    let (words, gate) = channel();
    let (service, _) = start(Limits::default(), Some(gate));
    let handle = service.handle();
    let mut streams: Vec<_> = (0..4).map(|_| submit(&handle, Job::new(request(&[1, 2], 9)))).collect();
    words.send(Word::Go).unwrap();
    words.send(Word::Panic).unwrap();
    for stream in &mut streams {
        let mut last = None;
        while let Some(event) = stream.recv_timeout(LONG) {
            last = Some(event);
        }
        assert_eq!(last, Some(Event::Failed(Failure::Dead("it panicked: told to".into()))));
    }
    assert_eq!(handle.state(), State::Dead("it panicked: told to".into()));
    assert!(matches!(handle.admit(), Err(Refusal::Dead(_))));
}

#[test]
fn draining_ends_what_runs_and_takes_nothing_new() {
    let (words, gate) = channel();
    let (service, _) = start(Limits::default(), Some(gate));
    let handle = service.handle();
    let mut running = submit(&handle, Job::new(request(&[1, 2], 400)));
    handle.drain();
    assert!(matches!(handle.admit(), Err(Refusal::Draining)));
    words.send(Word::Go).unwrap();
    assert_eq!(running.recv_timeout(LONG), Some(Event::Started));
    handle.abort_all();
    drop(words);
    let mut last = None;
    while let Some(event) = running.recv_timeout(LONG) {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Failed(Failure::ShutDown)));
}

#[test]
fn an_embedding_does_not_depend_on_its_neighbours() {
    let (service, _) = start(Limits::default(), None);
    let embed = |prompt: &[u32]| Job::new(Request { task: Task::Embed, ..request(prompt, 1) });
    let read = |stream: &mut nxd_engine::service::Stream| {
        assert_eq!(stream.recv_timeout(LONG), Some(Event::Started));
        let Some(Event::Embedding(row)) = stream.recv_timeout(LONG) else { panic!("no embedding") };
        assert_eq!(stream.recv_timeout(LONG), None);
        row.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let alone = read(&mut submit(&service.handle(), embed(&[3; 40])));
    assert_eq!(alone.len(), service.handle().info().hidden_size);
    let _neighbour = submit(&service.handle(), Job::new(request(&[4; 30], 60)));
    assert_eq!(read(&mut submit(&service.handle(), embed(&[3; 40]))), alone);
    assert_ne!(read(&mut submit(&service.handle(), embed(&[3; 41]))), alone);
}
