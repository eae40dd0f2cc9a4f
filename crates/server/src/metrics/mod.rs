//! Metrics in Prometheus' text format, under vLLM's names, so that dashboards and routers made for it work.
//!
//! [`Metrics::observe`] is fed by the engine's thread after each step; nothing here is asked while a step runs.

mod buckets;
mod engine;
mod http;
mod throughput;

pub(crate) use throughput::Throughput;

use engine::EngineMetrics;
use http::HttpMetrics;
use nxd_engine::ModelInfo;
use nxd_engine::service::StepReport;
use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, Opts, Registry, TextEncoder};

/// What a server counts.
pub struct Metrics {
    registry: Registry,
    engine: EngineMetrics,
    pub(crate) http: HttpMetrics,
    resident: Gauge,
}

impl Metrics {
    /// Metrics of the model that goes by this name.
    pub fn new(model_name: &str) -> Self {
        let registry = Registry::new();
        let resident = Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.");
        let resident = register(&registry, resident);
        Metrics {
            engine: EngineMetrics::new(&registry, model_name),
            http: HttpMetrics::new(&registry),
            resident,
            registry,
        }
    }

    /// Notes the loaded model's cache.
    pub fn describe(&self, info: &ModelInfo) {
        self.engine.describe(&self.registry, info);
    }

    /// Takes what the engine's thread says of a step.
    pub fn observe(&self, report: &StepReport) {
        self.engine.observe(report);
    }

    pub(crate) fn throughput(&self) -> Throughput {
        self.engine.throughput()
    }

    /// All of them, in text format 0.0.4.
    pub fn text(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes as f64);
        }
        let mut text = Vec::new();
        // Names and labels were checked when they were registered, and a vector takes whatever is written.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Registers a metric whose name and labels stand in this crate.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("names and labels of metrics are well-formed");
    registry.register(Box::new(metric.clone())).expect("each metric has a name of its own");
    metric
}

/// What the system says this process holds in memory.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Options of one of the engine's metrics.
fn opts(name: &str, help: &str, model_name: &str) -> Opts {
    Opts::new(name, help).const_label("model_name", model_name).const_label("engine", "0")
}

#[cfg(test)]
mod tests;
