//! The engine on a thread of its own: jobs in, streams of events out, from any thread, with or without async.
//!
//! [`Service::start`] moves an [`Engine`] to its thread. A [`Handle`] is shared among callers: [`Handle::admit`] takes a place in the bounded
//! queue before any work is done for a request, [`Handle::submit`] hands the request over and gives its [`Stream`]. A stream that is dropped
//! takes its request out before the next step. What a stream does not read waits in it, bounded by the request's own length, so that no
//! reader holds up the engine.
//!
//! ```no_run
//! use nxd_engine::service::{Event, Job, Limits, Service};
//! use nxd_engine::{Engine, EngineOptions, Request};
//! use nxd_executor::{CpuExecutor, ExecutorOptions};
//! use nxd_models::{LoadMode, Model};
//! use std::{sync::Arc, time::Duration};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Arc::new(Model::open("models/tiny".as_ref(), LoadMode::default())?);
//! let executor = CpuExecutor::load(&model, &ExecutorOptions::default())?;
//! let engine = Engine::new(Box::new(executor), EngineOptions::default());
//! let service = Service::start(engine, model, Limits::default(), |_report| {})?;
//! let handle = service.handle();
//! let ticket = handle.admit()?;
//! let mut stream = handle.submit(ticket, Job::new(Request { prompt: vec![1, 2], max_tokens: Some(8), ..Request::default() }))?;
//! while let Some(event) = stream.recv_timeout(Duration::from_secs(60)) {
//!     if let Event::Piece(piece) = event {
//!         print!("{}", piece.text);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: this file, `admission`, `stream`, `worker`, `report`.

mod admission;
mod report;
mod stream;
mod worker;

pub use admission::{Limits, Refusal, Ticket};
pub use report::{Ended, StepReport};
pub use stream::{End, Event, Failure, Piece, Stop, Stream};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::request::{Request, Task};
use admission::Admission;
use crossbeam::channel::{RecvTimeoutError, Sender, bounded, unbounded};
use nxd_executor::ModelInfo;
use nxd_models::Model;
use nxd_ops::{AdapterId, LowRank};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stream::Mailbox;
use worker::{Command, Worker};

/// A request and what surrounds its tokens.
#[derive(Clone, Debug)]
pub struct Job {
    /// What the engine computes.
    pub request: Request,
    /// How its tokens become text.
    pub text: TextOptions,
    /// When it fails unless it has started.
    pub queue_deadline: Option<Instant>,
    /// When it fails unless it has ended.
    pub deadline: Option<Instant>,
}

impl Job {
    /// A request without stop strings and without deadlines.
    pub fn new(request: Request) -> Self {
        Job { request, text: TextOptions::default(), queue_deadline: None, deadline: None }
    }
}

/// How a request's tokens become text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Whether the stop string, or the text of the stop id, stays in the text.
    pub include_stop: bool,
    /// Whether control tokens are left out of the text.
    pub skip_special: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions { stop: Vec::new(), include_stop: false, skip_special: true }
    }
}

/// What the service can do for a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Serves requests.
    Running,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// The engine has failed: everything it had is lost, and nothing can be asked of it.
    Dead(Arc<str>),
}

/// A request that is not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue or the service refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request can never be served.
    #[error(transparent)]
    Request(#[from] EngineError),
}

/// An adapter that is not loaded or unloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterFailure {
    /// The service refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine refuses, or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine did not come to it.
    #[error("the engine did not answer within {0:?}; it may be done all the same")]
    Timeout(Duration),
}

/// The longest wait for the engine to come to an adapter: steps before it may be long.
const ADAPTER_TIMEOUT: Duration = Duration::from_secs(120);

/// The engine's thread. Dropping it ends all requests.
pub struct Service {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// The door to the engine's thread; clones lead to the same one.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: Sender<Command>,
}

/// What the engine's thread and its callers both see.
struct Shared {
    info: ModelInfo,
    model: Arc<Model>,
    admission: Arc<Admission>,
    life: Mutex<Life>,
    next_job: AtomicU64,
    pulse: Pulse,
}

/// What the service can do, and who waits for the worst.
struct Life {
    state: State,
    watchers: Vec<Waker>,
}

impl Shared {
    /// Notes that the engine has failed.
    fn fail(&self, why: &Arc<str>) {
        let watchers = {
            let mut life = self.life.lock();
            life.state = State::Dead(Arc::clone(why));
            std::mem::take(&mut life.watchers)
        };
        watchers.into_iter().for_each(Waker::wake);
    }
}

/// When the running step began, for those who watch whether the engine gets on.
struct Pulse {
    epoch: Instant,
    /// Milliseconds since `epoch`, and one; 0 between steps.
    step_began: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Pulse { epoch: Instant::now(), step_began: AtomicU64::new(0) }
    }

    fn step_begins(&self) {
        let since = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.step_began.store(since + 1, Ordering::Relaxed);
    }

    fn step_ends(&self) {
        self.step_began.store(0, Ordering::Relaxed);
    }

    fn step_takes(&self) -> Option<Duration> {
        let began = self.step_began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_millis(began)))
    }
}

impl Service {
    /// Starts the thread. `observe` is called on it after every step, and whenever requests came or went without one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        engine: Engine,
        model: Arc<Model>,
        limits: Limits,
        observe: impl FnMut(&StepReport) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            info: engine.info().clone(),
            model,
            admission: Arc::new(Admission::new(limits)),
            life: Mutex::new(Life { state: State::Running, watchers: Vec::new() }),
            next_job: AtomicU64::new(0),
            pulse: Pulse::new(),
        });
        // The admission bounds the jobs, and with them the commands.
        let (commands, inbox) = unbounded();
        let worker = Worker::new(engine, Arc::clone(&shared), inbox, Box::new(observe));
        let thread = std::thread::Builder::new().name("nxd-engine".to_owned()).spawn(move || worker.run())?;
        Ok(Service { handle: Handle { shared, commands }, thread: Some(thread) })
    }

    /// A door for another caller.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The thread may have ended with the engine.
        let _ = self.handle.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the engine was reported to all streams.
            let _ = thread.join();
        }
    }
}

impl Handle {
    /// Takes a place in the queue, before anything is done for the request.
    ///
    /// # Errors
    /// When the queue is full, or the service takes no requests.
    pub fn admit(&self) -> Result<Ticket, Refusal> {
        self.serves()?;
        Admission::enter(&self.shared.admission)
    }

    /// Hands a request over.
    ///
    /// # Errors
    /// When the request can never be served, when its prompt is more than the queue may hold, or when the service takes no requests.
    pub fn submit(&self, mut ticket: Ticket, mut job: Job) -> Result<Stream, SubmitError> {
        self.serves()?;
        if job.request.task == Task::Embed {
            job.request.n = 1;
        }
        job.request.check(&self.shared.info)?;
        ticket.weigh(job.request.prompt.len())?;
        let id = self.shared.next_job.fetch_add(1, Ordering::Relaxed);
        let mailbox = Arc::new(Mailbox::new(job.request.n.max(1)));
        let stream = Stream::new(id, Arc::clone(&mailbox), self.commands.clone());
        let command = Command::Add { id, job: Box::new(job), mailbox, ticket, arrived: Instant::now() };
        match self.commands.send(command) {
            Ok(()) => Ok(stream),
            Err(_) => Err(self.serves().err().unwrap_or(Refusal::Dead("its thread has ended".into())).into()),
        }
    }

    /// Loads an adapter between two steps, and waits for that.
    ///
    /// # Errors
    /// When the device has no adapters, when this one does not fit, or when the service takes nothing.
    pub fn load_adapter(&self, parts: Arc<[LowRank]>) -> Result<AdapterId, AdapterFailure> {
        self.ask(|reply| Command::LoadAdapter { parts, reply })
    }

    /// Refuses further requests with an adapter; its memory is given back when the last one that has it ends.
    ///
    /// # Errors
    /// When it is not loaded, or when the service takes nothing.
    pub fn unload_adapter(&self, id: AdapterId) -> Result<(), AdapterFailure> {
        self.ask(|reply| Command::UnloadAdapter { id, reply })
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<Result<T, EngineError>>) -> Command) -> Result<T, AdapterFailure> {
        self.serves()?;
        let (reply, answer) = bounded(1);
        let gone =
            || AdapterFailure::Refused(self.serves().err().unwrap_or(Refusal::Dead("its thread has ended".into())));
        self.commands.send(command(reply)).map_err(|_| gone())?;
        match answer.recv_timeout(ADAPTER_TIMEOUT) {
            Ok(answer) => Ok(answer?),
            Err(RecvTimeoutError::Timeout) => Err(AdapterFailure::Timeout(ADAPTER_TIMEOUT)),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// The loaded model's limits.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// The model's files: tokenizer, chat template, ids that end a text.
    pub fn model(&self) -> &Arc<Model> {
        &self.shared.model
    }

    /// What the service can do now.
    pub fn state(&self) -> State {
        self.shared.life.lock().state.clone()
    }

    /// Waits until the engine has failed, and says why. Needs no particular runtime; may wait for ever.
    pub async fn failed(&self) -> Arc<str> {
        poll_fn(|context| {
            let mut life = self.shared.life.lock();
            if let State::Dead(why) = &life.state {
                return Poll::Ready(Arc::clone(why));
            }
            if !life.watchers.iter().any(|watcher| watcher.will_wake(context.waker())) {
                life.watchers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// How long the running step takes already; `None` between steps.
    pub fn step_takes(&self) -> Option<Duration> {
        self.shared.pulse.step_takes()
    }

    /// Requests that hold a place in the queue, and the tokens of their prompts.
    pub fn queued(&self) -> (usize, usize) {
        self.shared.admission.queued()
    }

    /// Takes nothing new from now on. What runs goes on.
    pub fn drain(&self) {
        let mut life = self.shared.life.lock();
        if life.state == State::Running {
            life.state = State::Draining;
        }
    }

    /// Ends all requests, running and waiting, with [`Failure::ShutDown`].
    pub fn abort_all(&self) {
        // A thread that has ended has no requests.
        let _ = self.commands.send(Command::AbortAll);
    }

    fn serves(&self) -> Result<(), Refusal> {
        match self.state() {
            State::Running => Ok(()),
            State::Draining => Err(Refusal::Draining),
            State::Dead(why) => Err(Refusal::Dead(why)),
        }
    }
}

#[cfg(test)]
mod tests;
