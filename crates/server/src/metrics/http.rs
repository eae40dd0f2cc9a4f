//! Metrics of HTTP requests.

use super::{buckets, register};
use axum::http::Method;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use std::time::Duration;

pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl HttpMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let requests = Opts::new("http_requests_total", "Requests by handler, method and class of status.");
        let durations = HistogramOpts::new("http_request_duration_seconds", "Time to the last byte of the reply.");
        HttpMetrics {
            requests: register(registry, IntCounterVec::new(requests, &["handler", "method", "status"])),
            durations: register(
                registry,
                HistogramVec::new(durations.buckets(buckets::HTTP.to_vec()), &["handler", "method"]),
            ),
        }
    }

    /// Counts a request. `handler` is the pattern of a route, never a client's own text.
    pub(crate) fn count(&self, handler: &str, method: &Method, status: u16, elapsed: Duration) {
        // A client can make up methods, but no new series.
        let method = match *method {
            Method::GET | Method::POST | Method::HEAD | Method::OPTIONS | Method::DELETE | Method::PUT => {
                method.as_str()
            }
            _ => "other",
        };
        let class = match status {
            0..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[handler, method, class]).inc();
        self.durations.with_label_values(&[handler, method]).observe(elapsed.as_secs_f64());
    }
}
