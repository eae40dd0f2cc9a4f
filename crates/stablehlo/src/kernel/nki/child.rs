//! Runs a program with a text on its input, for so long and no longer, and takes so much of its output and no more.

use super::NkiError;
use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The most that an answer may have.
const ANSWER_BYTES: u64 = 16 << 20;
/// How much of what was printed besides is told in an error.
const TOLD_BYTES: usize = 2000;
/// How long output may still come after the program has ended: a program that it started may hold its output open.
const GRACE: Duration = Duration::from_secs(2);

/// What a program answered.
pub(super) struct Answer {
    /// Its standard output.
    pub(super) output: Vec<u8>,
    /// How it ended, and the end of what it printed besides.
    pub(super) ending: String,
}

/// Runs `command` (a program and its first arguments) with `arguments`, `input` on its standard input.
pub(super) fn run(
    command: &[OsString],
    arguments: &[&str],
    input: Vec<u8>,
    deadline: Duration,
) -> Result<Answer, NkiError> {
    let end = Instant::now() + deadline;
    let program = command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    let failed = |source| NkiError::Interpreter { program: program.clone(), source };
    let Some((first, rest)) = command.split_first() else {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "no program is named")));
    };
    let mut process = Command::new(first);
    process.args(rest).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that compilers which it starts end with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut process, 0);
    let mut child = process.spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that reads nothing must not keep us; the write ends when the program does.
        thread::spawn(move || pipe.write_all(&input));
    }
    let output = child.stdout.take().map(|pipe| on_thread(move || beginning(pipe)));
    let errors = child.stderr.take().map(|pipe| on_thread(move || end_of(pipe)));
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                stop(&mut child);
                return Err(NkiError::Slow { program, seconds: deadline.as_secs_f64() });
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let (output, errors) = (taken(output), taken(errors));
    let ending = match String::from_utf8_lossy(&errors).trim() {
        "" => format!("{status}"),
        text => format!("{status}: {text}"),
    };
    if output.len() as u64 > ANSWER_BYTES {
        return Err(NkiError::Garbage { program, found: format!("more than {ANSWER_BYTES} bytes"), ending });
    }
    Ok(Answer { output, ending })
}

/// The first bytes of what is printed, one more than an answer may have; who prints more finds nobody listening.
fn beginning(pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before a failure is as good as it gets.
    let _ = pipe.take(ANSWER_BYTES + 1).read_to_end(&mut bytes);
    bytes
}

/// The last bytes of what is printed.
fn end_of(mut pipe: impl Read) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = pipe.read(&mut piece) {
        bytes.extend(&piece[..count]);
        let old = bytes.len().saturating_sub(TOLD_BYTES);
        bytes.drain(..old);
    }
    bytes
}

fn on_thread(read: impl FnOnce() -> Vec<u8> + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        // Nobody listens any more when the deadline has passed.
        let _ = sender.send(read());
    });
    receiver
}

fn taken(receiver: Option<Receiver<Vec<u8>>>) -> Vec<u8> {
    receiver.and_then(|receiver| receiver.recv_timeout(GRACE).ok()).unwrap_or_default()
}

/// Ends a program and what it started.
fn stop(child: &mut Child) {
    #[cfg(unix)]
    {
        // The standard library ends one process only.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}
