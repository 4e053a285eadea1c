//! Models' names and their directories.
//!
//! No two names share a directory, even if the file system ignores case: the store refuses a name whose directory
//! [folds](fold) to another model's.

use std::path::{Path, PathBuf};

use super::error::ModelError;

/// The folder of a hub's cache with a repository's files by commit.
const SNAPSHOTS_DIR: &str = "snapshots";

/// Longest name of a model and of its directory.
const MAX_NAME_BYTES: usize = 128;

/// The file with the default model's name, beside the models' directories.
pub(super) const DEFAULT_FILE: &str = "default";

/// Least and most digits of a requested revision.
const REVISION_DIGITS: std::ops::RangeInclusive<usize> = 4..=64;

/// The directory of a model. A name has at most one '/', which becomes "--", so no name leaves the store. A model named
/// like the default's file gets a '~', which no name contains.
pub(super) fn directory(name: &str) -> Result<String, ModelError> {
    let part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && !part.contains("--") && part.bytes().all(allowed)
    };
    let parts: Vec<&str> = name.split('/').collect();
    // A command would take it for an option.
    let is_option = name.starts_with('-');
    if is_option || parts.len() > 2 || name.len() > MAX_NAME_BYTES || !parts.iter().all(|&name| part(name)) {
        return Err(ModelError::Name { name: name.to_owned(), max_bytes: MAX_NAME_BYTES });
    }
    let directory = parts.join("--");
    Ok(if fold(&directory) == DEFAULT_FILE { format!("{directory}~") } else { directory })
}

/// Equal for two directories that some file systems do not distinguish: macOS and Windows ignore case, Windows also
/// ignores trailing full stops.
pub(super) fn fold(directory: &str) -> String {
    directory.trim_end_matches('.').to_ascii_lowercase()
}

/// The directory that holds a model's files, and the name that its path gives it: of a repository in a hub's cache,
/// `models--OWNER--NAME/snapshots/COMMIT`, the snapshot and `OWNER/NAME`.
///
/// # Errors
/// The path gives no name, or a repository has no snapshot to take.
pub fn of_directory(dir: &Path) -> Result<(PathBuf, String), ModelError> {
    let last = |dir: &Path| dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut files, mut name) = (dir.to_owned(), last(dir));
    if repository(&name).is_some() && dir.join(SNAPSHOTS_DIR).is_dir() {
        files = snapshot(dir).ok_or_else(|| ModelError::NoSnapshot { dir: dir.to_owned() })?;
    } else if let Some(snapshots) = dir.parent().filter(|parent| last(parent) == SNAPSHOTS_DIR) {
        name = snapshots.parent().map(last).unwrap_or_default();
    }
    let name = repository(&name).unwrap_or(name);
    if is_commit(&name) || directory(&name).is_err() {
        return Err(ModelError::NoNameFromFolder { name });
    }
    Ok((files, name))
}

/// Whether a hub could name a commit so.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(is_digit)
}

/// Whether it is a hexadecimal digit as hubs and this store write them.
fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The name of the repository that a hub's cache keeps in a folder, `models--OWNER--NAME`.
fn repository(folder: &str) -> Option<String> {
    folder.strip_prefix("models--").map(|name| name.replacen("--", "/", 1))
}

/// The snapshot of a repository in a hub's cache: that of the main branch, or the only one.
fn snapshot(repository: &Path) -> Option<PathBuf> {
    let snapshots = repository.join(SNAPSHOTS_DIR);
    let of_main = std::fs::read_to_string(repository.join("refs/main")).ok();
    if let Some(dir) = of_main.map(|commit| snapshots.join(commit.trim())).filter(|dir| dir.is_dir()) {
        return Some(dir);
    }
    let mut all = std::fs::read_dir(snapshots).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// Splits `NAME[@REVISION]`; the revision may be abbreviated.
pub(super) fn split_revision(text: &str) -> Result<(&str, Option<&str>), ModelError> {
    let Some((name, revision)) = text.split_once('@') else { return Ok((text, None)) };
    if !REVISION_DIGITS.contains(&revision.len()) || !revision.bytes().all(is_digit) {
        return Err(ModelError::UnknownRevision { name: name.to_owned(), revision: revision.to_owned() });
    }
    Ok((name, Some(revision)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories_that_stay_in_the_store() {
        for (name, expected) in [("tiny", "tiny"), ("a/b", "a--b"), ("a.b_c-1", "a.b_c-1"), ("Default", "Default~")] {
            assert_eq!(directory(name).unwrap(), expected);
        }
        for name in ["", "/", "a/", "/a", "a/b/c", "..", ".a", "a/..", "a--b", "a~", "a@b", "a\\b", &"a".repeat(129)] {
            assert!(directory(name).is_err(), "{name}");
        }
    }

    #[test]
    fn directories_that_some_file_systems_confuse_fold_alike() {
        for (a, b) in [("tiny", "TINY"), ("a", "a."), ("A--b", "a--B..")] {
            assert_eq!(fold(a), fold(b));
        }
        assert_ne!(fold("a.b"), fold("a"));
    }

    #[test]
    fn a_revision_is_digits_after_an_at_sign() {
        assert_eq!(split_revision("a/b").unwrap(), ("a/b", None));
        assert_eq!(split_revision("a/b@12ab").unwrap(), ("a/b", Some("12ab")));
        for text in ["a@", "a@123", "a@12AB", "a@zzzz", &format!("a@{}", "1".repeat(65))] {
            assert!(split_revision(text).is_err(), "{text}");
        }
    }
}
