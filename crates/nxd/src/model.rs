//! A model that is loaded and ready to generate.

use crate::completion::{Completion, Timing};
use crate::error::Error;
use crate::options::{GenerateOptions, LoadOptions};
use crate::prompt::{Message, Prompt};
use nxd_engine::{AdapterId, Engine, FinishReason, Finished, Generation, Output, Request};
use nxd_executor::{Executor, ModelInfo};
use nxd_models::chat::Conversation;
use nxd_models::tokenizer::{TextStream, Tokenizer};
use nxd_models::{Adapter, LoadMode};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A model that is loaded and ready to generate. Calls from several threads wait for each other; to share steps among callers, use an
/// [`Engine`], or give all prompts to one [`Model::generate_many`].
pub struct Model {
    hub: nxd_models::Model,
    info: ModelInfo,
    engine: Mutex<Engine>,
}

impl Model {
    /// Loads a folder in Hugging Face layout, a folder with one GGUF file, or a GGUF file.
    ///
    /// # Errors
    /// When files are missing, malformed or not supported, when the device or its library cannot be used, when memory does not suffice,
    /// or when the layout of ranks is impossible.
    pub fn load(path: impl AsRef<Path>, options: LoadOptions) -> Result<Self, Error> {
        let executor_options = options.executor_options();
        let load = |hub: &nxd_models::Model| nxd_executor::load(hub, &executor_options);
        let (hub, executor) = nxd_models::Model::open_beside(path.as_ref(), options.load_mode, load)?;
        Ok(Model::new(hub, executor?, &options))
    }

    /// Loads the weights of a model whose files are open already; `options.load_mode` is not looked at.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_hub(hub: nxd_models::Model, options: LoadOptions) -> Result<Self, Error> {
        let executor = nxd_executor::load(&hub, &options.executor_options())?;
        Ok(Model::new(hub, executor, &options))
    }

    fn new(hub: nxd_models::Model, executor: Box<dyn Executor>, options: &LoadOptions) -> Self {
        let engine = Engine::new(executor, options.engine_options());
        Model { hub, info: engine.info().clone(), engine: Mutex::new(engine) }
    }

    /// Continues one prompt.
    ///
    /// # Errors
    /// When the prompt cannot be encoded or served, or its logits become NaN.
    pub fn generate(&self, prompt: impl Into<Prompt>, options: GenerateOptions) -> Result<Completion, Error> {
        self.generate_stream(prompt, options, |_| ControlFlow::Continue(()))
    }

    /// Continues one prompt, handing on its text as it comes; [`ControlFlow::Break`] ends it.
    ///
    /// `on_text` is called after every token, with an empty text while a character or a possible stop string is not whole.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub fn generate_stream(
        &self,
        prompt: impl Into<Prompt>,
        options: GenerateOptions,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Completion, Error> {
        let prompt = self.encode(&prompt.into())?;
        let mut completions = self.run(vec![prompt], &options, &mut |_, text| on_text(text))?;
        Ok(completions.pop().expect("a run gives a completion for each prompt"))
    }

    /// Answers a conversation, which the model's chat template turns into text.
    ///
    /// # Errors
    /// As [`Model::generate`]; also when the model has no chat template, or the template refuses the conversation.
    pub fn chat(&self, messages: &[Message], options: GenerateOptions) -> Result<Completion, Error> {
        self.generate(messages, options)
    }

    /// Continues many prompts, which share the engine's steps. Completions stand in the order of the prompts.
    ///
    /// # Errors
    /// The first prompt that fails ends all of them.
    pub fn generate_many(
        &self,
        prompts: impl IntoIterator<Item = impl Into<Prompt>>,
        options: GenerateOptions,
    ) -> Result<Vec<Completion>, Error> {
        let prompts: Vec<Prompt> = prompts.into_iter().map(Into::into).collect();
        let count = prompts.len();
        let encode = |(index, prompt)| self.encode(prompt).map_err(|e| at_prompt(index, count, e));
        let encoded = prompts.iter().enumerate().map(encode).collect::<Result<Vec<_>, _>>()?;
        self.run(encoded, &options, &mut |_, _| ControlFlow::Continue(()))
    }

    /// The tokens of a prompt, as [`Model::generate`] makes them.
    ///
    /// # Errors
    /// When the model has no tokenizer or chat template for it, or these fail on it.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        match prompt {
            Prompt::Ids(ids) => Ok(ids.clone()),
            Prompt::Text(text) => {
                let ids = self.tokenizer()?.encode(text, true).map_err(Error::Encode)?;
                // An empty text begins with BOS, also where the tokenizer does not put one before others.
                Ok(if ids.is_empty() { self.hub.bos_id().into_iter().collect() } else { ids })
            }
            Prompt::Messages(messages) => {
                let text = self.render(messages)?;
                self.tokenizer()?.encode(&text, false).map_err(Error::Encode)
            }
        }
    }

    /// The text of a conversation, up to where the model is to answer.
    ///
    /// # Errors
    /// When the model has no tokenizer or chat template, or the template refuses the conversation.
    pub fn render(&self, messages: &[Value]) -> Result<String, Error> {
        let template = self.tokenizer()?.chat_template();
        let template = template.ok_or_else(|| Error::NoChatTemplate { model: self.path() })?;
        let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
        Ok(template.render(&conversation)?)
    }

    /// Loads a PEFT adapter of this model, from a folder with `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// When its files are missing or malformed, when it does not fit the model, or when the device has no adapters.
    pub fn load_adapter(&self, path: impl AsRef<Path>) -> Result<AdapterId, Error> {
        let adapter = Adapter::open(path.as_ref(), &self.hub, LoadMode::default())?;
        Ok(self.engine().load_adapter(adapter.parts())?)
    }

    /// Gives an adapter's memory back.
    ///
    /// # Errors
    /// When it is not loaded.
    pub fn unload_adapter(&self, id: AdapterId) -> Result<(), Error> {
        Ok(self.engine().unload_adapter(id)?)
    }

    /// The files: configuration, tokenizer, checkpoint.
    pub fn hub(&self) -> &nxd_models::Model {
        &self.hub
    }

    /// What was loaded: context, cache, bytes.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.hub.tokenizer().ok_or_else(|| Error::NoTokenizer { model: self.path() })
    }

    fn path(&self) -> String {
        self.hub.checkpoint().path().display().to_string()
    }

    /// The engine, without requests of an earlier call that panicked or was given up.
    fn engine(&self) -> MutexGuard<'_, Engine> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.abort_all();
        engine
    }

    /// Runs all prompts to their ends.
    fn run(
        &self,
        prompts: Vec<Vec<u32>>,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<Vec<Completion>, Error> {
        let mut engine = self.engine();
        let count = prompts.len();
        let stop_ids = if options.ignore_eos { Vec::new() } else { self.hub.eos_ids().to_vec() };
        let mut index_of = HashMap::with_capacity(count);
        let mut active = Vec::with_capacity(count);
        for (index, prompt) in prompts.into_iter().enumerate() {
            let request = Request {
                prompt: prompt.clone(),
                params: options.sampling,
                max_tokens: options.max_tokens,
                stop_ids: stop_ids.clone(),
                logprobs: options.logprobs,
                adapter: options.adapter,
                ..Request::default()
            };
            let id = engine.add_request(request).map_err(|e| at_prompt(index, count, e.into()))?;
            index_of.insert(id, index);
            let stream = self.hub.tokenizer().map(|tokenizer| tokenizer.stream(true).continued());
            active.push(Active::new(prompt, stream, &stop_ids, options));
        }
        while engine.has_work() {
            for output in engine.step()? {
                let (id, finished, index) = (output.id, output.finished, index_of[&output.id]);
                let current = &mut active[index];
                let Some(reason) = current.take(output, &mut |text| on_text(index, text)) else { continue };
                let finished =
                    finished.or_else(|| engine.abort(id)).expect("a request without an end is in the engine");
                current.finish(Finished { reason, ..finished }, &mut |text| on_text(index, text));
                if reason == FinishReason::NotFinite {
                    let tokens = current.completion.tokens.len();
                    return Err(at_prompt(index, count, Error::NotFinite { tokens }));
                }
            }
        }
        Ok(active.into_iter().map(|a| a.completion).collect())
    }
}

/// A completion on its way.
struct Active {
    generation: Generation,
    completion: Completion,
}

impl Active {
    fn new(prompt: Vec<u32>, stream: Option<TextStream>, stop_ids: &[u32], options: &GenerateOptions) -> Self {
        Active {
            generation: Generation::new(stream, stop_ids.to_vec(), options.stop.clone()),
            completion: Completion {
                prompt_tokens: prompt,
                tokens: Vec::new(),
                text: String::new(),
                finish_reason: FinishReason::Length,
                logprobs: options.logprobs.map(|_| Vec::new()),
                steps: 0,
                max_batch: 0,
                timing: Timing::default(),
            },
        }
    }

    /// Takes a step's output; returns the reason when it is the last one.
    fn take(&mut self, output: Output, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Option<FinishReason> {
        let mut flow = ControlFlow::Continue(());
        if let Some(token) = output.token {
            self.completion.tokens.push(token);
            if let Some(logprobs) = &mut self.completion.logprobs {
                logprobs.push(output.logprobs);
            }
            let text = self.generation.push(token);
            self.completion.text.push_str(&text);
            flow = on_text(&text);
        }
        if self.generation.stopped() {
            return Some(FinishReason::Stop);
        }
        let own = output.finished.map(|finished| finished.reason);
        own.or(flow.is_break().then_some(FinishReason::Abort))
    }

    fn finish(&mut self, finished: Finished, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) {
        let rest = self.generation.finish();
        if !rest.is_empty() {
            self.completion.text.push_str(&rest);
            // It has ended already: there is nothing left to break off.
            let _ = on_text(&rest);
        }
        let Finished { reason, stats } = finished;
        let completion = &mut self.completion;
        completion.finish_reason = if self.generation.stopped() { FinishReason::Stop } else { reason };
        (completion.steps, completion.max_batch) = (stats.steps, stats.max_batch);
        completion.timing = Timing::new(&stats, completion.prompt_tokens.len(), completion.tokens.len());
    }
}

/// Says which of several prompts failed.
fn at_prompt(index: usize, count: usize, error: Error) -> Error {
    if count > 1 { Error::Prompt { index, count, source: Box::new(error) } } else { error }
}
