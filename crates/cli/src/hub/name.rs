//! What a user may call a model.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::HubError;
use super::select;

/// A model's name, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ModelName {
    Demo,
    Path(PathBuf),
    Hub(RepoName),
}

/// `org/name[@revision][:file]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepoName {
    /// `org/name`.
    pub(super) id: String,
    /// A branch, tag or commit.
    pub(super) revision: String,
    pub(super) file: Option<GgufChoice>,
}

/// Which `.gguf` file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GgufChoice {
    /// The one whose name ends in this quantisation, `Q4_K_M`.
    Quantisation(String),
    /// This one.
    File(String),
}

impl ModelName {
    /// Anything that exists, or is written as a path, is a path; the rest has to be a hub id.
    pub(super) fn parse(text: &str) -> Result<Self, HubError> {
        let path = Path::new(text);
        if text == "demo" {
            return Ok(Self::Demo);
        }
        if path.symlink_metadata().is_ok() || written_as_path(text) {
            return Ok(Self::Path(path.to_owned()));
        }
        RepoName::parse(text).map(Self::Hub)
    }
}

impl RepoName {
    fn parse(text: &str) -> Result<Self, HubError> {
        let bad = |why| Err(HubError::BadId { id: text.to_owned(), why });
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let (id, revision) = repo.split_once('@').unwrap_or((repo, "main"));
        let Some((org, name)) = id.split_once('/') else {
            return Err(HubError::NotAModel { name: text.to_owned() });
        };
        if !(is_word(org) && is_word(name)) {
            return bad("organisation and name are letters, digits, `-`, `_` and `.`");
        }
        if !revision.split('/').all(is_word) {
            return bad("a revision is a branch, a tag or a commit");
        }
        let file = match file {
            None => None,
            Some("") => return bad("nothing stands after `:`"),
            Some(file) if file.to_ascii_lowercase().ends_with(".gguf") => {
                if !select::is_safe(file) {
                    return bad("the file's name leads out of the repository");
                }
                Some(GgufChoice::File(file.to_owned()))
            }
            Some(tag) if is_word(tag) => Some(GgufChoice::Quantisation(tag.to_owned())),
            Some(_) => return bad("after `:` stands a quantisation such as `Q4_K_M`, or a `.gguf` file"),
        };
        Ok(Self { id: id.to_owned(), revision: revision.to_owned(), file })
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(GgufChoice::Quantisation(text) | GgufChoice::File(text)) => write!(f, ":{text}"),
            None => Ok(()),
        }
    }
}

/// Letters, digits, `-`, `_`, `.`, at most 96 of them, and no way to mean another folder.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty()
        && text.len() <= 96
        && text.chars().all(plain)
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
}

fn written_as_path(text: &str) -> bool {
    let relative = ["./", "../", "~/"].iter().any(|start| text.starts_with(start));
    let gguf = text.to_ascii_lowercase().ends_with(".gguf") && !text.contains(':');
    let deep = !text.contains(['@', ':']) && text.matches('/').count() > 1;
    Path::new(text).is_absolute() || relative || gguf || deep || [".", "..", ""].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> RepoName {
        match ModelName::parse(text) {
            Ok(ModelName::Hub(repo)) => repo,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn hub_ids_carry_revision_and_file() {
        let plain = hub("org/name");
        assert_eq!((plain.id.as_str(), plain.revision.as_str(), plain.file), ("org/name", "main", None));
        assert_eq!(hub("org/name@refs/pr/1").revision, "refs/pr/1");
        assert_eq!(hub("o/n:Q4_K_M").file, Some(GgufChoice::Quantisation("Q4_K_M".into())));
        assert_eq!(hub("o/n@v1:sub/a.gguf").file, Some(GgufChoice::File("sub/a.gguf".into())));
        assert_eq!(hub("o/n@v1:Q8_0").to_string(), "o/n@v1:Q8_0");
    }

    #[test]
    fn what_is_written_as_a_path_is_one() {
        for text in ["/a/b", "./a", "../a", "a/b/c", "model.gguf", "dir/model.gguf", "."] {
            assert!(matches!(ModelName::parse(text), Ok(ModelName::Path(_))), "{text}");
        }
        assert_eq!(ModelName::parse("demo").ok(), Some(ModelName::Demo));
    }

    #[test]
    fn names_that_are_neither_say_so() {
        for text in ["gpt2", "o/n:", "o/n:../../x.gguf", "o/n@../x", "o/..", ".o/n", "o/n@", "o/n m", "o/n:a b"] {
            assert!(ModelName::parse(text).is_err(), "{text}");
        }
    }
}
