//! Programs of Debian packages, unpacked below `target/` where the system lacks them; nothing is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::run;

/// A program of a Debian package: the system's own, or one unpacked below the folder.
pub(crate) fn program(folder: &Path, package: &str, name: &str) -> Result<PathBuf> {
    let installed = Path::new("/usr/bin").join(name);
    if installed.exists() {
        return Ok(installed);
    }
    let (dir, unpacked) = (folder.join(package), folder.join(package).join("root"));
    let program = unpacked.join("usr/bin").join(name);
    if !program.exists() {
        std::fs::create_dir_all(&dir)?;
        run(Command::new("apt-get").args(["download", "-q", package]).current_dir(&dir))
            .with_context(|| format!("{name} is not installed, and its package {package} cannot be downloaded"))?;
        let archive = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.path());
        let archive = archive.filter(|path| path.extension().is_some_and(|it| it == "deb")).max();
        run(Command::new("dpkg").arg("-x").arg(archive.context("apt left no package")?).arg(&unpacked))?;
        ensure!(program.exists(), "Debian's package {package} has no {name}");
    }
    Ok(program)
}
