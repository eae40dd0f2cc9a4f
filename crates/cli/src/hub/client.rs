//! HTTP to the hub: one request at a time, redirects followed by hand, silence bounded.
//!
//! Redirects are followed here because the hub puts commit and hash of a large file on the *first* answer, and because the
//! token must not travel to the storage host that the second one comes from.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::{Agent, Body, Error};

use super::Settings;
use super::error::HubError;

const MOST_REDIRECTS: usize = 5;

/// A connection to one hub, as one user.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    patience: Duration,
}

/// Which bytes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    All,
    From(u64),
    /// The first only: an answer for the sake of its headers.
    First,
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) url: String,
    /// The commit that the file belongs to.
    pub(super) commit: Option<String>,
    /// The content's name: a SHA-256 for large files.
    pub(super) etag: Option<String>,
    /// Length of the whole file.
    pub(super) total: Option<u64>,
    /// Where in the file the body begins.
    pub(super) start: u64,
    body: Body,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let patience = Some(settings.patience);
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().provider(TlsProvider::Rustls).build())
            .user_agent(concat!("nxd/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_send_request(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .build();
        Self {
            agent: config.into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            patience: settings.patience,
        }
    }

    /// `path` below the hub's address.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// Asks for `url`, on behalf of `model`. The answer to an unsatisfiable range is `None`.
    pub(super) fn get(&self, model: &str, url: &str, bytes: Bytes) -> Result<Option<Reply>, HubError> {
        let mut at = url.to_owned();
        let (mut commit, mut etag, mut linked_size) = (None, None, None);
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(&at, bytes)?;
            let headers = response.headers();
            commit = commit.or_else(|| text(headers, "x-repo-commit"));
            linked_size = linked_size.or_else(|| number(headers, "x-linked-size"));
            etag = etag.or_else(|| text(headers, "x-linked-etag").map(|etag| unquoted(&etag)));
            let status = response.status().as_u16();
            if (300..400).contains(&status)
                && let Some(location) = text(headers, "location")
            {
                at = next_url(&at, &location)?;
                continue;
            }
            match status {
                200 | 206 => {}
                401 => {
                    return Err(HubError::Unauthorised {
                        model: model.to_owned(),
                        url: at,
                        with_token: self.token.is_some(),
                    });
                }
                403 => return Err(HubError::Forbidden { model: model.to_owned(), url: at }),
                404 => return Err(HubError::NotFound { model: model.to_owned(), url: at }),
                416 if matches!(bytes, Bytes::From(_)) => return Ok(None),
                status => return Err(HubError::Status { model: model.to_owned(), url: at, status }),
            }
            // Another host's etag is no name of the content.
            let etag =
                etag.or_else(|| text(headers, "etag").filter(|_| same_origin(&at, url)).map(|etag| unquoted(&etag)));
            let (start, total) = match status {
                206 => content_range(&at, headers)?,
                _ => (0, number(headers, "content-length")),
            };
            let total = linked_size.or(total);
            return Ok(Some(Reply { url: at, commit, etag, total, start, body: response.into_body() }));
        }
        Err(HubError::BadAnswer { url: url.to_owned(), why: format!("more than {MOST_REDIRECTS} redirects") })
    }

    fn send(&self, url: &str, bytes: Bytes) -> Result<Response<Body>, HubError> {
        // Ranges count bytes of the file, so the server must not compress it.
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        request = match bytes {
            Bytes::All => request,
            Bytes::From(start) => request.header(header::RANGE, format!("bytes={start}-")),
            Bytes::First => request.header(header::RANGE, "bytes=0-0"),
        };
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().map_err(|error| match error {
            Error::Timeout(_) => HubError::Stalled { url: url.to_owned(), seconds: self.patience.as_secs() },
            other => HubError::Unreachable { url: url.to_owned(), source: Box::new(other) },
        })
    }

    /// Reads from a body; `got` is how much of the file there was before.
    pub(super) fn read(&self, url: &str, body: &mut dyn Read, buffer: &mut [u8], got: u64) -> Result<usize, HubError> {
        body.read(buffer).map_err(|error| match Error::from(error) {
            Error::Timeout(_) => HubError::Stalled { url: url.to_owned(), seconds: self.patience.as_secs() },
            _ => HubError::Cut { url: url.to_owned(), got },
        })
    }

    /// The whole body, at most `limit` bytes of it.
    pub(super) fn read_all(&self, reply: Reply, limit: usize) -> Result<Vec<u8>, HubError> {
        let url = reply.url.clone();
        let mut body = reply.into_reader();
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.read(&url, &mut body, &mut buffer, all.len() as u64)? {
                0 => return Ok(all),
                n if all.len() + n > limit => {
                    return Err(HubError::BadAnswer { url, why: format!("it is longer than {limit} bytes") });
                }
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }
}

impl Reply {
    pub(super) fn into_reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// `text` with everything escaped that would end a path or a segment of it.
pub(super) fn escaped(text: &str, keep: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || keep.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn next_url(from: &str, location: &str) -> Result<String, HubError> {
    let bad = |why: String| HubError::BadAnswer { url: from.to_owned(), why };
    if location.starts_with('/') && !location.starts_with("//") {
        let origin = origin(from).ok_or_else(|| bad("its address has no host".to_owned()))?;
        return Ok(format!("{}://{}{location}", origin.0, origin.1));
    }
    let downgrade = from.starts_with("https://") && !location.starts_with("https://");
    if downgrade || origin(location).is_none() {
        return Err(bad(format!("it redirects to `{location}`")));
    }
    Ok(location.to_owned())
}

fn same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some() && origin(a) == origin(b)
}

fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    Some((scheme.to_owned(), uri.authority()?.as_str().to_owned()))
}

fn content_range(url: &str, headers: &HeaderMap) -> Result<(u64, Option<u64>), HubError> {
    let parse = || {
        let (range, total) =
            text(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/').map(|(range, total)| {
                (range.split_once('-').and_then(|(start, _)| start.parse().ok()), total.parse().ok())
            })?;
        Some((range?, total))
    };
    parse().ok_or_else(|| HubError::BadAnswer { url: url.to_owned(), why: "no usable `Content-Range`".to_owned() })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

fn unquoted(etag: &str) -> String {
    etag.trim_start_matches("W/").replace('"', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_the_host_or_name_a_safe_one() {
        let from = "https://hub.example/a/b";
        assert_eq!(next_url(from, "/c?d").unwrap(), "https://hub.example/c?d");
        assert_eq!(next_url(from, "https://cdn.example/x").unwrap(), "https://cdn.example/x");
        for location in ["http://hub.example/x", "file:///etc/passwd", "//evil.example/x", "relative"] {
            assert!(next_url(from, location).is_err(), "{location}");
        }
        assert!(same_origin("http://h:1/a", "http://h:1") && !same_origin("http://h:1/a", "http://h:2"));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(escaped("a b/c?#ü", "/"), "a%20b/c%3F%23%C3%BC");
    }
}
