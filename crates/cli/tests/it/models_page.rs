//! `docs/models.md` is what the registry says, so that it cannot lie.
//!
//! `NXD_WRITE_PAGES=1 cargo test --package nxd-cli models_page` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use nxd_models::checkpoint::TensorRef;
use nxd_models::config::Container;
use nxd_models::families::{FAMILIES, Family};
use nxd_models::{LoadMode, Model};
use nxd_modules::{Decoder, DecoderSpec};
use nxd_ops::{Manifest, Mesh, Params, Role, WeightSpec};

use crate::golden::{CPU_RANKS, TRACED_RANKS, cases};

const HEAD: &str = "\
# Models

One line for each family that loads. This page is written by a test, from the registry, the families' tables of names and the golden checkpoints,
and compared with them by the same test.

Every family is one declaration, which every device runs at every tensor-parallel size. What is shown here is what tests run: *CPU* and *traced* are the
sizes at which each golden checkpoint of the family (*checked by*; small and random, with logits and tokens of transformers) must pass `nxd check`,
on the CPU in small chunks too, on the traced device with XLA's CPU plugin. A family without one loads and is unproven.

*GGUF*: the `general.architecture` that files say, where every weight of the family has a name in them. Mistral's and Mixtral's files call
themselves `llama` and load as that. [quantisation.md](quantisation.md) has the schemes of *quantised*; experts that a checkpoint keeps stacked
in one tensor are quantised as MXFP4 only. GGUF's own types need no column: every weight may have any.

Of checkpoints that take pictures or sound the text part loads, where the family is here (*text of*); vision, audio and diffusion models do not.

| family | `architectures` of `config.json` | text of | GGUF | quantised | CPU | traced | checked by |
| --- | --- | --- | --- | --- | --- | --- | --- |
";

/// The end of the class names of models of more than text.
const MULTIMODAL: &str = "ForConditionalGeneration";

/// A golden checkpoint of a family.
struct Case {
    name: String,
    spec: DecoderSpec,
}

/// The repository's golden checkpoints, by family. One that does not load would make the page a lie.
fn checked() -> BTreeMap<&'static str, Vec<Case>> {
    let mut found: BTreeMap<_, Vec<Case>> = BTreeMap::new();
    for dir in cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens")) {
        let model = Model::open(&dir, LoadMode::Mmap).unwrap();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        found.entry(model.family()).or_default().push(Case { name, spec: model.spec().clone() });
    }
    found
}

/// Where the weights of a decoder lie, which nothing is known to be stored of: (declared name, reference) for each.
fn places(family: &Family, spec: &DecoderSpec, container: Container) -> Vec<(String, bool, TensorRef)> {
    let mut manifest = Manifest::new(Mesh::tensor(1));
    Decoder::new(&mut Params::new(&mut manifest), spec);
    let place = |weight: &WeightSpec| {
        let reference = family.names.find(spec, container, weight, |_| false);
        (weight.name.clone(), weight.role != Role::Vector, reference)
    };
    manifest.weights().iter().map(place).collect()
}

/// Weights that keep their declared name in a GGUF file, which has none like it.
fn without_gguf_name(family: &Family, spec: &DecoderSpec) -> usize {
    let within = |declared: &str| match declared.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((_, within)) => within.to_owned(),
        None => declared.to_owned(),
    };
    let places = places(family, spec, Container::Gguf);
    places.iter().filter(|(declared, _, reference)| reference.name.ends_with(&within(declared))).count()
}

fn has_stacked_experts(family: &Family, spec: &DecoderSpec) -> bool {
    let places = places(family, spec, Container::HuggingFace);
    places.iter().any(|(_, is_matrix, reference)| *is_matrix && reference.slab.is_some())
}

fn listed<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}

fn row(family: &Family, cases: &[Case]) -> String {
    let Family { name, hf, gguf, .. } = family;
    let (whole, text): (Vec<&str>, Vec<&str>) = hf.iter().partition(|name| !name.ends_with(MULTIMODAL));
    let unnamed = cases.iter().map(|case| without_gguf_name(family, &case.spec)).max();
    let gguf = match unnamed {
        Some(0) => listed(gguf.iter().copied()),
        Some(unnamed) if !gguf.is_empty() => format!("no: {unnamed} weights without a name"),
        _ => listed(gguf.iter().copied().filter(|_| unnamed.is_some())),
    };
    let quantised = match cases.iter().any(|case| has_stacked_experts(family, &case.spec)) {
        _ if cases.is_empty() => "–",
        true => "all; stacked experts as MXFP4",
        false => "all",
    };
    let sizes = |ranks: &[&str]| if cases.is_empty() { "unproven".to_owned() } else { ranks.join(", ") };
    let (cpu, traced) = (sizes(&CPU_RANKS), sizes(&TRACED_RANKS));
    let checked = listed(cases.iter().map(|case| case.name.as_str()));
    let (whole, text) = (listed(whole), listed(text));
    format!("| {name} | {whole} | {text} | {gguf} | {quantised} | {cpu} | {traced} | {checked} |")
}

#[test]
fn the_page_of_models_is_what_the_registry_says() {
    let checked = checked();
    let mut text = HEAD.to_owned();
    let mut families: Vec<&Family> = FAMILIES.iter().collect();
    families.sort_by_key(|family| family.name);
    for family in families {
        writeln!(text, "{}", row(family, checked.get(family.name).map_or(&[], Vec::as_slice))).unwrap();
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
    if std::env::var_os("NXD_WRITE_PAGES").is_some() {
        std::fs::write(&page, &text).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        written == text,
        "docs/models.md is old; write it with `NXD_WRITE_PAGES=1 cargo test --package nxd-cli models_page`"
    );
}
