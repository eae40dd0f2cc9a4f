//! A server of the demo model for tests: started on a free port, killed when it goes.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// An unoptimised server on a busy machine is up long before.
const START: Duration = Duration::from_secs(120);
/// How often a server that starts is looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// What stands before the address in what the server says.
const LISTENING: &str = "listening on http://";
/// Lines of the server's log that a failure shows.
const SHOWN_LINES: usize = 40;

/// A server that answers.
pub(crate) struct Served {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Served {
    /// Starts `nxd serve demo` with `flags` and waits until it can generate; what it says goes to the file `log`.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start(workspace: &Workspace, nxd: &Path, flags: &[&str], log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let mut command = workspace.program(nxd);
        command.args(["serve", "demo", "--port", "0"]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", nxd.display()))?;
        // From here on the child is killed whatever happens.
        let mut served = Served { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        let deadline = Instant::now() + START;
        served.address = served.wait(deadline, "does not say where it listens", |served| {
            fs::read_to_string(&served.log).ok().as_deref().and_then(address)
        })?;
        served.wait(deadline, "is not healthy", |served| is_healthy(served.address).then_some(()))?;
        Ok(served)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The end of what the server said.
    pub(crate) fn last_words(&self) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    fn wait<T>(&mut self, deadline: Instant, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait().context("cannot ask for the server's state")? {
                bail!("the server ended ({status}) before it could generate:\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("after {} s the server {what}:\n{}", START.as_secs(), self.last_words());
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // One that has ended already is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in a complete line of the log.
fn address(said: &str) -> Option<SocketAddr> {
    let (_, rest) = said.split_once(LISTENING)?;
    let (line, _) = rest.split_once('\n')?;
    let is_part = |c: char| c.is_ascii_hexdigit() || ".:[]".contains(c);
    line.split(|c| !is_part(c)).next()?.parse().ok()
}

fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(b"GET /health HTTP/1.1\r\nHost: nxd\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        connection.take(4096).read_to_string(&mut reply)?;
        Ok(reply)
    };
    ask().is_ok_and(|reply| reply.starts_with("HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_address_stands_in_a_whole_line_of_the_log() {
        let found = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        assert_eq!(address("weights 80 MiB\nlistening on http://127.0.0.1:4711\n"), found);
        assert_eq!(address("listening on http://127.0.0.1:4711/ (Ctrl-C ends)\n"), found);
        assert!(address("listening on http://[::1]:80\n").is_some());
        for said in ["", "listening on http://127.0.0.1:47", "listening on a socket\n"] {
            assert_eq!(address(said), None, "{said}");
        }
    }

    #[test]
    fn a_server_is_healthy_when_it_says_200() {
        for (reply, healthy) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 503 \r\n\r\n", false), ("", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                let mut asked = [0; 1024];
                assert!(connection.read(&mut asked).unwrap() > 0);
                connection.write_all(reply.as_bytes()).unwrap();
            });
            assert_eq!(is_healthy(address), healthy, "{reply}");
            server.join().unwrap();
        }
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::locate().unwrap();
        let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap());
        // cargo has no subcommand `serve`, and says so.
        let error = Served::start(&workspace, &cargo, &[], folder.path().join("log")).err().unwrap().to_string();
        assert!(error.contains("the server ended") && error.contains("serve"), "{error}");
    }
}
