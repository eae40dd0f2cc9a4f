//! Metrics under vLLM's names, so that dashboards and routers that exist work as they are.
//!
//! Counters and histograms are fed by the engine's reports alone; gauges show the newest one.

use nxd_engine::service::{Ended, Failure, StepReport};
use nxd_engine::{FinishReason, ModelInfo};
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What the engine's thread calls with each report.
pub type Observer = Box<dyn FnMut(&StepReport) + Send>;

/// Bounds of counts of tokens.
const TOKENS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
    65536.0, 131_072.0,
];

/// Bounds of small counts.
const COUNTS: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0];

/// Bounds of times to a first token, in seconds.
const FIRST: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
];

/// Bounds of times between tokens, in seconds.
const BETWEEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

/// Bounds of whole requests' times, in seconds.
const WHOLE: &[f64] = &[
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Bounds of HTTP requests' times, in seconds.
const HTTP: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// All metrics of a server.
pub(crate) struct Metrics {
    registry: Registry,
    engine: Arc<EngineMetrics>,
    config: GaugeVec,
    memory: IntGauge,
    http_requests: IntCounterVec,
    http_duration: HistogramVec,
}

struct EngineMetrics {
    running: Gauge,
    waiting: Gauge,
    waiting_for_capacity: Gauge,
    kv_usage: Gauge,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    corrupted: IntCounter,
    success: IntCounterVec,
    failures: IntCounterVec,
    iteration_tokens: Histogram,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    of_prompt: Histogram,
    of_generation: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
    of_preemptions: Histogram,
}

/// Makes metrics with the labels that all of the engine's have, and registers them.
struct Maker<'r> {
    registry: &'r Registry,
    labels: HashMap<String, String>,
}

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("names and labels above are well formed");
        self.registry.register(Box::new(made.clone())).expect("names above are all different");
        made
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(self.opts(name, help)))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(self.opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(self.opts(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(bounds.to_vec());
        self.register(Histogram::with_opts(opts))
    }
}

impl Metrics {
    pub(crate) fn new(model_name: &str) -> Self {
        let registry = Registry::new();
        let pairs = [("model_name", model_name), ("engine", "0")];
        let labels = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let engine = Arc::new(EngineMetrics::new(&Maker { registry: &registry, labels }));
        let maker = Maker { registry: &registry, labels: HashMap::new() };
        let config = ["model_name", "engine", "block_size", "num_gpu_blocks", "kv_cache_size_tokens", "cache_dtype"];
        Metrics {
            config: maker.register(GaugeVec::new(
                Opts::new("vllm:cache_config_info", "The KV cache: blocks of its largest group, and tokens that it holds."),
                &config,
            )),
            memory: maker.register(IntGauge::new("process_resident_memory_bytes", "Memory that the process has.")),
            http_requests: maker.register(IntCounterVec::new(
                Opts::new("http_requests_total", "HTTP requests."),
                &["handler", "method", "status"],
            )),
            http_duration: maker.register(HistogramVec::new(
                HistogramOpts::new("http_request_duration_seconds", "From a request's head to the head of its answer.")
                    .buckets(HTTP.to_vec()),
                &["handler", "method"],
            )),
            engine,
            registry,
        }
    }

    /// Says what the loaded model's cache holds.
    pub(crate) fn loaded(&self, info: &ModelInfo) {
        let name = self.engine.running.desc().first().and_then(|desc| {
            desc.const_label_pairs.iter().find(|pair| pair.name() == "model_name").map(|pair| pair.value().to_owned())
        });
        let blocks = info.kv_groups.iter().map(|(_, blocks)| *blocks).max().unwrap_or(0);
        let values = [
            name.unwrap_or_default(),
            "0".to_owned(),
            info.block_size.to_string(),
            blocks.to_string(),
            blocks.saturating_mul(info.block_size).to_string(),
            info.kv_dtype.clone(),
        ];
        self.config.with_label_values(&values).set(1.0);
    }

    /// What feeds the engine's metrics.
    pub(crate) fn observer(&self) -> Observer {
        let engine = Arc::clone(&self.engine);
        Box::new(move |report| engine.observe(report))
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, handler: &str, method: &str, status: u16, took: Duration) {
        self.http_requests.with_label_values(&[handler, method, &status.to_string()]).inc();
        self.http_duration.with_label_values(&[handler, method]).observe(took.as_secs_f64());
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        self.memory.set(resident_bytes().unwrap_or(0));
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Bytes of memory that the process has, where the system says so.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

impl EngineMetrics {
    fn new(maker: &Maker<'_>) -> Self {
        let waiting = maker.register(GaugeVec::new(
            maker.opts("vllm:num_requests_waiting_by_reason", "Requests that wait, by reason."),
            &["reason"],
        ));
        let made = EngineMetrics {
            running: maker.gauge("vllm:num_requests_running", "Requests that run."),
            waiting: maker.gauge("vllm:num_requests_waiting", "Requests that wait for a place in a step."),
            waiting_for_capacity: waiting.with_label_values(&["capacity"]),
            kv_usage: maker.gauge("vllm:kv_cache_usage_perc", "KV blocks that requests hold; 1 is all of them."),
            prefix_queries: maker.counter("vllm:prefix_cache_queries_total", "Tokens looked for in the prefix cache."),
            prefix_hits: maker.counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache."),
            preemptions: maker.counter("vllm:num_preemptions_total", "Requests whose blocks were taken away."),
            prompt_tokens: maker.counter("vllm:prompt_tokens_total", "Tokens of prompts that were started."),
            generation_tokens: maker.counter("vllm:generation_tokens_total", "Tokens generated."),
            corrupted: maker.counter("vllm:corrupted_requests_total", "Requests whose logits became NaN."),
            success: maker.counters(
                "vllm:request_success_total",
                "Requests that ended by themselves or were aborted by their client.",
                "finished_reason",
            ),
            failures: maker.counters("nxd:request_failures_total", "Requests that failed.", "reason"),
            iteration_tokens: maker.histogram("vllm:iteration_tokens_total", "Tokens a step.", TOKENS),
            first_token: maker.histogram(
                "vllm:time_to_first_token_seconds",
                "From a request's arrival to its first token.",
                FIRST,
            ),
            between_tokens: maker.histogram("vllm:inter_token_latency_seconds", "From a token to the next one.", BETWEEN),
            whole: maker.histogram("vllm:e2e_request_latency_seconds", "From a request's arrival to its end.", WHOLE),
            queue: maker.histogram("vllm:request_queue_time_seconds", "From arrival to the first step.", WHOLE),
            prefill: maker.histogram("vllm:request_prefill_time_seconds", "From the first step to the first token.", WHOLE),
            decode: maker.histogram("vllm:request_decode_time_seconds", "From the first token to the last one.", WHOLE),
            inference: maker.histogram("vllm:request_inference_time_seconds", "From the first step to the end.", WHOLE),
            of_prompt: maker.histogram("vllm:request_prompt_tokens", "Tokens of a request's prompt.", TOKENS),
            of_generation: maker.histogram("vllm:request_generation_tokens", "Tokens generated for a request.", TOKENS),
            params_n: maker.histogram("vllm:request_params_n", "Completions asked for.", COUNTS),
            params_max_tokens: maker.histogram("vllm:request_params_max_tokens", "Tokens asked for.", TOKENS),
            of_preemptions: maker.histogram("vllm:request_num_preemptions", "How often a request was preempted.", COUNTS),
        };
        // A rate needs the zero before the first count.
        for reason in ["stop", "length", "abort"] {
            made.success.with_label_values(&[reason]);
        }
        made
    }

    fn observe(&self, report: &StepReport) {
        self.running.set(report.running as f64);
        self.waiting.set(report.waiting as f64);
        self.waiting_for_capacity.set(report.waiting as f64);
        self.kv_usage.set(report.kv_blocks_used as f64 / report.kv_blocks.max(1) as f64);
        self.prefix_queries.inc_by(report.prefix_queries as u64);
        self.prefix_hits.inc_by(report.prefix_hits as u64);
        self.preemptions.inc_by(report.preemptions as u64);
        let new_tokens = report.first_tokens.len() + report.further_tokens.len();
        self.generation_tokens.inc_by(new_tokens as u64);
        if report.tokens > 0 {
            self.iteration_tokens.observe(report.tokens as f64);
        }
        report.first_tokens.iter().for_each(|time| self.first_token.observe(time.as_secs_f64()));
        report.further_tokens.iter().for_each(|time| self.between_tokens.observe(time.as_secs_f64()));
        report.ended.iter().for_each(|ended| self.end(ended));
    }

    fn end(&self, ended: &Ended) {
        self.prompt_tokens.inc_by(ended.prompt_tokens as u64);
        match &ended.failure {
            None => self.success.with_label_values(&[ended.reason.name()]).inc(),
            Some(failure) => {
                self.failures.with_label_values(&[reason(failure)]).inc();
                if ended.reason == FinishReason::NotFinite {
                    self.corrupted.inc();
                }
            }
        }
        let stats = &ended.stats;
        self.whole.observe(ended.elapsed.as_secs_f64());
        self.queue.observe(stats.queue.as_secs_f64());
        self.prefill.observe(stats.prefill.as_secs_f64());
        self.decode.observe(stats.decode.as_secs_f64());
        self.inference.observe((stats.prefill + stats.decode).as_secs_f64());
        self.of_prompt.observe(ended.prompt_tokens as f64);
        self.of_generation.observe(ended.generated_tokens as f64);
        self.params_n.observe(f64::from(ended.n));
        if let Some(max_tokens) = ended.max_tokens {
            self.params_max_tokens.observe(max_tokens as f64);
        }
        self.of_preemptions.observe(stats.preemptions as f64);
    }
}

fn reason(failure: &Failure) -> &'static str {
    match failure {
        Failure::NotFinite { .. } => "nan",
        Failure::Grammar => "grammar",
        Failure::QueueTimeout => "queue_timeout",
        Failure::Timeout => "timeout",
        Failure::ShutDown => "shutdown",
        Failure::Dead(_) => "engine",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_engine::Stats;

    #[test]
    fn counts_follow_the_reports_exactly() {
        let metrics = Metrics::new("m");
        let mut observe = metrics.observer();
        let ms = Duration::from_millis;
        let ended = Ended {
            reason: FinishReason::Length,
            failure: None,
            prompt_tokens: 7,
            generated_tokens: 3,
            n: 1,
            max_tokens: Some(3),
            stats: Stats::default(),
            elapsed: ms(9),
        };
        observe(&StepReport { tokens: 7, first_tokens: vec![ms(3)], running: 1, kv_blocks: 4, kv_blocks_used: 1, ..StepReport::default() });
        observe(&StepReport { tokens: 1, further_tokens: vec![ms(3)], running: 1, ..StepReport::default() });
        observe(&StepReport { tokens: 1, further_tokens: vec![ms(3)], ended: vec![ended], ..StepReport::default() });
        let text = metrics.text();
        for line in [
            "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"m\"} 1",
            "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"m\"} 2",
            "vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 3",
            "vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 7",
            "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} 1",
            "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"m\"} 0",
            "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 0",
            "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
        }
    }
}
