//! Programs of Debian packages, unpacked below `target/` where the system lacks them; nothing is installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::run;

/// A program of a Debian package: the system's own, or one unpacked with the libraries that the system lacks.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// Where it finds libraries, if it is unpacked.
    libraries: Option<OsString>,
}

impl Program {
    /// Finds the program that the package has at `path`, such as `usr/bin/tmux`. Unpacks the package below `folder`
    /// unless it is installed.
    ///
    /// # Errors
    /// It is not installed, and apt cannot download it.
    pub(crate) fn find(folder: &Path, package: &str, path: &str) -> Result<Self> {
        let installed = Path::new("/").join(path);
        if installed.exists() {
            return Ok(Self { path: installed, libraries: None });
        }
        let unpacked = folder.join(package);
        let program = unpacked.join(path);
        if !program.exists() {
            unpack(&folder.join(format!("{package}-packages")), package, &unpacked)?;
            ensure!(program.exists(), "Debian's package {package} has no {path}");
        }
        Ok(Self { path: program, libraries: Some(std::env::join_paths(library_dirs(&unpacked))?) })
    }

    /// Starts it with arguments to come.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        self.set_libraries(&mut command);
        command
    }

    /// Has a command that starts it find its libraries.
    pub(crate) fn set_libraries(&self, command: &mut Command) {
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
    }
}

/// Downloads a package, and those that it needs and the system lacks, and unpacks them all.
fn unpack(archives: &Path, package: &str, into: &Path) -> Result<()> {
    std::fs::create_dir_all(archives.join("partial"))?;
    let mut archive = OsString::from("Dir::Cache::archives=");
    archive.push(archives);
    // Nothing is installed, so the system's lock is not needed.
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--download-only", "--yes", "--no-install-recommends", "-q", "-o", "Debug::NoLocking=1"]);
    run(apt.arg("-o").arg(archive).arg(package)).with_context(|| {
        format!("{package} is not installed and cannot be downloaded: install it, or run `apt-get update` first")
    })?;
    for entry in std::fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&path).arg(into))?;
        }
    }
    Ok(())
}

/// The folders below an unpacked package's system root that have libraries: `usr/lib/x86_64-linux-gnu`, and the folders
/// of packages within it.
fn library_dirs(root: &Path) -> Vec<PathBuf> {
    let folders = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_machines = ["lib", "usr/lib"].into_iter().flat_map(|lib| folders(root.join(lib)));
    let of_machines = of_machines.filter(|dir| dir.to_string_lossy().ends_with("-linux-gnu"));
    of_machines.flat_map(|dir| std::iter::once(dir.clone()).chain(folders(dir)).filter(|dir| dir.is_dir())).collect()
}
