//! The registry's file, for one process at a time.
//!
//! The lock is a file beside it that only its owner can open. A lock on the file itself could be taken by whoever may read
//! it, and would keep a server from starting.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use redb::StorageBackend;

/// The file with the lock, in the registry's directory.
const LOCK_FILE: &str = "registry.lock";

/// An open registry. The system gives the lock back with the process, even on `kill -9`.
#[derive(Debug)]
pub(super) struct RegistryFile {
    file: File,
    _lock: File,
}

impl RegistryFile {
    /// Opens or creates the file. `None` if another process has it open.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let lock = private().create(true).truncate(false).write(true).open(path.with_file_name(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let file = private().create(true).truncate(false).read(true).write(true).open(path)?;
        Ok(Some(Self { file, _lock: lock }))
    }
}

impl StorageBackend for RegistryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_at(&self.file, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write_at(&self.file, offset, data)
    }
}

/// Options of a file that only its owner can open.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(unix)]
fn write_at(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, data, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (out, offset) = (&mut out[read..], offset + read as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn write_at(file: &File, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, data, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => (data, offset) = (&data[written..], offset + written as u64),
        }
    }
    Ok(())
}
