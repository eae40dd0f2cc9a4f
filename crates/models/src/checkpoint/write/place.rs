//! Where a result will stand, and the name that it has until it is complete.

use super::WriteError;
use std::fs;
use std::path::{Path, PathBuf};

/// A file or folder that is written beside its place and renamed into it at the end. Without that it is removed when dropped.
#[derive(Debug)]
pub struct Place {
    target: PathBuf,
    temporary: PathBuf,
    is_folder: bool,
    done: bool,
}

impl Place {
    /// A place for a file at `target`; `replace` lets it take the place of a file that is there.
    ///
    /// # Errors
    /// When there is something at `target` that is not to be replaced.
    pub fn of_file(target: &Path, replace: bool) -> Result<Place, WriteError> {
        let place = Place::new(target, false)?;
        match fs::symlink_metadata(target) {
            Ok(_) if !replace => Err(WriteError::Exists { path: target.to_owned() }),
            Ok(about) if about.is_dir() => Err(WriteError::NotReplaced { path: target.to_owned(), found: "a folder" }),
            _ => Ok(place),
        }
    }

    /// A place for a folder at `target`, which is made under its temporary name; `replace` lets it take the place of an empty folder or of one
    /// that holds a model.
    ///
    /// # Errors
    /// When there is something at `target` that is not to be replaced, or the folder cannot be made.
    pub fn of_folder(target: &Path, replace: bool) -> Result<Place, WriteError> {
        let place = Place::new(target, true)?;
        if let Ok(about) = fs::symlink_metadata(target) {
            let refused = |found| Err(WriteError::NotReplaced { path: target.to_owned(), found });
            let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
            match () {
                () if !replace => return Err(WriteError::Exists { path: target.to_owned() }),
                () if !about.is_dir() => return refused("a file or a link"),
                // A typing mistake must not cost a home folder.
                () if !target.join("config.json").is_file() && !is_empty() => {
                    return refused("a folder without a `config.json`");
                }
                () => {}
            }
        }
        fs::create_dir(&place.temporary).map_err(WriteError::io(&place.temporary))?;
        Ok(place)
    }

    fn new(target: &Path, is_folder: bool) -> Result<Place, WriteError> {
        let kind = if is_folder { "folder" } else { "file" };
        let Some(name) = target.file_name() else {
            return Err(WriteError::Name { path: target.to_owned(), kind });
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{}", std::process::id()));
        Ok(Place { target: target.to_owned(), temporary: target.with_file_name(hidden), is_folder, done: false })
    }

    /// The name to write to.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Renames what was written into its place.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let failed = || WriteError::io(&self.target);
        let old = self.temporary.with_extension("replaced");
        let has_old = self.is_folder && self.target.exists();
        if has_old {
            fs::rename(&self.target, &old).map_err(failed())?;
        }
        fs::rename(&self.temporary, &self.target).map_err(failed())?;
        self.done = true;
        if has_old {
            fs::remove_dir_all(&old).map_err(WriteError::io(&old))?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What was not begun is not there, and nobody is left to tell of anything else.
        if !self.done && self.is_folder {
            let _ = fs::remove_dir_all(&self.temporary);
        } else if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("model.gguf");
        let place = Place::of_file(&target, false).unwrap();
        fs::write(place.temporary(), "half").unwrap();
        assert!(!target.exists());
        drop(place);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);

        let place = Place::of_file(&target, false).unwrap();
        fs::write(place.temporary(), "whole").unwrap();
        place.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_there_is_replaced_only_when_asked_and_only_by_its_like() {
        let home = tempfile::tempdir().unwrap();
        let (file, folder) = (home.path().join("file"), home.path().join("folder"));
        fs::write(&file, "old").unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("letter"), "mine").unwrap();
        let said = |result: Result<Place, WriteError>| result.map(|_| ()).unwrap_err().to_string();
        assert!(said(Place::of_file(&file, false)).contains("file: exists already"));
        assert!(said(Place::of_folder(&folder, false)).contains("folder: exists already"));
        assert!(said(Place::of_file(&folder, true)).contains("is a folder, which is not replaced"));
        assert!(said(Place::of_folder(&file, true)).contains("is a file or a link"));
        assert!(said(Place::of_folder(&folder, true)).contains("without a `config.json`"));
        assert!(said(Place::of_file(Path::new(".."), true)).contains("is no name of a file"));

        fs::write(folder.join("config.json"), "{}").unwrap();
        let place = Place::of_folder(&folder, true).unwrap();
        fs::write(place.temporary().join("new"), "").unwrap();
        place.finish().unwrap();
        assert!(folder.join("new").exists() && !folder.join("letter").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }
}
