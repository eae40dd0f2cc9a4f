//! What the registry promises, and that a model's GGUF file is the same model.

use nxd_models::families::{self, FAMILIES, Family};
use nxd_models::model::configuration;
use nxd_models::{Checkpoint, Config, LoadMode, Model};
use nxd_modules::{Decoder, DecoderSpec};
use nxd_ops::{Manifest, Mesh, Params, RopeScaling, RopeSpec};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[test]
fn no_architecture_has_two_families() {
    for names in [|f: &Family| f.hf, |f: &Family| f.gguf] as [fn(&Family) -> &'static [&'static str]; 2] {
        let all: Vec<_> = FAMILIES.iter().flat_map(names).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}

/// Folders with a `config.json` and the beginning of the GGUF file that llama.cpp's converter made of it: metadata, table of tensors, and the
/// tensors that are configuration.
fn headers() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens/gguf-headers");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// The GGUF file of a folder, all other tensors zero.
fn file(case: &Path) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::copy(case.join("header.gguf-part"), &path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    (dir, path)
}

fn spec(mut config: Config) -> DecoderSpec {
    families::read(&mut config).unwrap().1
}

/// Takes out what the containers may say differently: GGUF files have the offset in a norm's weights, and at times the factors of a rotation where
/// `config.json` says how they are made. Those are compared by themselves.
fn rotations(spec: &mut DecoderSpec) -> Vec<Option<RopeSpec>> {
    spec.norm.offset = 0.0;
    let plain = |rope: &mut RopeSpec| {
        let (scaling, theta) = (RopeScaling::None, 1.0);
        std::mem::replace(rope, RopeSpec { scaling, theta, ..rope.clone() })
    };
    let of_layer = |attention: &mut nxd_modules::AttentionSpec| {
        if let Some(norm) = &mut attention.qk_norm {
            norm.norm.offset = 0.0;
        }
        attention.rope.as_mut().map(plain)
    };
    spec.layers.iter_mut().map(|layer| of_layer(&mut layer.attention)).collect()
}

fn alike(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs()
}

/// Where two specs differ, numbers by more than they lose as f32.
fn difference(left: &DecoderSpec, right: &DecoderSpec) -> Option<String> {
    let (left, right) = (format!("{left:#?}"), format!("{right:#?}"));
    let number = |line: &str| line.trim_end_matches(',').rsplit(' ').next().and_then(|word| word.parse().ok());
    let same = |a: &str, b: &str| a == b || number(a).zip(number(b)).is_some_and(|(a, b)| alike(a, b));
    let at = left.lines().zip(right.lines()).position(|(a, b)| !same(a, b))?;
    let before: Vec<&str> = left.lines().take(at).skip(at.saturating_sub(20)).collect();
    let (a, b) = (left.lines().nth(at).unwrap_or_default(), right.lines().nth(at).unwrap_or_default());
    Some(format!("`{}` against `{}` behind\n{}", a.trim(), b.trim(), before.join("\n")))
}

/// Where two rotations differ.
fn turn(left: Option<&RopeSpec>, right: Option<&RopeSpec>) -> Option<String> {
    let of = |rope: Option<&RopeSpec>, len| rope.map(|rope| rope.frequencies(len));
    [1, 48, 130, 10_000].into_iter().find_map(|len| match (of(left, len), of(right, len)) {
        (None, None) => None,
        (Some((ours, factor)), Some((theirs, other)))
            if alike(factor.into(), other.into())
                && ours.len() == theirs.len()
                && ours.iter().zip(&theirs).all(|(&a, &b)| alike(a.into(), b.into())) =>
        {
            None
        }
        (ours, theirs) => Some(format!("{ours:?} against {theirs:?} at {len}")),
    })
}

#[test]
fn a_converted_model_has_the_spec_of_its_folder() {
    let mut problems = Vec::new();
    for case in headers() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let (_dir, path) = file(&case);
        let mut ours = spec(configuration(&Checkpoint::open(&path, LoadMode::Mmap).unwrap()).unwrap());
        let mut theirs = spec(Config::read(&case.join("config.json")).unwrap());
        let turns = rotations(&mut ours).into_iter().zip(rotations(&mut theirs));
        let turns: Vec<String> = turns.filter_map(|(ours, theirs)| turn(ours.as_ref(), theirs.as_ref())).collect();
        problems
            .extend(turns.into_iter().chain(difference(&ours, &theirs)).map(|problem| format!("{name}: {problem}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

#[test]
fn a_converted_model_has_every_weight_where_it_is_looked_for_and_no_other() {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for case in headers() {
        let (_dir, path) = file(&case);
        let model = Model::open(&path, LoadMode::Mmap).unwrap();
        let mut manifest = Manifest::new(Mesh::single());
        Decoder::new(&mut Params::new(&mut manifest), model.spec());
        match model.weights(&manifest) {
            Ok(weights) => {
                let missing = manifest.weights().iter().filter_map(|weight| weights.stored(weight).err());
                problems.extend(missing.map(|e| format!("{}: {e}", case.display())));
            }
            Err(e) => problems.push(format!("{}: {e}", case.display())),
        }
        seen.insert(model.config().architecture().to_owned());
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let named = FAMILIES.iter().flat_map(|family| family.gguf).copied();
    let unseen: Vec<&str> = named.filter(|architecture| !seen.contains(*architecture)).collect();
    assert!(unseen.is_empty(), "no converted file of {unseen:?}");
}
