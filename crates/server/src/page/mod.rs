//! The chat page: one document in the binary, served under a policy that lets nothing run but its own script.

use crate::state::App;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const DOCUMENT: &str = include_str!("index.html");
const STYLE: &str = include_str!("style.css");
/// One script in parts, in the order in which they build on each other.
const SCRIPT: &str = concat!(
    include_str!("browser.js"),
    include_str!("markdown.js"),
    include_str!("server.js"),
    include_str!("chat.js"),
    include_str!("status.js"),
    include_str!("controls.js"),
);

/// `GET /`. The page needs no key: it holds nothing of the server's, and it is where a key is asked for.
pub fn routes() -> Router<Arc<App>> {
    let page = Arc::new(Page::new());
    Router::new().route("/", get(move |request: HeaderMap| std::future::ready(page.reply(&request))))
}

struct Page {
    document: String,
    policy: HeaderValue,
    etag: HeaderValue,
}

impl Page {
    /// The hashes are taken from what is sent, so that they cannot be out of date.
    fn new() -> Self {
        let document = DOCUMENT.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT);
        let policy = format!(
            "default-src 'none'; connect-src 'self'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        let etag = format!("\"{}\"", hash(&document));
        let value =
            |text: String| HeaderValue::try_from(text).expect("base64 and the letters above may stand in headers");
        Page { policy: value(policy), etag: value(etag), document }
    }

    fn reply(&self, request: &HeaderMap) -> Response {
        let headers = [
            (header::CONTENT_SECURITY_POLICY, self.policy.clone()),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            // A browser asks each time and mostly gets 304: a page of an older server never meets a newer one.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::ETAG, self.etag.clone()),
        ];
        if self.is_known(request) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let html = [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
        (headers, html, self.document.clone()).into_response()
    }

    fn is_known(&self, request: &HeaderMap) -> bool {
        let tags = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        tags.flat_map(|list| list.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes())
    }
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ServerOptions;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    /// The reply to `GET /`, as a client gets it.
    fn get_page(if_none_match: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let app = routes().with_state(Arc::new(App::new(ServerOptions::default())));
        let mut request = Request::get("/");
        if let Some(tags) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tags);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    /// What stands between the tags, as a browser reads it.
    fn inside<'a>(page: &'a str, tag: &str) -> &'a str {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!((page.matches(&open).count(), page.matches(&close).count()), (1, 1), "one {tag}");
        page.split_once(&open).unwrap().1.split_once(&close).unwrap().0
    }

    #[test]
    fn the_policy_allows_the_style_and_the_script_that_are_sent_and_no_others() {
        let (status, headers, page) = get_page(None);
        assert_eq!(status, StatusCode::OK);
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        let allowed = |rule: &str| policy.split("; ").find_map(|part| part.strip_prefix(rule)).unwrap().to_owned();
        assert_eq!(allowed("default-src "), "'none'");
        assert_eq!(allowed("style-src "), format!("'sha256-{}'", hash(inside(&page, "style"))));
        assert_eq!(allowed("script-src "), format!("'sha256-{}'", hash(inside(&page, "script"))));
        // Browsers hash the text with line ends made one character; with others in the file the hashes would differ.
        assert!(!page.contains('\r'));
    }

    #[test]
    fn the_page_is_never_guessed_at_and_says_nothing_to_others() {
        let (_, headers, _) = get_page(None);
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
    }

    #[test]
    fn a_browser_that_has_the_page_is_not_sent_it_again() {
        let (_, headers, _) = get_page(None);
        let etag = headers[header::ETAG].to_str().unwrap().to_owned();
        for tags in [etag.clone(), format!("\"old\", W/{etag}"), "*".to_owned()] {
            let (status, headers, body) = get_page(Some(&tags));
            assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{tags}");
            assert_eq!(headers[header::ETAG], etag.as_str());
        }
        assert_eq!(get_page(Some("\"old\"")).0, StatusCode::OK);
    }

    #[test]
    fn the_page_asks_nobody_else_for_anything() {
        let (_, _, page) = get_page(None);
        for outside in ["http://", "https://", "src=\"", "@import", "url(", "{{"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn no_text_is_ever_parsed_as_html_or_run() {
        let (_, _, page) = get_page(None);
        for door in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", " style=", " onclick="]
        {
            assert!(!page.contains(door), "{door}");
        }
    }
}
