//! Models that lie on this machine: a directory in Hugging Face layout, a directory with one `.gguf`, or a `.gguf` file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::HubError;
use nxd_models::checkpoint::gguf::siblings;

/// `path` when it is a model's directory or file; the file inside when it is a directory with one `.gguf`.
pub(super) fn model_at(path: &Path) -> Result<PathBuf, HubError> {
    let kind = fs::metadata(path).map_err(|error| reading(path, error))?.file_type();
    if kind.is_dir() {
        return model_in(path);
    }
    if !kind.is_file() {
        return Err(HubError::WrongKind { path: path.to_owned(), found: "a pipe, a socket or a device" });
    }
    if !is_gguf(path) {
        return Err(HubError::WrongKind { path: path.to_owned(), found: "a file without the ending `.gguf`" });
    }
    // Whether it may be read is told here, where the path is the whole message.
    fs::File::open(path).map_err(|error| reading(path, error))?;
    Ok(path.to_owned())
}

fn model_in(dir: &Path) -> Result<PathBuf, HubError> {
    let mut gguf = Vec::new();
    let mut safetensors = false;
    for entry in fs::read_dir(dir).map_err(|error| reading(dir, error))? {
        let path = entry.map_err(|error| reading(dir, error))?.path();
        safetensors |= path.extension().is_some_and(|end| end == "safetensors");
        if is_gguf(&path) {
            gguf.push(path);
        }
    }
    gguf.sort();
    let has_config = dir.join("config.json").symlink_metadata().is_ok();
    match gguf.as_slice() {
        // Golden data lies beside its `.gguf` as safetensors: without a config.json those are no weights.
        _ if has_config && (safetensors || gguf.is_empty()) => Ok(dir.to_owned()),
        [] => Err(HubError::NoModelInside { path: dir.to_owned() }),
        [only] => model_at(only),
        // Whether all parts are there is told when they are opened.
        [first, ..] if siblings(first).is_some_and(|parts| gguf.iter().all(|path| parts.contains(path))) => {
            model_at(first)
        }
        several => Err(HubError::SeveralGguf {
            place: dir.display().to_string(),
            files: several.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect(),
        }),
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

fn reading(path: &Path, source: std::io::Error) -> HubError {
    match source.kind() {
        ErrorKind::NotFound => HubError::Missing { path: path.to_owned() },
        _ => HubError::Io { doing: "cannot read", path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_own_model_or_holds_one_gguf() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(model_at(dir.path()), Err(HubError::NoModelInside { .. })));
        let gguf = dir.path().join("a.gguf");
        fs::write(&gguf, "x").unwrap();
        fs::write(dir.path().join("expected.safetensors"), "x").unwrap();
        assert_eq!(model_at(dir.path()).unwrap(), gguf);
        assert_eq!(model_at(&gguf).unwrap(), gguf);
        fs::write(dir.path().join("b.gguf"), "x").unwrap();
        assert!(
            matches!(model_at(dir.path()), Err(HubError::SeveralGguf { files, .. }) if files == ["a.gguf", "b.gguf"])
        );
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert_eq!(model_at(dir.path()).unwrap(), dir.path());
    }

    #[test]
    fn the_parts_of_one_gguf_are_one_model() {
        let dir = tempfile::tempdir().unwrap();
        for part in ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"] {
            fs::write(dir.path().join(part), "x").unwrap();
        }
        assert_eq!(model_at(dir.path()).unwrap(), dir.path().join("m-00001-of-00002.gguf"));
        fs::write(dir.path().join("other.gguf"), "x").unwrap();
        assert!(matches!(model_at(dir.path()), Err(HubError::SeveralGguf { .. })));
    }

    #[test]
    fn what_is_no_model_is_refused_without_reading_it() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("a.txt");
        fs::write(&text, "x").unwrap();
        assert!(matches!(model_at(&text), Err(HubError::WrongKind { .. })));
        assert!(matches!(model_at(Path::new("/dev/zero")), Err(HubError::WrongKind { .. })));
        assert!(matches!(model_at(&dir.path().join("no")), Err(HubError::Missing { .. })));
    }
}
