//! Door 2, use a model: load it, continue a prompt, and look at what came of it.
//!
//! `cargo run --package nxd-examples --example facade [MODEL [PROMPT]]`

use anyhow::Result;
use nxd::{GenerateOptions, Model, Prompt};
use std::path::PathBuf;

#[allow(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    // A tiny random checkpoint of this repository: it needs no download, and speaks no language.
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/testkit/goldens/llama-mha-default");
    let path = args.next().map_or(tiny, PathBuf::from);
    let prompt =
        args.next().map_or(Prompt::Ids(vec![305, 68, 234]), |p| Prompt::Text(p.to_string_lossy().into_owned()));

    let model = Model::load(path, Default::default())?;
    let options = GenerateOptions { max_tokens: Some(24), ..Default::default() };
    let completion = model.generate(prompt, options)?;
    println!("{:?} -> {:?}", completion.prompt_tokens, completion.tokens);
    println!("{} ({:?}, {:.0} tokens/s)", completion.text, completion.finish_reason, completion.timing.tokens_per_s);
    Ok(())
}
