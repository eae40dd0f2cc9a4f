//! The engine's thread: takes jobs, runs steps, turns tokens into text, and leaves events in mailboxes.

use super::admission::Ticket;
use super::report::{Ended, StepReport};
use super::stream::{End, Event, Failure, Mailbox, Piece, Stop};
use super::{Job, Shared, TextOptions};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::request::{FinishReason, Finished, Output, RequestId, Stats};
use crate::scheduler::Counts;
use crate::text::Generation;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use nxd_ops::{AdapterId, LowRank};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What callers tell the thread.
pub(super) enum Command {
    Add { id: u64, job: Box<Job>, mailbox: Arc<Mailbox>, ticket: Ticket, arrived: Instant },
    Abort(u64),
    AbortAll,
    LoadAdapter { parts: Arc<[LowRank]>, reply: Sender<Result<AdapterId, EngineError>> },
    UnloadAdapter { id: AdapterId, reply: Sender<Result<(), EngineError>> },
    Stop,
}

/// The longest sleep without work: a deadline of a request without work cannot pass unseen, as there is none.
const IDLE: Duration = Duration::from_secs(1);

/// The engine and the requests that it has.
pub(super) struct Worker {
    engine: Engine,
    shared: Arc<Shared>,
    inbox: Receiver<Command>,
    observe: Box<dyn FnMut(&StepReport) + Send>,
    /// By the number that the handle gave them.
    jobs: BTreeMap<u64, Active>,
    by_request: BTreeMap<RequestId, u64>,
    report: StepReport,
    /// Whether something happened that was not reported.
    unreported: bool,
    /// Events that wait until what they are about has been reported: who has an answer finds it in the report.
    outgoing: Vec<(Arc<Mailbox>, Event)>,
}

/// A request on its way.
struct Active {
    request: RequestId,
    mailbox: Arc<Mailbox>,
    /// Given back when the request starts.
    ticket: Option<Ticket>,
    arrived: Instant,
    queue_deadline: Option<Instant>,
    deadline: Option<Instant>,
    stop_ids: Vec<u32>,
    text: TextOptions,
    choices: BTreeMap<u32, Choice>,
    prompt_tokens: usize,
    generated_tokens: usize,
    n: u32,
    open: u32,
    max_tokens: Option<usize>,
}

/// One completion of a request.
struct Choice {
    generation: Generation,
    newest_token: Instant,
    tokens: usize,
}

impl Worker {
    pub(super) fn new(
        engine: Engine,
        shared: Arc<Shared>,
        inbox: Receiver<Command>,
        observe: Box<dyn FnMut(&StepReport) + Send>,
    ) -> Self {
        Worker {
            engine,
            shared,
            inbox,
            observe,
            jobs: BTreeMap::new(),
            by_request: BTreeMap::new(),
            report: StepReport::default(),
            unreported: true,
            outgoing: Vec::new(),
        }
    }

    /// Serves until it is told to stop or the engine fails.
    pub(super) fn run(mut self) {
        // Whatever state a panic leaves is not looked at again, but for the mailboxes.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let why: Option<Arc<str>> = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.into()),
            Err(panic) => Some(format!("it panicked: {}", panic_text(panic.as_ref())).into()),
        };
        let failure = match &why {
            None => Failure::ShutDown,
            Some(why) => {
                tracing::error!(%why, requests = self.jobs.len(), "the engine has failed");
                self.shared.fail(why);
                Failure::Dead(Arc::clone(why))
            }
        };
        // New commands are refused once the state says so; those that came before are answered here.
        self.fail_all(&failure);
        for command in self.inbox.try_iter() {
            if let Command::Add { mailbox, .. } = command {
                self.outgoing.push((mailbox, Event::Failed(failure.clone())));
            }
        }
        (self.report.running, self.report.waiting, self.report.kv_blocks_used) = (0, 0, 0);
        (self.observe)(&self.report);
        self.post();
    }

    fn serve(&mut self) -> Result<(), String> {
        loop {
            if !self.take_commands() {
                return Ok(());
            }
            self.expire(Instant::now());
            if self.engine.has_work() {
                self.step()?;
            }
            self.say();
            self.post();
        }
    }

    /// Takes what is in the inbox, waiting for it when there is nothing else to do; false at the end.
    fn take_commands(&mut self) -> bool {
        if !self.engine.has_work() {
            match self.inbox.recv_timeout(IDLE) {
                Ok(command) => {
                    if !self.obey(command) {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while let Ok(command) = self.inbox.try_recv() {
            if !self.obey(command) {
                return false;
            }
        }
        true
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Add { id, job, mailbox, ticket, arrived } => self.add(id, *job, mailbox, ticket, arrived),
            Command::Abort(id) => self.end(id, FinishReason::Abort, None, Stats::default()),
            Command::AbortAll => self.fail_all(&Failure::ShutDown),
            // Who asked may have gone; the adapter is there all the same.
            Command::LoadAdapter { parts, reply } => drop(reply.send(self.engine.load_adapter(&parts))),
            Command::UnloadAdapter { id, reply } => drop(reply.send(self.engine.unload_adapter(id))),
            Command::Stop => return false,
        }
        true
    }

    fn add(&mut self, id: u64, job: Job, mailbox: Arc<Mailbox>, ticket: Ticket, arrived: Instant) {
        let Job { request, text, queue_deadline, deadline } = job;
        let (prompt_tokens, n, max_tokens) = (request.prompt.len(), request.n.max(1), request.max_tokens);
        let stop_ids = request.stop_ids.clone();
        let added = match self.engine.add_request(request) {
            Ok(added) => added,
            Err(EngineError::NoAdapter) => return self.outgoing.push((mailbox, Event::Failed(Failure::NoAdapter))),
            Err(error) => {
                // It was checked when it was submitted.
                tracing::error!(%error, "a request that had passed its check was refused");
                return self.outgoing.push((mailbox, Event::Failed(Failure::Dead(error.to_string().into()))));
            }
        };
        let active = Active {
            request: added,
            mailbox,
            ticket: Some(ticket),
            arrived,
            queue_deadline,
            deadline,
            stop_ids,
            text,
            choices: BTreeMap::new(),
            prompt_tokens,
            generated_tokens: 0,
            n,
            open: n,
            max_tokens,
        };
        self.jobs.insert(id, active);
        self.by_request.insert(added, id);
        self.unreported = true;
    }

    /// Fails the requests whose time is over.
    fn expire(&mut self, now: Instant) {
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let late = |active: &Active| match () {
            () if over(active.deadline) => Some(Failure::Timeout),
            () if active.ticket.is_some() && over(active.queue_deadline) => Some(Failure::QueueTimeout),
            () => None,
        };
        let expired: Vec<_> = self.jobs.iter().filter_map(|(&id, active)| Some((id, late(active)?))).collect();
        for (id, failure) in expired {
            self.end(id, FinishReason::Abort, Some(failure), Stats::default());
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let began = Instant::now();
        self.shared.pulse.step_begins();
        let outputs = self.engine.step().map_err(|error| crate::error::with_sources(&error));
        self.shared.pulse.step_ends();
        let outputs = outputs?;
        let now = Instant::now();
        self.report.duration = now - began;
        (self.report.tokens, self.report.prompt_tokens) = self.engine.computed();
        self.unreported = true;
        for request in self.engine.take_started() {
            let active = self.by_request.get(&request).and_then(|id| self.jobs.get_mut(id));
            // A request's further completions start later, and are not told of.
            if let Some(active) = active
                && active.ticket.take().is_some()
            {
                self.outgoing.push((Arc::clone(&active.mailbox), Event::Started));
            }
        }
        for output in outputs {
            self.deliver(output, now);
        }
        Ok(())
    }

    /// Hands on what a step gave one completion.
    fn deliver(&mut self, output: Output, now: Instant) {
        let Some(&id) = self.by_request.get(&output.id) else { return };
        let Some(active) = self.jobs.get_mut(&id) else { return };
        if let Some(prompt_logprobs) = output.prompt_logprobs {
            self.outgoing.push((Arc::clone(&active.mailbox), Event::PromptLogprobs(prompt_logprobs)));
        }
        let embedded = output.embedding.is_some();
        if let Some(embedding) = output.embedding {
            self.outgoing.push((Arc::clone(&active.mailbox), Event::Embedding(embedding)));
        }
        let model = &self.shared.model;
        let arrived = active.arrived;
        let choice = active.choices.entry(output.choice).or_insert_with(|| {
            let stream = model.tokenizer().map(|tokenizer| tokenizer.stream(active.text.skip_special).continued());
            let mut generation = Generation::new(stream, active.stop_ids.clone(), active.text.stop.clone());
            generation.include_stop(active.text.include_stop);
            Choice { generation, newest_token: arrived, tokens: 0 }
        });
        let mut stop = None;
        if let Some(token) = output.token {
            let times =
                if choice.tokens == 0 { &mut self.report.first_tokens } else { &mut self.report.further_tokens };
            times.push(now - choice.newest_token);
            choice.newest_token = now;
            choice.tokens += 1;
            active.generated_tokens += 1;
            let text = choice.generation.push(token);
            stop = match choice.generation.stop_string() {
                Some(text) => Some(Stop::Text(text.to_owned())),
                None => active.stop_ids.contains(&token).then_some(Stop::Id(token)),
            };
            let stops = matches!(stop, Some(Stop::Id(_)));
            let piece = Piece { choice: output.choice, token, logprobs: output.logprobs, text, stops };
            self.outgoing.push((Arc::clone(&active.mailbox), Event::Piece(piece)));
        }
        let stopped = matches!(stop, Some(Stop::Text(_)));
        let finished = match output.finished {
            Some(finished) => finished,
            None if stopped => {
                let ended = self.engine.abort_choice(output.id, output.choice);
                ended.unwrap_or(Finished { reason: FinishReason::Stop, stats: Stats::default() })
            }
            None => return,
        };
        let reason = if stopped { FinishReason::Stop } else { finished.reason };
        let failure = match reason {
            FinishReason::NotFinite => Some(Failure::NotFinite { tokens: choice.tokens }),
            FinishReason::Grammar => Some(Failure::Grammar),
            _ => None,
        };
        if failure.is_some() {
            return self.end(id, reason, failure, finished.stats);
        }
        let text = choice.generation.finish();
        active.choices.remove(&output.choice);
        active.open = active.open.saturating_sub(1);
        let end = End { choice: output.choice, reason, stop, text, stats: finished.stats };
        // An embedding ends its request by itself.
        if !embedded {
            self.outgoing.push((Arc::clone(&active.mailbox), Event::End(end)));
        }
        if active.open == 0 {
            self.end(id, reason, None, finished.stats);
        }
    }

    /// Takes a request out, if it is there, and books its end.
    fn end(&mut self, id: u64, reason: FinishReason, failure: Option<Failure>, stats: Stats) {
        let Some(active) = self.jobs.remove(&id) else { return };
        self.by_request.remove(&active.request);
        let stats = self.engine.abort(active.request).map_or(stats, |finished| finished.stats);
        if let Some(failure) = &failure {
            self.outgoing.push((Arc::clone(&active.mailbox), Event::Failed(failure.clone())));
        }
        self.report.ended.push(Ended {
            reason,
            failure,
            prompt_tokens: active.prompt_tokens,
            generated_tokens: active.generated_tokens,
            n: active.n,
            max_tokens: active.max_tokens,
            stats,
            elapsed: active.arrived.elapsed(),
        });
        self.unreported = true;
    }

    fn fail_all(&mut self, failure: &Failure) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.end(id, FinishReason::Abort, Some(failure.clone()), Stats::default());
        }
    }

    /// Reports what happened since the last report.
    fn say(&mut self) {
        if !std::mem::take(&mut self.unreported) {
            return;
        }
        let report = &mut self.report;
        (report.running, report.waiting) = self.engine.num_requests();
        (report.kv_blocks_used, report.kv_blocks) = self.engine.kv_blocks();
        let Counts { prefix_queries, prefix_hits, preemptions } = self.engine.take_counts();
        (report.prefix_queries, report.prefix_hits, report.preemptions) = (prefix_queries, prefix_hits, preemptions);
        (self.observe)(report);
        let StepReport { first_tokens, further_tokens, ended, .. } = report;
        first_tokens.clear();
        further_tokens.clear();
        ended.clear();
        (report.duration, report.tokens, report.prompt_tokens) = (Duration::ZERO, 0, 0);
    }

    /// Leaves what is on its way in the mailboxes.
    fn post(&mut self) {
        for (mailbox, event) in self.outgoing.drain(..) {
            mailbox.put(event);
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
