//! Removing what nothing needs any more: how it is removed, counted and bounded. What is needed is for others to say:
//! [`tenant`](crate::tenant) knows the versions, [`model`](crate::model) the pointers.
//!
//! Everything that is removed goes at once for a reader: a file by unlinking it, a directory by renaming it first. A
//! sweep that is killed leaves directories that begin with [`DROPPING_PREFIX`], and the next one removes them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::durable::UNFINISHED_PREFIX;

/// How the name of a directory begins that is being removed.
pub(crate) const DROPPING_PREFIX: &str = ".dropping-";

/// How the names of unfinished files and directories begin: ours, and those of earlier versions of this program.
const LEFTOVER_PREFIXES: [&str; 5] = [UNFINISHED_PREFIX, DROPPING_PREFIX, ".adding-", ".pulling-", ".tmp"];

/// How long something that nothing names is left alone: it may belong to a command that has not finished, such as a
/// component that is in the store and not deployed yet. Far longer than any command works without writing.
pub(crate) const GRACE: Duration = Duration::from_secs(3_600);

/// What a sweep has removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Every item.
    pub dropped: Vec<Dropped>,
    /// What could not be removed; the next sweep tries again.
    pub failed: Vec<Failed>,
    /// Whether the sweep ended before it had looked at everything, because its time was up.
    pub is_cut_short: bool,
}

/// An item that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// What it was.
    pub kind: DroppedKind,
    /// Its name, for people.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What an item was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DroppedKind {
    /// The record of a tenant's version.
    Version,
    /// A component.
    Component,
    /// Compiled code of a component.
    CompiledCode,
    /// One revision of a model.
    ModelRevision,
    /// What a broken operation left.
    Leftover,
}

/// An item that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its path.
    pub path: PathBuf,
    /// What the system said.
    pub message: String,
}

/// Whether a sweep removes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It does.
    Remove,
    /// It only lists it.
    DryRun,
}

/// A sweep in progress.
#[derive(Debug)]
pub(crate) struct Sweep {
    mode: Mode,
    until: Option<Instant>,
    now: SystemTime,
    swept: Swept,
}

impl Sweep {
    /// Begins a sweep that ends early when `max_time` has passed.
    pub(crate) fn new(mode: Mode, max_time: Option<Duration>) -> Self {
        let until = max_time.map(|time| Instant::now() + time);
        Self { mode, until, now: SystemTime::now(), swept: Swept::default() }
    }

    /// Whether it removes what it finds.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// What it has done.
    pub(crate) fn finish(self) -> Swept {
        self.swept
    }

    /// Counts something that the caller removes.
    pub(crate) fn count(&mut self, kind: DroppedKind, name: String, bytes: u64) {
        self.swept.dropped.push(Dropped { kind, name, bytes });
    }

    /// Removes a file.
    pub(crate) fn file(&mut self, kind: DroppedKind, name: String, path: &Path) {
        self.remove(kind, name, path, |path| std::fs::remove_file(path));
    }

    /// Removes a directory and its contents. The caller makes sure that nothing creates one of the same name meanwhile.
    pub(crate) fn directory(&mut self, kind: DroppedKind, name: String, path: &Path) {
        self.remove(kind, name, path, |path| {
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            if file_name.starts_with(DROPPING_PREFIX) {
                return std::fs::remove_dir_all(path);
            }
            let dropping = path.with_file_name(format!("{DROPPING_PREFIX}{file_name}"));
            if dropping.exists() {
                std::fs::remove_dir_all(&dropping)?;
            }
            std::fs::rename(path, &dropping)?;
            std::fs::remove_dir_all(&dropping)
        });
    }

    /// Removes what broken operations left in a directory.
    pub(crate) fn leftovers(&mut self, dir: &Path) {
        for path in self.entries(dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if LEFTOVER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && self.is_older_than(&path, GRACE) {
                self.leftover(&path);
            }
        }
    }

    /// Removes a file or directory as a leftover.
    pub(crate) fn leftover(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            self.directory(DroppedKind::Leftover, name, path);
        } else {
            self.file(DroppedKind::Leftover, name, path);
        }
    }

    /// Whether a file, or a directory and all in it, was last written longer ago than `age`. What cannot be read is
    /// taken for new.
    pub(crate) fn is_older_than(&self, path: &Path, age: Duration) -> bool {
        let newest = newest_change(path);
        newest.is_ok_and(|newest| self.now.duration_since(newest).is_ok_and(|since| since >= age))
    }

    /// What is in a directory, in order; nothing where it cannot be read or is not there.
    pub(crate) fn entries(&mut self, dir: &Path) -> Vec<PathBuf> {
        let read = std::fs::read_dir(dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        match read {
            Ok(entries) => {
                let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
                paths.sort();
                paths
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.failed(dir, &error);
                }
                Vec::new()
            }
        }
    }

    /// Notes what could not be removed.
    pub(crate) fn failed(&mut self, path: &Path, error: &io::Error) {
        self.swept.failed.push(Failed { path: path.to_owned(), message: error.to_string() });
    }

    fn remove(&mut self, kind: DroppedKind, name: String, path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.swept.is_cut_short = true;
            return;
        }
        let bytes = size(path).unwrap_or_default();
        if self.mode == Mode::Remove {
            match remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return self.failed(path, &error),
                _ => {}
            }
        }
        self.count(kind, name, bytes);
    }
}

/// When a file, or anything in a directory, was last written.
fn newest_change(path: &Path) -> io::Result<SystemTime> {
    let metadata = std::fs::symlink_metadata(path)?;
    let mut newest = metadata.modified()?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            newest = newest.max(newest_change(&entry?.path())?);
        }
    }
    Ok(newest)
}

/// Bytes of a file, or of all files in a directory.
fn size(path: &Path) -> io::Result<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    std::fs::read_dir(path)?.try_fold(0, |bytes, entry| Ok(bytes + size(&entry?.path())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path, age: Duration) {
        std::fs::File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn leftovers_go_when_they_are_old_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, is_old) in [(".adding-old", true), (".adding-new", false), (".dropping-old", true), ("model", true)]
        {
            std::fs::create_dir(path(name)).unwrap();
            std::fs::write(path(name).join("file"), "12345").unwrap();
            if is_old {
                age(&path(name).join("file"), 2 * GRACE);
                age(&path(name), 2 * GRACE);
            }
        }
        // A directory is as new as what is in it.
        std::fs::create_dir(path(".adding-written")).unwrap();
        std::fs::write(path(".adding-written/file"), "1").unwrap();
        age(&path(".adding-written"), 2 * GRACE);
        std::fs::write(path(".tmpAbCdEf"), "123").unwrap();
        age(&path(".tmpAbCdEf"), 2 * GRACE);

        for mode in [Mode::DryRun, Mode::Remove] {
            let mut sweep = Sweep::new(mode, None);
            sweep.leftovers(dir.path());
            let swept = sweep.finish();
            let names: Vec<(&str, u64)> = swept.dropped.iter().map(|item| (item.name.as_str(), item.bytes)).collect();
            assert_eq!(names, [(".adding-old", 5), (".dropping-old", 5), (".tmpAbCdEf", 3)], "{mode:?}");
            assert!(swept.failed.is_empty() && !swept.is_cut_short);
            assert_eq!(path(".adding-old").exists(), mode == Mode::DryRun);
        }
        for kept in [".adding-new", ".adding-written", "model"] {
            assert!(path(kept).exists(), "{kept}");
        }
        assert!(!path(".dropping-old").exists() && !path(".tmpAbCdEf").exists());
    }

    #[test]
    fn a_sweep_whose_time_is_up_removes_nothing_more_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "1").unwrap();
        let mut sweep = Sweep::new(Mode::Remove, Some(Duration::ZERO));
        sweep.file(DroppedKind::Component, "file".to_owned(), &file);
        let swept = sweep.finish();
        assert!(file.exists() && swept.dropped.is_empty() && swept.is_cut_short);
    }
}
