//! `nxd serve`: a model behind OpenAI's API.

mod banner;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nxd::models::{Adapter, Model as Files};
use nxd::{Error, LoadOptions};
use nxd_engine::Engine;
use nxd_engine::service::{Limits, Service};
use nxd_executor::plan::{MemoryPlan, plan};
use nxd_executor::{Device, memory};
use nxd_server::{Loading, OnEngineFailure, ServeError, Server, ServerOptions};

use super::load;
use crate::args::{EngineFailure, LimitArgs, LoraModule, ServeArgs};
use crate::failure::{Failure, Kind};

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let options = server_options(args);
    let name = options.served_model_names.first().cloned().unwrap_or_default();
    let mut names: Vec<&str> = options.served_model_names.iter().map(String::as_str).collect();
    for LoraModule { name, .. } in &args.lora_modules {
        if names.contains(&name.as_str()) {
            let twice =
                format!("--lora-modules: the name `{name}` is taken; models and adapters have names of their own");
            return Err(Failure::new(Kind::Usage, twice));
        }
        names.push(name);
    }
    let has_keys = !options.api_keys.is_empty();
    let server = Server::bind(options).map_err(|error| cannot_serve(error, args))?;
    let address = server.address();
    eprintln!("nxd {}: listening on http://{address}, loading {} …", env!("CARGO_PKG_VERSION"), args.model);
    let loading = load::options(&args.runtime, &args.engine.of_a_server());
    let threads = loading.executor_options().threads;
    let model = args.model.clone();
    let planned = Arc::new(OnceLock::new());
    let plan = Arc::clone(&planned);
    let adapters = args.lora_modules.clone();
    let load = move |server: &Loading| open((&model, &adapters), &loading, server, &plan);
    let ready = |handle: &nxd_engine::service::Handle| {
        let banner = banner::Banner { handle, name: &name, address, has_keys, threads, planned: planned.get() };
        eprintln!("{banner}\nready in {:.1} s", began.elapsed().as_secs_f64());
    };
    server.run(load, ready).map_err(|error| cannot_serve(error, args))
}

/// Loads the model and starts its engine. On the CPU, what is planned for its memory is said beforehand: afterwards the weights are there,
/// and what is left is less.
fn open(
    (model, adapters): (&str, &[LoraModule]),
    options: &LoadOptions,
    server: &Loading,
    planned: &OnceLock<MemoryPlan>,
) -> Result<Service, Failure> {
    let path = load::resolve(model)?;
    let executor_options = options.executor_options();
    let load = |files: &Files| {
        if executor_options.device == Device::Cpu
            && let Ok(plan) = plan(files, &executor_options, &memory::look())
        {
            // It is set once, as a server loads one model.
            let _ = planned.set(plan);
        }
        nxd_executor::load(files, &executor_options)
    };
    let opened = Files::open_beside(&path, options.load_mode, load);
    let (files, executor) = opened.map_err(|error| load::failure(&Error::from(error)))?;
    let mut engine = Engine::new(executor.map_err(load::executor_failure)?, options.engine_options());
    for LoraModule { name, path } in adapters {
        let adapter = Adapter::open(path, &files, options.load_mode).map_err(|error| load::failure(&error.into()))?;
        server.adapter(&mut engine, name, &adapter).map_err(|error| load::failure(&error.into()))?;
    }
    let started = server.start(engine, Arc::new(files));
    started.map_err(|error| Failure::new(Kind::Failed, format!("cannot start the engine's thread: {error}")))
}

/// The server's options, as the flags say.
fn server_options(args: &ServeArgs) -> ServerOptions {
    let LimitArgs { max_num_queued_reqs, max_num_queued_tokens, .. } = args.limits;
    let names = &args.served_model_name;
    ServerOptions {
        host: args.host.clone(),
        port: args.port,
        served_model_names: if names.is_empty() { vec![typed_name(&args.model)] } else { names.clone() },
        api_keys: args.access.api_key.clone(),
        public_metrics: args.access.public_metrics,
        cors_origins: args.access.cors_origins.clone(),
        queue: Limits {
            max_queued_requests: max_num_queued_reqs.unwrap_or(args.engine.max_num_seqs.saturating_mul(4)),
            max_queued_tokens: max_num_queued_tokens,
        },
        queue_timeout: args.limits.queue_timeout,
        request_timeout: args.limits.request_timeout,
        step_timeout: args.limits.step_timeout,
        on_engine_failure: match args.limits.on_engine_failure {
            EngineFailure::Exit => OnEngineFailure::Exit,
            EngineFailure::Stay => OnEngineFailure::Stay,
        },
        shutdown_timeout: args.limits.shutdown_timeout,
        max_body_bytes: usize::try_from(args.limits.max_body).unwrap_or(usize::MAX),
        max_bodies_bytes: usize::try_from(args.limits.max_bodies).unwrap_or(usize::MAX),
        max_connections: args.limits.max_connections,
        header_timeout: args.limits.header_timeout,
        body_timeout: args.limits.body_timeout,
        write_timeout: args.limits.write_timeout,
        ping_interval: args.api.sse_ping_interval,
        max_n: args.api.max_n,
        max_logprobs: args.api.max_logprobs,
        allow_runtime_lora_updating: args.allow_runtime_lora_updating,
        trust_request_chat_template: args.api.trust_request_chat_template,
        tool_call_parser: args.api.tool_call_parser.clone(),
        thread_start: nxd_cpu::team::run_behind,
        ..ServerOptions::default()
    }
}

/// The name of a model as it was typed; of a path, its last part, so that replies tell nothing of this machine's folders.
fn typed_name(model: &str) -> String {
    let path = Path::new(model);
    if !path.exists() {
        return model.to_owned();
    }
    // `.` and `..` have names only once they are resolved.
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if whole.is_file() { whole.file_stem() } else { whole.file_name() };
    name.map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// What a user sees when the server does not run.
fn cannot_serve(error: ServeError<Failure>, args: &ServeArgs) -> Failure {
    let failure = |kind, error: &ServeError<Failure>| {
        let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        Failure::new(kind, format!("{error}{cause}"))
    };
    let help = match &error {
        ServeError::Load(_) => None,
        ServeError::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse => Some(format!(
            "another program listens there; `ss -ltnp 'sport = :{port}'` says which one; choose another port with --port, or \
             --port 0 for any free one",
            port = args.port
        )),
        ServeError::Bind { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Some("ports below 1024 need privileges; choose another one with --port".to_owned())
        }
        ServeError::Bind { .. } | ServeError::Host { .. } => {
            Some("--host takes an address of this machine: 127.0.0.1, 0.0.0.0 for all of them, or a name".to_owned())
        }
        _ => None,
    };
    let failure = match error {
        ServeError::Load(failure) => return failure,
        ServeError::Bind { .. } | ServeError::Host { .. } => failure(Kind::Bind, &error),
        error => failure(Kind::Failed, &error),
    };
    match help {
        Some(help) => failure.with_help(help),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_give_their_last_part_and_other_names_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.Q4_1.gguf");
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(dir.path().join("folder-1.5B")).unwrap();
        assert_eq!(typed_name(file.to_str().unwrap()), "model.Q4_1");
        assert_eq!(typed_name(dir.path().join("folder-1.5B/").to_str().unwrap()), "folder-1.5B");
        assert_eq!(typed_name("org/name:Q4_K_M"), "org/name:Q4_K_M");
    }
}
