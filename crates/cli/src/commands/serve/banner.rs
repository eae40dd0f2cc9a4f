//! What a server says when it is ready: what runs, what fits, and how to ask it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use indicatif::BinaryBytes;
use nxd_engine::ModelInfo;
use nxd_engine::service::Handle;
use nxd_executor::kv::blocks_of_one;
use nxd_executor::plan::MemoryPlan;

use crate::commands::inspect;

/// At most 15 lines.
pub(super) struct Banner<'b> {
    pub(super) handle: &'b Handle,
    pub(super) name: &'b str,
    pub(super) address: SocketAddr,
    pub(super) has_keys: bool,
    pub(super) threads: usize,
    /// What was planned for the memory, where a plan was made.
    pub(super) planned: Option<&'b MemoryPlan>,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (info, model) = (self.handle.info(), self.handle.model());
        let (parameters, quantisation) = inspect::summary(model.checkpoint(), model.config());
        let quantisation = quantisation.map_or_else(String::new, |name| format!(", {name}"));
        let architecture = model.config().architecture();
        writeln!(
            f,
            "model    {} ({architecture}, {:.1} M parameters{quantisation})",
            self.name,
            parameters as f64 / 1e6
        )?;
        let kernels: Vec<&str> = info.kernels.iter().map(|(name, _)| &**name).collect();
        writeln!(f, "threads  {}, kernels {}", self.threads, kernels.join(", "))?;
        match self.planned {
            Some(plan) => writeln!(f, "memory   {plan}")?,
            None => writeln!(f, "memory   {}", memory(info))?,
        }
        let fit = full_requests(info);
        let requests = if fit == 1 { "request" } else { "requests" };
        writeln!(
            f,
            "context  {} tokens; {fit} {requests} of that length at once, more when shorter",
            info.max_model_len
        )?;
        let url = format!("http://{}", reachable(self.address));
        writeln!(f, "serving  {url}/v1, chat page at {url}/")?;
        let key = if self.has_keys { " -H 'Authorization: Bearer YOUR_KEY'" } else { "" };
        let chats = model.tokenizer().is_some_and(|tokenizer| tokenizer.chat_template().is_some());
        let (route, asked) = if chats {
            ("chat/completions", r#""messages":[{"role":"user","content":"Hello"}]"#)
        } else if model.tokenizer().is_some() {
            ("completions", r#""prompt":"Hello""#)
        } else {
            ("completions", r#""prompt":[1,2,3]"#)
        };
        let name = serde_json::Value::from(self.name).to_string().replace('\'', r"'\''");
        write!(
            f,
            "try      curl {url}/v1/{route}{key} -H 'Content-Type: application/json' -d '{{\"model\":{name},{asked},\"max_tokens\":64}}'"
        )
    }
}

/// `weights 94 MiB + KV 2.0 GiB f16 (16384 tokens = 1024 blocks × 16)`.
fn memory(info: &ModelInfo) -> String {
    let groups: Vec<String> = info
        .kv_groups
        .iter()
        .map(|(spec, blocks)| {
            let tokens = blocks * info.block_size;
            let window = spec.window.map_or_else(String::new, |window| format!(" for windows of {window}"));
            format!("{tokens} tokens = {blocks} blocks × {}{window}", info.block_size)
        })
        .collect();
    let bytes = |bytes: usize| BinaryBytes(bytes as u64);
    let (weights, kv) = (bytes(info.weights_bytes), bytes(info.kv_bytes));
    format!("weights {weights} + KV {kv} {} ({})", info.kv_dtype, groups.join("; "))
}

/// How many requests of full length the cache holds.
fn full_requests(info: &ModelInfo) -> usize {
    // A token at a time is the least that a step can do.
    let held = |window| blocks_of_one(window, info.max_model_len, 1, info.block_size).max(1);
    info.kv_groups.iter().map(|(spec, blocks)| blocks / held(spec.window)).min().unwrap_or(0)
}

/// An address that can be called, where the server listens on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_becomes_one_that_can_be_called() {
        for (listens, calls) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), calls);
        }
    }
}
