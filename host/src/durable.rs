//! Files that are whole or absent, and locks between processes.
//!
//! A file is written beside its place and renamed into it: a reader sees the old contents or the new ones. A process
//! that is killed half-way leaves a file that begins with [`UNFINISHED_PREFIX`]; a [sweep](crate::sweep) removes it.
//! Files that people name are read up to a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// How the names of files begin that are not yet in their place.
pub(crate) const UNFINISHED_PREFIX: &str = ".writing-";

/// The file that [`DirLock`] locks.
const LOCK_FILE: &str = ".lock";

/// What a file survives once it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A crash of the machine.
    Machine,
    /// A crash of the process. For what can be made again.
    Process,
}

/// Reads a file of at most so many bytes. One that has more gives their number, or what is known of it: pipes and
/// devices do not tell their length, and a file may grow.
pub(crate) fn read_at_most(path: &Path, limit_bytes: u64) -> io::Result<Result<Vec<u8>, u64>> {
    read(File::open(path)?, limit_bytes)
}

/// Opens a file that this program keeps. What else lies in its place is refused: a pipe would wait for a writer, a device
/// may have no end.
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    match std::fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")),
    }
}

/// Reads a file that this program keeps, of at most so many bytes.
pub(crate) fn read_own(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let too_large = |_| io::Error::new(io::ErrorKind::InvalidData, format!("has more than {limit_bytes} bytes"));
    read(open_own(path)?, limit_bytes)?.map_err(too_large)
}

fn read(file: File, limit_bytes: u64) -> io::Result<Result<Vec<u8>, u64>> {
    let told = file.metadata()?.len();
    if told > limit_bytes {
        return Ok(Err(told));
    }
    let mut bytes = Vec::new();
    let read = file.take(limit_bytes + 1).read_to_end(&mut bytes)? as u64;
    Ok(if read > limit_bytes { Err(read) } else { Ok(bytes) })
}

/// Writes a file, in place of the one that is there.
pub(crate) fn replace(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    replace_from(path, &mut &*contents, durability)
}

/// Writes a file with what a reader gives, in place of the one that is there.
pub(crate) fn replace_from(path: &Path, contents: &mut dyn Read, durability: Durability) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempfile_in(dir)?;
    io::copy(contents, &mut file)?;
    if durability == Durability::Machine {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    match durability {
        Durability::Machine => sync_dir(dir),
        Durability::Process => Ok(()),
    }
}

/// Makes the names in a directory survive a crash of the machine.
#[cfg(unix)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Elsewhere directories cannot be synced; the system journals them.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a directory that only its owner can open, or closes one that is there to others.
pub(crate) fn private_dir(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    #[cfg(unix)]
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// An exclusive hold on a directory among the processes and threads that ask for one. The system ends it with the
/// process, even on `kill -9`.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Waits until no other process holds the directory. Makes the directory if it is missing.
    pub(crate) fn acquire(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE))?;
        file.lock()?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_a_bound_whether_it_tells_its_length_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_at_most(&path, 4).unwrap(), Ok(b"four".to_vec()));
        assert_eq!(read_at_most(&path, 3).unwrap(), Err(4));
        #[cfg(unix)]
        assert_eq!(read_at_most(Path::new("/dev/zero"), 3).unwrap(), Err(4));
    }

    #[test]
    fn a_kept_file_is_a_regular_one_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_own(&path, 4).unwrap(), b"four");
        assert!(read_own(&path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        assert!(read_own(dir.path(), 4).unwrap_err().to_string().contains("not a regular file"));
        #[cfg(unix)]
        assert!(read_own(Path::new("/dev/zero"), 4).unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (contents, durability) in [("old", Durability::Machine), ("new", Durability::Process)] {
            replace(&path, contents.as_bytes(), durability).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_placed_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("taken")).unwrap();
        replace(&dir.path().join("taken"), b"contents", Durability::Process).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_has_one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        let other = File::open(dir.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
    }
}
