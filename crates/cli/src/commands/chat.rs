//! `nxd chat`: a conversation in the terminal.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use nxd::{Completion, FinishReason, GenerateOptions, Message, Model};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::{generate, load};
use crate::args::ChatArgs;
use crate::failure::{Failure, Kind};
use crate::output;

const HELP: &str = "\
/help           this list
/system [TEXT]  set the system message and start anew; without TEXT there is none
/reset          start anew
/stats          tokens and rates of the last answer
/quit           leave; Ctrl-D does too, Ctrl-C stops an answer";

/// Runs the command.
pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let model = load::load(&args.model, &args.runtime, &args.engine)?;
    let adapter = load::adapter(&model, args.lora.as_deref())?;
    let mut conversation = Conversation {
        options: GenerateOptions { adapter, ..generate::options(&args.sampling) },
        messages: args.system.iter().map(Message::system).collect(),
        last: None,
        interrupted: listen()?,
    };
    let terminal = |error: ReadlineError| Failure::new(Kind::Failed, format!("cannot read from the terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    eprintln!("/help lists the commands");
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue, // Ctrl-C at the prompt clears the line
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal(error)),
        };
        let line = line.trim();
        // A history that cannot grow is no reason to stop talking.
        let _ = editor.add_history_entry(line);
        if line == "/quit" || line == "/exit" {
            return Ok(());
        }
        match line.strip_prefix('/') {
            Some(command) => conversation.command(command),
            None if line.is_empty() => {}
            None => conversation.answer(&model, line)?,
        }
    }
}

struct Conversation {
    options: GenerateOptions,
    messages: Vec<Message>,
    last: Option<Completion>,
    interrupted: Arc<AtomicBool>,
}

impl Conversation {
    fn command(&mut self, command: &str) {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match name {
            "help" => eprintln!("{HELP}"),
            "system" => {
                self.messages.clear();
                if !rest.trim().is_empty() {
                    self.messages.push(Message::system(rest.trim()));
                }
            }
            "reset" => self.messages.retain(|m| m.role == "system"),
            "stats" => match &self.last {
                Some(last) => eprintln!(
                    "prompt {} tokens at {:.1}/s, answer {} tokens at {:.1}/s",
                    last.prompt_tokens.len(),
                    last.timing.prompt_tokens_per_s,
                    last.tokens.len(),
                    last.timing.tokens_per_s
                ),
                None => eprintln!("there was no answer yet"),
            },
            other => eprintln!("/{other} is not a command; /help lists them"),
        }
    }

    /// Lets the model answer; a request that fails ends the turn, not the conversation.
    fn answer(&mut self, model: &Model, text: &str) -> Result<(), Failure> {
        self.messages.push(Message::user(text));
        self.interrupted.store(false, Ordering::Relaxed);
        let mut printed = Ok(());
        let print = |text: &str| {
            printed = output::raw(text.as_bytes());
            let stop = printed.is_err() || self.interrupted.load(Ordering::Relaxed);
            if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let answered = model.generate_stream(&self.messages[..], self.options.clone(), print);
        printed?;
        output::line("")?;
        match answered {
            Ok(completion) => {
                if completion.finish_reason == FinishReason::Abort {
                    eprintln!("(stopped)");
                }
                self.messages.push(Message::assistant(completion.text.clone()));
                self.last = Some(completion);
            }
            Err(error) => {
                self.messages.pop();
                eprintln!("{}", load::failure(&error));
            }
        }
        Ok(())
    }
}

/// A flag that Ctrl-C sets while an answer runs; at the prompt the line editor sees the key itself.
///
/// Call it before the line editor is made: that puts back, after each line, the handler which it found.
fn listen() -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error: std::io::Error| Failure::new(Kind::Failed, format!("cannot listen for Ctrl-C: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    // The first poll installs the handler; it must not be left to the thread, which starts when it likes.
    let mut signal = Box::pin(tokio::signal::ctrl_c());
    let first = runtime.block_on(poll_fn(|context| Poll::Ready(signal.as_mut().poll(context))));
    if let Poll::Ready(Err(error)) = first {
        return Err(failed(error));
    }
    let listen = move || {
        runtime.block_on(async {
            while signal.await.is_ok() {
                set.store(true, Ordering::Relaxed);
                signal = Box::pin(tokio::signal::ctrl_c());
            }
        });
    };
    std::thread::Builder::new().name("nxd-ctrl-c".to_owned()).spawn(listen).map_err(failed)?;
    Ok(flag)
}
