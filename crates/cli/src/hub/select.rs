//! Which files of a repository are wanted, given the names of all. Only formats that cannot run code are ever chosen.

use super::error::HubError;
use super::name::{GgufChoice, RepoName};

pub(super) const CONFIG: &str = "config.json";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What to fetch of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One file that holds everything.
    Gguf(String),
    /// The small files, and then the weights, so that weights that are there say that all is there.
    Layout { small: Vec<String>, weights: Weights },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Files(Vec<String>),
    /// The files are those that [`INDEX`] names.
    Indexed,
}

/// Chooses among `files`, the names of everything in the repository.
pub(super) fn wanted(repo: &RepoName, files: &[String]) -> Result<Wanted, HubError> {
    let model = repo.to_string();
    if let Some(name) = files.iter().find(|name| !is_safe(name)) {
        return Err(HubError::UnsafeName { model, name: name.clone() });
    }
    if let Some(choice) = &repo.file {
        return gguf(&model, choice, files).map(Wanted::Gguf);
    }
    let has = |name: &str| files.iter().any(|file| file == name);
    let safetensors: Vec<&String> = files.iter().filter(|f| !f.contains('/') && f.ends_with(".safetensors")).collect();
    let weights = if has(INDEX) {
        Weights::Indexed
    } else if has("model.safetensors") {
        // Others beside it are copies in another layout, or adapters.
        Weights::Files(vec!["model.safetensors".to_owned()])
    } else if !safetensors.is_empty() {
        Weights::Files(safetensors.into_iter().cloned().collect())
    } else {
        return without_safetensors(model, files);
    };
    if !has(CONFIG) {
        return Err(HubError::NoConfig { model });
    }
    Ok(Wanted::Layout { small: files.iter().filter(|file| is_small(file)).cloned().collect(), weights })
}

/// The one file of `files` that `choice` means.
pub(super) fn gguf(model: &str, choice: &GgufChoice, files: &[String]) -> Result<String, HubError> {
    let mut all = files.iter().filter(|file| is_gguf(file));
    let found: Vec<&String> = match choice {
        GgufChoice::File(name) => all.filter(|file| *file == name).collect(),
        GgufChoice::Quantisation(tag) => all.by_ref().filter(|file| is_quantised(file, tag)).collect(),
    };
    match found.as_slice() {
        [file] if is_part(file) => Err(HubError::SplitGguf { model: model.to_owned(), file: (*file).clone() }),
        [file] => Ok((*file).clone()),
        [first, ..] if found.iter().all(|file| is_part(file)) => {
            Err(HubError::SplitGguf { model: model.to_owned(), file: (*first).clone() })
        }
        [] => {
            let wanted = match choice {
                GgufChoice::File(text) | GgufChoice::Quantisation(text) => text.clone(),
            };
            let files = files.iter().filter(|file| is_gguf(file)).cloned().collect();
            Err(HubError::NoSuchGguf { model: model.to_owned(), wanted, files })
        }
        several => Err(HubError::SeveralGguf {
            place: model.to_owned(),
            files: several.iter().map(|file| (*file).clone()).collect(),
        }),
    }
}

/// Whether a name from a server may become a path below a folder of ours.
pub(super) fn is_safe(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    name.len() <= 1024 && name.split('/').all(part) && !name.chars().any(|c| c.is_control() || c == '\\' || c == ':')
}

/// Whether a name from a server, an etag or a commit, may become the name of one file.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= 128 && name.chars().all(plain) && !name.starts_with('.')
}

/// Configuration, tokenizer and chat template.
fn is_small(name: &str) -> bool {
    let named = [
        CONFIG,
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    named.contains(&name) || (name.starts_with("tokenizer") && name.ends_with(".json") && !name.contains('/'))
}

fn without_safetensors(model: String, files: &[String]) -> Result<Wanted, HubError> {
    let gguf: Vec<String> = files.iter().filter(|file| is_gguf(file)).cloned().collect();
    match gguf.as_slice() {
        [only] if is_part(only) => Err(HubError::SplitGguf { model, file: only.clone() }),
        [only] => Ok(Wanted::Gguf(only.clone())),
        [] => match files.iter().find(|file| is_pickle(file)) {
            Some(example) => Err(HubError::PickleOnly { model, example: example.clone() }),
            None => Err(HubError::NoWeights { model }),
        },
        _ => Err(HubError::NoSuchGguf { model, wanted: "org/name alone".to_owned(), files: gguf }),
    }
}

fn is_gguf(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    // `mmproj` files are image encoders that accompany a model.
    file.ends_with(".gguf") && !file.starts_with("mmproj")
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| name.ends_with(end))
}

/// `…-00001-of-00003.gguf`.
fn is_part(name: &str) -> bool {
    let stem = &name[..name.len() - ".gguf".len()];
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    stem.rsplit_once("-of-")
        .is_some_and(|(front, total)| number(total) && front.rsplit_once('-').is_some_and(|(_, index)| number(index)))
}

fn is_quantised(name: &str, tag: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let mut stem = &lower[..lower.len() - ".gguf".len()];
    if is_part(&lower) {
        // The part number follows the quantisation.
        stem = &stem[..stem.len() - "-00001-of-00003".len()];
    }
    stem.strip_suffix(&tag.to_ascii_lowercase())
        .is_some_and(|front| front.is_empty() || front.ends_with(['-', '.', '/']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(file: Option<GgufChoice>) -> RepoName {
        RepoName { id: "o/n".into(), revision: "main".into(), file }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn safetensors_come_with_the_small_files_and_nothing_else() {
        let files = names(&[
            "README.md",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "onnx/tokenizer.json",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "model.safetensors",
            "original/x.safetensors",
            "modeling_custom.py",
        ]);
        assert_eq!(
            wanted(&repo(None), &files).unwrap(),
            Wanted::Layout {
                small: names(&["config.json", "tokenizer.json", "tokenizer_config.json"]),
                weights: Weights::Files(names(&["model.safetensors"])),
            }
        );
    }

    #[test]
    fn a_quantisation_means_one_file() {
        let files = names(&[
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
            "m.Q8_0.gguf",
            "Q5_0/m-Q5_0-00001-of-00002.gguf",
            "mmproj-Q8_0.gguf",
        ]);
        let pick = |tag: &str| gguf("o/n", &GgufChoice::Quantisation(tag.into()), &files);
        assert_eq!(pick("q4_k_m").unwrap(), "m-Q4_K_M.gguf");
        assert_eq!(pick("Q8_0").unwrap(), "m.Q8_0.gguf");
        assert!(matches!(pick("Q4_K"), Err(HubError::NoSuchGguf { files, .. }) if files.len() == 4));
        assert!(matches!(pick("Q5_0"), Err(HubError::SplitGguf { .. })));
    }

    #[test]
    fn pickles_are_refused_and_named() {
        let files = names(&["config.json", "pytorch_model.bin"]);
        assert!(
            matches!(wanted(&repo(None), &files), Err(HubError::PickleOnly { example, .. }) if example == "pytorch_model.bin")
        );
        assert!(matches!(wanted(&repo(None), &names(&["config.json"])), Err(HubError::NoWeights { .. })));
        assert!(matches!(wanted(&repo(None), &names(&["model.safetensors"])), Err(HubError::NoConfig { .. })));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["../x", "a/../b", "/etc/passwd", "a//b", "", "a\\b", "C:x", "a\0b", "./a"] {
            assert!(!is_safe(name), "{name}");
            let files = names(&["config.json", "model.safetensors", name]);
            assert!(matches!(wanted(&repo(None), &files), Err(HubError::UnsafeName { .. })), "{name}");
        }
        assert!(is_safe("a/b.c-d_e/f..g"));
    }
}
