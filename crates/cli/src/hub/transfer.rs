//! Brings one file of a repository into the cache: resumed where it was cut, its length and hash checked, then linked.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use super::cache::RepoCache;
use super::client::{Bytes, Client, Reply};
use super::digest::{self, Hasher};
use super::error::HubError;
use super::progress::Progress;
use super::{Settings, lock, select};

/// How often a connection may be cut before the command gives up; each time some bytes must have come.
const MOST_CUTS: usize = 5;

/// A file to fetch.
pub(super) struct Request<'a> {
    /// The model's name, for messages.
    pub(super) model: &'a str,
    pub(super) url: String,
    /// The file's name in the repository.
    pub(super) name: &'a str,
    pub(super) commit: &'a str,
    /// The hash that the hub's listing gives.
    pub(super) listed_sha256: Option<&'a str>,
}

/// Fetches, checks and links; does nothing when the file is there.
pub(super) fn fetch(
    client: &Client,
    cache: &RepoCache,
    settings: &Settings,
    request: &Request,
) -> Result<(), HubError> {
    if cache.snapshot(request.commit).join(request.name).is_file() {
        return Ok(());
    }
    let mut reply = None;
    let etag = match request.listed_sha256 {
        Some(sha256) => sha256.to_owned(),
        None => {
            // A whole file is asked for at once, unless something was left half way: then its name has to be known first.
            let bytes = if cache.has_partials() { Bytes::First } else { Bytes::All };
            let first = ask(client, request, bytes)?.ok_or_else(|| bad(request, "no content"))?;
            let etag = first.etag.clone().ok_or_else(|| bad(request, "no `ETag`"))?;
            reply = (bytes == Bytes::All).then_some(first);
            etag
        }
    };
    if !select::is_plain(&etag) {
        return Err(bad(request, "an `ETag` that cannot be a file name"));
    }
    let partial = cache.partial(&etag);
    let _lock = lock::acquire(&cache.lock(&etag), settings.patience, || length(&partial))?;
    if !cache.blob(&etag).is_file() {
        let blobs = partial.parent().unwrap_or(&partial);
        fs::create_dir_all(blobs).map_err(io_at("cannot create", blobs))?;
        receive(client, request, &partial, &etag, reply)?;
        fs::rename(&partial, cache.blob(&etag)).map_err(io_at("cannot rename", &partial))?;
    }
    let pointer = cache.snapshot(request.commit).join(request.name);
    cache.link(request.commit, request.name, &etag).map_err(io_at("cannot link", &pointer))
}

/// Fills `partial` to its end, over as many connections as it takes, and checks it.
fn receive(
    client: &Client,
    request: &Request,
    partial: &Path,
    etag: &str,
    mut reply: Option<Reply>,
) -> Result<(), HubError> {
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(partial);
    let file = &mut opened.map_err(io_at("cannot create", partial))?;
    for cuts in 0.. {
        let from = if reply.is_some() { 0 } else { length(partial) };
        let bytes = if from > 0 { Bytes::From(from) } else { Bytes::All };
        let answer = match reply.take() {
            Some(first) => Some(first),
            None => ask(client, request, bytes)?,
        };
        let Some(answer) = answer else {
            // Nothing after what we have: it is all there already, or it is of something else. The hash tells.
            return check(request, file, partial, etag, None).or_else(|_| {
                fs::remove_file(partial).map_err(io_at("cannot remove", partial))?;
                Err(HubError::Cut { url: request.url.clone(), got: 0 })
            });
        };
        let total = answer.total;
        match write_body(client, file, partial, answer) {
            Ok(()) => return check(request, file, partial, etag, total),
            Err(HubError::Cut { got, .. }) if got > from && cuts < MOST_CUTS => {
                tracing::warn!(url = request.url, got, "the connection was cut; asking for the rest");
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop ends by returning")
}

fn write_body(client: &Client, file: &mut File, partial: &Path, answer: Reply) -> Result<(), HubError> {
    let url = answer.url.clone();
    let (start, total) = (answer.start, answer.total);
    if start > length(partial) {
        return Err(HubError::BadAnswer { url, why: format!("it begins at byte {start}, past what was asked") });
    }
    file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start))).map_err(io_at("cannot write", partial))?;
    let mut progress = Progress::new(&shown_name(&url), total, start);
    let mut body = answer.into_reader();
    let mut buffer = vec![0; 256 << 10];
    let mut got = start;
    loop {
        let n = client.read(&url, &mut body, &mut buffer, got)?;
        if n == 0 {
            break;
        }
        got += n as u64;
        if let Some(total) = total.filter(|total| got > *total) {
            return Err(HubError::WrongLength { url, expected: total, found: got });
        }
        file.write_all(&buffer[..n]).map_err(io_at("cannot write", partial))?;
        progress.advance(n as u64);
    }
    match total {
        Some(total) if got < total => Err(HubError::Cut { url, got }),
        _ => file.sync_all().map_err(io_at("cannot write", partial)),
    }
}

/// Length and every known hash; a file that fails is removed.
fn check(request: &Request, file: &mut File, partial: &Path, etag: &str, total: Option<u64>) -> Result<(), HubError> {
    let found = length(partial);
    if let Some(expected) = total.filter(|total| *total != found) {
        return Err(HubError::WrongLength { url: request.url.clone(), expected, found });
    }
    let hashes: Vec<&str> = request.listed_sha256.into_iter().chain([etag]).filter(|h| digest::is_sha256(h)).collect();
    if hashes.is_empty() {
        return Ok(());
    }
    let mut hasher = Hasher::default();
    file.rewind().and_then(|()| digest::feed(&mut hasher, file)).map_err(io_at("cannot read", partial))?;
    let found = hasher.hex();
    match hashes.iter().find(|hash| !hash.eq_ignore_ascii_case(&found)) {
        None => Ok(()),
        Some(expected) => {
            fs::remove_file(partial).map_err(io_at("cannot remove", partial))?;
            Err(HubError::WrongHash { what: request.url.clone(), expected: (*expected).to_owned(), found })
        }
    }
}

fn ask(client: &Client, request: &Request, bytes: Bytes) -> Result<Option<Reply>, HubError> {
    let reply = client.get(request.model, &request.url, bytes)?;
    match reply.as_ref().and_then(|reply| reply.commit.as_deref()) {
        Some(commit) if commit != request.commit => Err(HubError::BadAnswer {
            url: request.url.clone(),
            why: format!("it is of commit {commit}, not {}: the model has just been changed", request.commit),
        }),
        _ => Ok(reply),
    }
}

fn bad(request: &Request, why: &str) -> HubError {
    HubError::BadAnswer { url: request.url.clone(), why: why.to_owned() }
}

fn shown_name(url: &str) -> String {
    let path = url.split('?').next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

fn io_at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { doing, path, source }
}
