//! `nxd plan`: what a model takes in memory, from its headers alone, whether that fits, and the flags to serve it with.

use clap::ValueEnum;
use nxd::{Device, LoadOptions};
use nxd_executor::memory::{self, Memory};
use nxd_executor::plan::{Bytes, Count};
use nxd_executor::{ExecutorError, ExecutorOptions, KvGroup, MemoryNeeds, MemoryPlan};
use serde::Serialize;

use super::load;
use crate::args::{Activations, KvCacheDtype, LoadMode, PlanArgs};
use crate::failure::{Failure, Kind};
use crate::output;

/// Part of the longest request that counts as a usual one.
const USUAL_PART: usize = 4;

/// The result, as `--json` prints it. What depends on a cache is null or empty where not even the smallest one fits.
#[derive(Debug, Serialize)]
struct Report {
    fits: bool,
    why_not: Option<String>,
    memory_bytes: Option<u64>,
    weights_bytes: usize,
    weights_stored_bytes: usize,
    weights_packed_bytes: Vec<usize>,
    weights_table_bytes: usize,
    workspace_bytes: usize,
    kv_dtype: String,
    kv_token_bytes: usize,
    kv_groups: Vec<GroupReport>,
    kv_bytes: usize,
    kv_tokens: usize,
    total_bytes: usize,
    block_size: usize,
    tensor_parallel_size: usize,
    model_context: usize,
    max_model_len: Option<usize>,
    max_num_seqs: usize,
    full_length_requests: usize,
    usual_length_requests: usize,
    serve: Option<String>,
}

/// A KV group.
#[derive(Debug, Serialize)]
struct GroupReport {
    window: Option<usize>,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    token_bytes: usize,
    num_blocks: usize,
}

/// Runs the command.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    if args.runtime.device != Device::Cpu {
        return Err(Failure::new(
            Kind::Usage,
            "`nxd plan` plans the memory of the CPU; other devices say what they have when they are opened",
        )
        .with_help("leave --device out; the weights and the bytes of a token are much the same there"));
    }
    let model = load::open(&load::resolve(&args.model)?, &args.runtime)?;
    let load_options = load::options(&args.runtime, &args.engine);
    let options = load_options.executor_options();
    let memory = match args.memory {
        Some(bytes) => Memory { available_bytes: Some(bytes), ..Memory::default() },
        None => memory::look(),
    };
    let needs = MemoryNeeds::of(&model, &options).map_err(load::executor_failure)?;
    let (plan, why_not) = outcome(&needs, &options, &memory)?;
    let serve = plan.as_ref().filter(|plan| plan.fits()).map(|plan| serve_line(args, &load_options, plan));
    let report = Report::new(&needs, plan.as_ref(), &options, &memory, why_not.as_ref(), serve);
    if args.json {
        output::json(&report)?
    } else {
        output::line(&page(&report, plan.as_ref()))?
    }
    match why_not {
        Some(why) => Err(Failure::new(Kind::Memory, why)),
        None => Ok(()),
    }
}

/// The plan, or where it does not fit the one that would, and why not.
fn outcome(
    needs: &MemoryNeeds,
    options: &ExecutorOptions,
    memory: &Memory,
) -> Result<(Option<MemoryPlan>, Option<String>), Failure> {
    let why = match needs.plan(&options.kv, memory) {
        Ok(plan) if plan.fits() => return Ok((Some(plan), None)),
        Ok(plan) => format!("{plan} is more than there is; lower --kv-cache-memory, or leave it out"),
        Err(error @ (ExecutorError::KvBudget { .. } | ExecutorError::Memory { .. })) => error.to_string(),
        Err(error) => return Err(load::executor_failure(error)),
    };
    // What the user asked for is given up: first the context, then the size of the cache.
    let mut kv = options.kv;
    kv.max_model_len = None;
    let smaller = needs.plan(&kv, memory).ok().filter(MemoryPlan::fits);
    kv.budget_bytes = nxd_executor::KvOptions::WHAT_IS_LEFT;
    let possible = smaller.or_else(|| needs.plan(&kv, memory).ok().filter(MemoryPlan::fits));
    Ok((possible, Some(why)))
}

impl Report {
    fn new(
        needs: &MemoryNeeds,
        plan: Option<&MemoryPlan>,
        options: &ExecutorOptions,
        memory: &Memory,
        why_not: Option<&String>,
        serve: Option<String>,
    ) -> Self {
        let len = plan.map(|plan| plan.max_model_len);
        let workspace_bytes = needs.workspace_bytes(len.unwrap_or(1));
        let blocks = |group: usize| plan.and_then(|plan| plan.num_blocks.get(group).copied()).unwrap_or(0);
        let group = |(i, group): (usize, &KvGroup)| GroupReport {
            window: group.spec.window,
            layers: group.layers,
            kv_heads: group.spec.num_kv_heads.saturating_mul(needs.ranks),
            head_dim: group.spec.head_dim,
            token_bytes: group.token_bytes,
            num_blocks: blocks(i),
        };
        let requests = |part: usize| plan.map_or(0, |plan| plan.requests((plan.max_model_len / part).max(1)));
        Report {
            fits: why_not.is_none(),
            why_not: why_not.cloned(),
            memory_bytes: memory.available_bytes,
            weights_bytes: needs.weights_bytes,
            weights_stored_bytes: needs.stored_bytes,
            weights_packed_bytes: needs.packed_bytes.clone(),
            weights_table_bytes: needs.table_bytes,
            workspace_bytes,
            kv_dtype: options.kv.dtype.to_string(),
            kv_token_bytes: needs.kv_token_bytes(),
            kv_groups: needs.kv_groups.iter().enumerate().map(group).collect(),
            kv_bytes: plan.map_or(0, |plan| plan.kv_bytes),
            kv_tokens: plan.map_or(0, MemoryPlan::kv_tokens),
            total_bytes: plan.map_or(needs.weights_bytes.saturating_add(workspace_bytes), MemoryPlan::total_bytes),
            block_size: options.kv.block_size,
            tensor_parallel_size: needs.ranks,
            model_context: needs.model_len,
            max_model_len: len,
            max_num_seqs: options.kv.max_num_seqs,
            full_length_requests: requests(1),
            usual_length_requests: requests(USUAL_PART),
            serve,
        }
    }
}

fn page(report: &Report, plan: Option<&MemoryPlan>) -> String {
    let bytes = |bytes: usize| Bytes(bytes as u64).to_string();
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(format!("{name:<14} {value}"));
    row("memory", report.memory_bytes.map_or_else(|| "unknown".to_owned(), |bytes| Bytes(bytes).to_string()));
    let packed: usize = report.weights_packed_bytes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes));
    let ranks = match report.tensor_parallel_size {
        1 => String::new(),
        ranks => format!(" on {ranks} ranks"),
    };
    row(
        "weights",
        format!(
            "{}: {} packed{ranks}, {} of look-up tables; {} in the files",
            bytes(report.weights_bytes),
            bytes(packed),
            bytes(report.weights_table_bytes),
            bytes(report.weights_stored_bytes)
        ),
    );
    row("work space", bytes(report.workspace_bytes));
    row("KV per token", format!("{} in {}", bytes(report.kv_token_bytes), report.kv_dtype));
    for group in &report.kv_groups {
        let kind = group.window.map_or_else(|| "full".to_owned(), |window| format!("window {}", Count(window)));
        row(
            &format!("  {kind}"),
            format!(
                "{} in {} layers of {} heads × {}; {} blocks × {}",
                bytes(group.token_bytes),
                group.layers,
                group.kv_heads,
                group.head_dim,
                Count(group.num_blocks),
                report.block_size
            ),
        );
    }
    match plan {
        Some(plan) => {
            row("KV cache", format!("{}, {} tokens", bytes(report.kv_bytes), Count(report.kv_tokens)));
            let context = match plan.max_model_len {
                len if len == report.model_context => Count(len).to_string(),
                len => format!("{} (the model was made for {})", Count(len), Count(report.model_context)),
            };
            row("context", context);
            let usual = (plan.max_model_len / USUAL_PART).max(1);
            row(
                "at once",
                format!(
                    "{} requests of {} tokens, {} of {}; others wait",
                    Count(report.full_length_requests),
                    Count(plan.max_model_len),
                    Count(report.usual_length_requests),
                    Count(usual)
                ),
            );
            row("in all", plan.to_string());
        }
        None => row("context", format!("none fits (the model was made for {})", Count(report.model_context))),
    }
    row("fits", if report.fits { "yes" } else { "no" }.to_owned());
    if let Some(line) = &report.serve {
        row(if report.fits { "serve with" } else { "would fit" }, line.clone());
    }
    rows.join("\n")
}

/// The command that serves the model as planned: the plan's numbers, and the flags that differ from what is the default.
fn serve_line(args: &PlanArgs, options: &LoadOptions, plan: &MemoryPlan) -> String {
    let defaults = LoadOptions::default();
    let mut words = vec!["nxd".to_owned(), "serve".to_owned(), quoted(&args.model)];
    let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    flag("max-model-len", plan.max_model_len.to_string());
    flag("max-num-seqs", options.max_num_seqs.to_string());
    // Whole units read better, and what they add is less than the plan leaves.
    let unit = if plan.kv_bytes >= 16 << 20 { (1 << 20, "MiB") } else { (1 << 10, "KiB") };
    flag("kv-cache-memory", format!("{}{}", plan.kv_bytes.div_ceil(unit.0).max(1), unit.1));
    if options.max_num_batched_tokens != defaults.max_num_batched_tokens {
        flag("max-num-batched-tokens", options.max_num_batched_tokens.to_string());
    }
    if options.block_size != defaults.block_size {
        flag("block-size", options.block_size.to_string());
    }
    if args.engine.kv_cache_dtype != KvCacheDtype::Auto {
        flag("kv-cache-dtype", name(args.engine.kv_cache_dtype));
    }
    if args.runtime.activations != Activations::Int8 {
        flag("activations", name(args.runtime.activations));
    }
    if args.runtime.tensor_parallel_size != defaults.tensor_parallel_size {
        flag("tensor-parallel-size", args.runtime.tensor_parallel_size.to_string());
    }
    if let Some(threads) = args.runtime.threads {
        flag("threads", threads.to_string());
    }
    if args.runtime.load_mode != LoadMode::Mmap {
        flag("load-mode", name(args.runtime.load_mode));
    }
    words.join(" ")
}

/// A value as it is typed.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_cut_them() {
        assert_eq!(quoted("org/name:Q4_K_M@v1"), "org/name:Q4_K_M@v1");
        assert_eq!(quoted("a b's"), r"'a b'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
