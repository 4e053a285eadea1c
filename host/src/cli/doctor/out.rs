//! The file that everything found is written to. Whether it can be written is known before anything is measured.
//!
//! It is written in its place and never replaced by another: a device, a pipe or a link stays what it is.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::cli::error::CliError;

/// Refuses a place that cannot be written. Leaves nothing behind there, and changes nothing.
pub(super) fn check(path: &Path) -> Result<(), CliError> {
    let shown = path.display();
    let bad = |why: &str| CliError::bad_input(format!("{shown} cannot be written: {why}; name another --out"));
    if path == Path::new("-") {
        return Err(CliError::bad_input(
            "--out - is no file: the page is on standard output, name a file for the rest",
        ));
    }
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(bad("it is a directory")),
        // Root could write it, and should not.
        Ok(there) if there.permissions().readonly() => Err(bad("it is read-only")),
        Ok(there) if there.is_file() => {
            OpenOptions::new().write(true).open(path).map(drop).map_err(|error| bad(&error.to_string()))
        }
        // Opening a pipe waits for its reader.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && path.is_symlink() => {
            Err(bad("it is a link to something that is not there"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = OpenOptions::new().write(true).create_new(true).open(path);
            match made.and_then(|_| fs::remove_file(path)) {
                // Another doctor tries the same place at this moment.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                made => made.map_err(|error| bad(&error.to_string())),
            }
        }
        Err(error) => Err(bad(&error.to_string())),
    }
}

/// Writes it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(|error| CliError::failed(format!("{} cannot be written: {error}", path.display())))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_link_and_a_device_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (link, file) = (dir.path().join("link"), dir.path().join("file"));
        fs::write(&file, "longer than what comes").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        check(&link).unwrap();
        write(&link, b"found").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"found");
        let null = Path::new("/dev/null");
        check(null).unwrap();
        write(null, b"found").unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_the_start_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        check(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "kept").unwrap();
        check(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink(dir.path().join("nothing"), &dangling).unwrap();
        for (place, why) in [
            (path.as_path(), "read-only"),
            (dir.path(), "directory"),
            (&dangling, "link"),
            (Path::new("-"), "standard output"),
            (Path::new("/no/such/dir/found.json"), "found.json"),
        ] {
            let error = check(place).unwrap_err();
            assert!(error.to_string().contains(why) && error.exit as i32 == 2, "{error}");
        }
    }
}
