//! A model hub of one repository, small enough to misbehave on request: cut, stall, lie, refuse.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the hub behaves.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// Every request is answered so.
    pub(crate) status: Option<u16>,
    /// Requests without this token are answered 401.
    pub(crate) token: Option<&'static str>,
    /// Bodies end after so many bytes of the file, this many times.
    pub(crate) cut_at: Option<(usize, usize)>,
    /// Files never arrive, though their headers do.
    pub(crate) stall: bool,
    /// The hash that is announced is of something else.
    pub(crate) wrong_hash: bool,
    /// Files lie on another host, told by a redirect; it must not see the token.
    pub(crate) redirect: bool,
    /// Ranges are ignored.
    pub(crate) no_ranges: bool,
}

/// A running hub; its thread ends with the test's process.
pub(crate) struct FakeHub {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    manners: Manners,
    requests: Vec<String>,
}

impl FakeHub {
    pub(crate) fn start(files: &[(&str, &[u8])], manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let shared = Arc::new(Mutex::new(Shared { files, manners, requests: Vec::new() }));
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&theirs);
                // A client that goes away is not this thread's trouble.
                thread::spawn(move || drop(answer(&stream, &shared)));
            }
        });
        Self { url, shared }
    }

    /// `GET path [range]` of every request since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().requests)
    }

    pub(crate) fn behave(&self, manners: Manners) {
        self.shared.lock().unwrap().manners = manners;
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(mut stream: &TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut auth) = (None, None);
    for line in lines {
        let line = line?;
        let lower = line.to_ascii_lowercase();
        if let Some(start) = lower.strip_prefix("range: bytes=") {
            let (start, end) = start.split_once('-').unwrap();
            range = Some((start.parse::<usize>().unwrap(), end.parse::<usize>().ok()));
        }
        if lower.starts_with("authorization: ") {
            auth = line.split_once(' ').map(|(_, value)| value.to_owned());
        }
        if line.is_empty() {
            break;
        }
    }

    let mut state = shared.lock().unwrap();
    let asked = range.map(|(start, _)| format!(" from {start}")).unwrap_or_default();
    let signed = if auth.is_some() { " signed" } else { "" };
    state.requests.push(format!("{path}{asked}{signed}"));
    let manners = state.manners.clone();
    let allowed =
        manners.token.is_none_or(|token| auth == Some(format!("Bearer {token}")) || path.starts_with("/storage/"));
    if let Some(status) = manners.status.or((!allowed).then_some(401)) {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if path.starts_with("/api/models/") {
        let names = state.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect::<Vec<_>>();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }
    let stored = path.strip_prefix("/storage/");
    let name = stored.unwrap_or_else(|| path.splitn(6, '/').nth(5).unwrap_or_default());
    let Some(bytes) = state.files.get(name).cloned() else {
        return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let etag = if manners.wrong_hash { sha256(b"something else") } else { sha256(&bytes) };
    if manners.redirect && stored.is_none() {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: http://localhost:{}/storage/{name}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\n\
             X-Linked-Size: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            stream.local_addr()?.port(),
            bytes.len()
        );
    }
    let range = range.filter(|_| !manners.no_ranges);
    let start = range.map_or(0, |(start, _)| start);
    let end = range.and_then(|(_, end)| end).map_or(bytes.len(), |end| (end + 1).min(bytes.len()));
    if start >= bytes.len() {
        return write!(
            stream,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            bytes.len()
        );
    }
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    // A storage host's own etag must not be taken for the content's hash.
    let etag = if stored.is_some() { "storage-etag".to_owned() } else { etag };
    let total = bytes.len();
    let last = end - 1;
    let length = end - start;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Range: bytes {start}-{last}/{total}\r\nETag: \"{etag}\"\r\n\
         Connection: close\r\n{}\r\n",
        if stored.is_none() { format!("X-Repo-Commit: {COMMIT}\r\n") } else { String::new() }
    )?;
    if manners.stall {
        drop(state);
        thread::sleep(Duration::from_secs(60));
        return Ok(());
    }
    let mut end = end;
    if let Some((at, times)) = &mut state.manners.cut_at
        && *times > 0
        && (start..end).contains(at)
    {
        *times -= 1;
        end = *at;
    }
    drop(state);
    stream.write_all(&bytes[start..end])
}
