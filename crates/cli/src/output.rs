//! Results on stdout. A reader that goes away, as in `nxd … | head`, is no failure.

use std::io::{self, ErrorKind, Write};

use crate::failure::{Failure, Kind};

/// Writes `text` and a newline.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    ended(writeln!(io::stdout().lock(), "{text}"))
}

/// Writes `bytes` as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    ended(out.write_all(bytes).and_then(|()| out.flush()))
}

fn ended(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Kind::Failed, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes `value` as JSON and a newline.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot write the result as JSON: {error}")))?;
    line(&text)
}
