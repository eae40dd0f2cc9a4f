//! Counts are exact: dashboards divide one by another.

use super::*;
use nxd_engine::service::{Ended, Failure};
use nxd_engine::{FinishReason, Stats};
use std::time::Duration;

fn ended(reason: FinishReason, failure: Option<Failure>) -> Ended {
    Ended {
        reason,
        failure,
        prompt_tokens: 7,
        generated_tokens: 3,
        n: 1,
        max_tokens: Some(3),
        stats: Stats { steps: 3, ..Stats::default() },
        elapsed: Duration::from_secs(2),
    }
}

#[test]
fn requests_times_tokens_give_exact_counts() {
    let metrics = Metrics::new("tiny");
    let second = Duration::from_secs(1);
    for _ in 0..2 {
        metrics.observe(&StepReport {
            tokens: 7,
            prompt_tokens: 7,
            first_tokens: vec![second],
            running: 1,
            ..StepReport::default()
        });
        metrics.observe(&StepReport {
            tokens: 2,
            further_tokens: vec![second; 2],
            ended: vec![ended(FinishReason::Length, None)],
            kv_blocks: 8,
            kv_blocks_used: 2,
            ..StepReport::default()
        });
    }
    let text = metrics.text();
    let labels = r#"{engine="0",model_name="tiny"}"#;
    for (name, value) in [
        ("vllm:time_to_first_token_seconds_count", "2"),
        ("vllm:inter_token_latency_seconds_count", "4"),
        ("vllm:e2e_request_latency_seconds_count", "2"),
        ("vllm:e2e_request_latency_seconds_sum", "4"),
        ("vllm:request_queue_time_seconds_count", "2"),
        ("vllm:request_prefill_time_seconds_count", "2"),
        ("vllm:request_decode_time_seconds_count", "2"),
        ("vllm:request_inference_time_seconds_count", "2"),
        ("vllm:prompt_tokens_total", "14"),
        ("vllm:generation_tokens_total", "6"),
        ("vllm:iteration_tokens_total_sum", "18"),
        ("vllm:num_requests_running", "0"),
        ("vllm:kv_cache_usage_perc", "0.25"),
        ("vllm:corrupted_requests_total", "0"),
    ] {
        let line = format!("{name}{labels} {value}");
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
    let success = r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 2"#;
    assert!(text.lines().any(|found| found == success), "{text}");
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
}

#[test]
fn failures_are_counted_apart() {
    let metrics = Metrics::new("tiny");
    let failures = [Failure::NotFinite { tokens: 1 }, Failure::Timeout, Failure::Dead("gone".into())];
    let ended = failures.map(|failure| ended(FinishReason::Abort, Some(failure))).to_vec();
    metrics.observe(&StepReport { ended, ..StepReport::default() });
    let text = metrics.text();
    for line in [
        r#"nxd:request_failures_total{engine="0",model_name="tiny",reason="not_finite"} 1"#,
        r#"nxd:request_failures_total{engine="0",model_name="tiny",reason="timeout"} 1"#,
        r#"nxd:request_failures_total{engine="0",model_name="tiny",reason="engine_dead"} 1"#,
        r#"vllm:corrupted_requests_total{engine="0",model_name="tiny"} 1"#,
        r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny"} 0"#,
        r#"vllm:e2e_request_latency_seconds_count{engine="0",model_name="tiny"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
}
