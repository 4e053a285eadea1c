//! What the peers need: a Python with their packages, the model in their formats, and the pairs. All below `target/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::pairs::ModelFiles;

/// The peers' programs, from the repository's root.
pub(super) const SCRIPTS_DIR: &str = "bench/peers";

/// Where pairs, models of random weights and exported forms go.
const ROOT: &str = "target/peers";

/// Scripts that decide what an exported model is.
const EXPORT: &str = concat!(include_str!("../../peers/export.py"), include_str!("../../peers/network.py"));

/// A Python with the peers' packages, and the pairs in a file.
#[derive(Debug)]
pub(super) struct Peers {
    python: PathBuf,
    pairs: PathBuf,
}

/// One model, as the peers read it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) python: PathBuf,
    pub(super) pairs: PathBuf,
    /// A directory as transformers has it.
    pub(super) model: PathBuf,
    /// The directory of its other forms.
    pub(super) exported: PathBuf,
}

impl Peers {
    /// Installs the packages unless `python` has them, and writes the pairs.
    ///
    /// # Errors
    /// This is not the repository's root, or a program fails.
    pub(super) fn set_up(python: Option<&Path>, pairs: &[(String, String)]) -> anyhow::Result<Self> {
        if !Path::new(SCRIPTS_DIR).is_dir() {
            bail!("there is no {SCRIPTS_DIR} here: run this in the repository's root");
        }
        let python = match python {
            Some(python) => python.to_owned(),
            None => install()?,
        };
        let root = Path::new(ROOT);
        std::fs::create_dir_all(root).with_context(|| root.display().to_string())?;
        let file = root.join("pairs.json");
        std::fs::write(&file, serde_json::to_vec(pairs)?).with_context(|| file.display().to_string())?;
        Ok(Self { python, pairs: file })
    }

    /// Exports a model, unless that was done already.
    ///
    /// # Errors
    /// The script fails. A form that cannot be exported is no error: its peers say so.
    pub(super) fn export(&self, files: &ModelFiles, with_int8: bool) -> anyhow::Result<Prepared> {
        let exported = Path::new(ROOT).join("exported");
        let made_of = format!("{files:?}, int8: {with_int8}\n{EXPORT}");
        once(&exported.join("made-of"), &made_of, || {
            eprintln!("exporting {} for the peers", files.dir.display());
            remove(&exported)?;
            let mut export = self.script("export.py");
            export.arg("--model").arg(&files.dir).arg("--out").arg(&exported);
            if let Some(adapter) = &files.adapter {
                export.arg("--adapter").arg(adapter);
            }
            if with_int8 {
                export.arg("--int8");
            }
            succeed(&mut export)
        })?;
        let model = if files.adapter.is_some() { exported.join("merged") } else { files.dir.clone() };
        Ok(Prepared { python: self.python.clone(), pairs: self.pairs.clone(), model, exported })
    }

    /// Makes a model of a known one's shape with random weights.
    ///
    /// # Errors
    /// There is no such shape, which the script says with the names of all, or it fails.
    pub(super) fn shape(&self, name: &str) -> anyhow::Result<Shaped> {
        let shaped = Shaped { dir: Path::new(ROOT).join("shape") };
        remove(&shaped.dir)?;
        eprintln!("making a model of the shape of {name}");
        succeed(self.script("shape.py").arg(name).arg("--texts").arg(&self.pairs).arg("--out").arg(&shaped.dir))?;
        Ok(shaped)
    }

    fn script(&self, name: &str) -> Command {
        let mut script = Command::new(&self.python);
        script.arg(format!("{SCRIPTS_DIR}/{name}"));
        script
    }
}

/// A model of random weights; its files, and what is exported of it, go when this is dropped.
#[derive(Debug)]
pub(super) struct Shaped {
    dir: PathBuf,
}

impl Shaped {
    pub(super) fn files(&self) -> ModelFiles {
        ModelFiles { dir: self.dir.clone(), adapter: None }
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        for dir in [self.dir.clone(), Path::new(ROOT).join("exported")] {
            if let Err(error) = remove(&dir) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// A virtual environment with the pinned packages.
fn install() -> anyhow::Result<PathBuf> {
    let venv = Path::new("target/peers-venv");
    let python = venv.join("bin/python");
    once(&venv.join("requirements.txt"), include_str!("../../peers/requirements.txt"), || {
        eprintln!("installing the peers in {}: minutes, and gigabytes on Linux", venv.display());
        succeed(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        succeed(Command::new(&python).args(pip).arg(format!("{SCRIPTS_DIR}/requirements.txt")))
    })?;
    Ok(python)
}

/// Does `work`, unless the file `stamp` says that it was done with the same `made_of`.
fn once(stamp: &Path, made_of: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if std::fs::read_to_string(stamp).is_ok_and(|stamp| stamp == made_of) {
        return Ok(());
    }
    work()?;
    if let Some(dir) = stamp.parent() {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    std::fs::write(stamp, made_of).with_context(|| stamp.display().to_string())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    // Standard output is only for the table.
    let status = command.stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
