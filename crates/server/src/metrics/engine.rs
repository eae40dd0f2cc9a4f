//! Metrics of the engine, fed by its reports.

use super::throughput::Throughput;
use super::{buckets, opts, register};
use nxd_engine::service::{Ended, Failure, StepReport};
use nxd_engine::{FinishReason, ModelInfo};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use std::sync::OnceLock;

pub(super) struct EngineMetrics {
    model_name: String,
    running: IntGauge,
    waiting: IntGauge,
    waiting_by_reason: IntGaugeVec,
    kv_usage: Gauge,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    prompt_tokens: IntCounter,
    /// Those that were computed, recomputed ones included.
    computed_prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    success: IntCounterVec,
    failures: IntCounterVec,
    corrupted: IntCounter,
    step_tokens: Histogram,
    step_seconds: Histogram,
    request_prompt_tokens: Histogram,
    request_generated_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
    request_preemptions: Histogram,
    first_token: Histogram,
    next_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    max_model_len: OnceLock<usize>,
}

impl EngineMetrics {
    pub(super) fn new(registry: &Registry, model: &str) -> Self {
        let int_gauge = |name, help| register(registry, IntGauge::with_opts(opts(name, help, model)));
        let counter = |name, help| register(registry, IntCounter::with_opts(opts(name, help, model)));
        let counters = |name, help, label| register(registry, IntCounterVec::new(opts(name, help, model), &[label]));
        let histogram = |name, help, ends: &[f64]| {
            let opts = HistogramOpts { common_opts: opts(name, help, model), buckets: ends.to_vec() };
            register(registry, Histogram::with_opts(opts))
        };
        let by_reason = opts("vllm:num_requests_waiting_by_reason", "Waiting requests by what they wait for.", model);
        let metrics = EngineMetrics {
            model_name: model.to_owned(),
            running: int_gauge("vllm:num_requests_running", "Requests that share the engine's steps."),
            waiting: int_gauge("vllm:num_requests_waiting", "Requests that wait."),
            waiting_by_reason: register(registry, IntGaugeVec::new(by_reason, &["reason"])),
            kv_usage: register(
                registry,
                Gauge::with_opts(opts("vllm:kv_cache_usage_perc", "KV cache in use; 1 is all of it.", model)),
            ),
            prefix_queries: counter("vllm:prefix_cache_queries_total", "Tokens looked for in the prefix cache."),
            prefix_hits: counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache."),
            preemptions: counter("vllm:num_preemptions_total", "Requests that gave their blocks back for others."),
            prompt_tokens: counter("vllm:prompt_tokens_total", "Tokens of the prompts of ended requests."),
            computed_prompt_tokens: counter(
                "nxd:computed_prompt_tokens_total",
                "Tokens of prompts that were computed.",
            ),
            generated_tokens: counter("vllm:generation_tokens_total", "Generated tokens."),
            success: counters("vllm:request_success_total", "Requests that ended without failure.", "finished_reason"),
            failures: counters("nxd:request_failures_total", "Requests that failed.", "reason"),
            corrupted: counter("vllm:corrupted_requests_total", "Requests whose logits became NaN."),
            step_tokens: histogram("vllm:iteration_tokens_total", "Tokens of a step.", buckets::STEP_TOKENS),
            step_seconds: histogram("nxd:step_duration_seconds", "Time of a step.", buckets::FIRST_TOKEN),
            request_prompt_tokens: histogram(
                "vllm:request_prompt_tokens",
                "Tokens of a request's prompt.",
                buckets::REQUEST_TOKENS,
            ),
            request_generated_tokens: histogram(
                "vllm:request_generation_tokens",
                "Tokens that a request generated.",
                buckets::REQUEST_TOKENS,
            ),
            params_n: histogram("vllm:request_params_n", "The parameter n of a request.", buckets::COUNTS),
            params_max_tokens: histogram(
                "vllm:request_params_max_tokens",
                "The parameter max_tokens of a request.",
                buckets::REQUEST_TOKENS,
            ),
            request_preemptions: histogram(
                "vllm:request_num_preemptions",
                "How often a request gave its blocks back.",
                buckets::COUNTS,
            ),
            first_token: histogram(
                "vllm:time_to_first_token_seconds",
                "From arrival to the first token.",
                buckets::FIRST_TOKEN,
            ),
            next_token: histogram("vllm:inter_token_latency_seconds", "From a token to the next.", buckets::NEXT_TOKEN),
            e2e: histogram("vllm:e2e_request_latency_seconds", "From arrival to the end.", buckets::REQUEST),
            queue: histogram("vllm:request_queue_time_seconds", "From arrival to the first step.", buckets::REQUEST),
            inference: histogram(
                "vllm:request_inference_time_seconds",
                "From the first step to the last token.",
                buckets::REQUEST,
            ),
            prefill: histogram(
                "vllm:request_prefill_time_seconds",
                "From the first step to the first token.",
                buckets::REQUEST,
            ),
            decode: histogram(
                "vllm:request_decode_time_seconds",
                "From the first token to the last.",
                buckets::REQUEST,
            ),
            max_model_len: OnceLock::new(),
        };
        // Series that stand at zero are there from the start, so that rates and alerts see their first increase.
        for reason in [FinishReason::Stop, FinishReason::Length, FinishReason::Abort] {
            metrics.success.with_label_values(&[reason.name()]);
        }
        for reason in ["grammar", "queue_timeout", "timeout", "shut_down", "engine_dead", "not_finite", "other"] {
            metrics.failures.with_label_values(&[reason]);
        }
        metrics.wait(0);
        metrics
    }

    /// Notes the loaded model's cache, once.
    pub(super) fn describe(&self, registry: &Registry, info: &ModelInfo) {
        if self.max_model_len.set(info.max_model_len).is_err() {
            return;
        }
        let blocks = info.kv_groups.first().map_or(0, |(_, blocks)| *blocks);
        let tokens = blocks * info.block_size;
        let concurrency = tokens as f64 / info.max_model_len.max(1) as f64;
        let opts = opts("vllm:cache_config_info", "The KV cache.", &self.model_name)
            .const_label("block_size", info.block_size.to_string())
            .const_label("cache_dtype", info.kv_dtype.as_str())
            .const_label("num_gpu_blocks", blocks.to_string())
            .const_label("kv_cache_size_tokens", tokens.to_string())
            .const_label("kv_cache_max_concurrency", format!("{concurrency:.2}"));
        register(registry, IntGauge::with_opts(opts)).set(1);
    }

    pub(super) fn observe(&self, report: &StepReport) {
        self.running.set(signed(report.running));
        self.wait(signed(report.waiting));
        self.kv_usage.set(report.kv_blocks_used as f64 / report.kv_blocks.max(1) as f64);
        self.prefix_queries.inc_by(report.prefix_queries as u64);
        self.prefix_hits.inc_by(report.prefix_hits as u64);
        self.preemptions.inc_by(report.preemptions as u64);
        self.computed_prompt_tokens.inc_by(report.prompt_tokens as u64);
        self.generated_tokens.inc_by((report.first_tokens.len() + report.further_tokens.len()) as u64);
        if report.tokens > 0 {
            self.step_tokens.observe(report.tokens as f64);
            self.step_seconds.observe(report.duration.as_secs_f64());
        }
        for time in &report.first_tokens {
            self.first_token.observe(time.as_secs_f64());
        }
        for time in &report.further_tokens {
            self.next_token.observe(time.as_secs_f64());
        }
        for ended in &report.ended {
            self.end(ended);
        }
    }

    fn wait(&self, waiting: i64) {
        self.waiting.set(waiting);
        self.waiting_by_reason.with_label_values(&["capacity"]).set(waiting);
    }

    fn end(&self, ended: &Ended) {
        let Ended { stats, .. } = ended;
        if stats.steps > 0 {
            self.prompt_tokens.inc_by(ended.prompt_tokens as u64);
        }
        if let Some(failure) = &ended.failure {
            let reason = match failure {
                Failure::NotFinite { .. } => "not_finite",
                Failure::NoAdapter => "no_adapter",
                Failure::Grammar => "grammar",
                Failure::QueueTimeout => "queue_timeout",
                Failure::Timeout => "timeout",
                Failure::ShutDown => "shut_down",
                Failure::Dead(_) => "engine_dead",
                _ => "other",
            };
            self.failures.with_label_values(&[reason]).inc();
            if reason == "not_finite" {
                self.corrupted.inc();
            }
            return;
        }
        self.success.with_label_values(&[ended.reason.name()]).inc();
        self.e2e.observe(ended.elapsed.as_secs_f64());
        self.request_prompt_tokens.observe(ended.prompt_tokens as f64);
        self.request_generated_tokens.observe(ended.generated_tokens as f64);
        self.params_n.observe(f64::from(ended.n));
        let room = self.max_model_len.get().map(|len| len.saturating_sub(ended.prompt_tokens));
        if let Some(max_tokens) = ended.max_tokens.or(room) {
            self.params_max_tokens.observe(max_tokens as f64);
        }
        self.request_preemptions.observe(stats.preemptions as f64);
        self.queue.observe(stats.queue.as_secs_f64());
        self.prefill.observe(stats.prefill.as_secs_f64());
        self.decode.observe(stats.decode.as_secs_f64());
        self.inference.observe((stats.prefill + stats.decode).as_secs_f64());
    }

    pub(super) fn throughput(&self) -> Throughput {
        Throughput {
            prompt_tokens: self.computed_prompt_tokens.get(),
            generated_tokens: self.generated_tokens.get(),
            prefix_queries: self.prefix_queries.get(),
            prefix_hits: self.prefix_hits.get(),
            running: self.running.get(),
            waiting: self.waiting.get(),
            kv_usage: self.kv_usage.get(),
        }
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
