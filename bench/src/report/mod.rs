//! The report of a run: its figures ([`schema`]), their presentation ([`content`]), and the three files. [`quality`] is
//! the report of rankings.
//!
//! `report.md` and `report.html` render the same blocks, so they cannot disagree. Only the latter has plots.

mod block;
mod content;
mod html;
mod markdown;
pub mod quality;
pub mod schema;
mod svg;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use schema::{Report, SCHEMA, SCHEMA_VERSION};

/// The files of a report.
pub const REPORT_FILES: [&str; 3] = ["report.md", "report.json", "report.html"];

/// Tries the directory of a report, before minutes of measuring. Leaves nothing behind.
///
/// # Errors
/// The directory cannot be made or written.
pub fn try_dir(dir: &Path) -> Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let probe = dir.join(format!(".assay-bench-{}", std::process::id()));
    let tried = std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe));
    for made in missing {
        // What somebody else has written into meanwhile stays.
        let _ = std::fs::remove_dir(made);
    }
    tried.with_context(|| format!("cannot write into {}: name another --out", dir.display()))
}

/// Writes files into a directory, which is made if necessary.
///
/// # Errors
/// The directory or a file cannot be written.
pub fn write_files<'a>(dir: &Path, files: impl IntoIterator<Item = (impl AsRef<str>, &'a String)>) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in files {
        let path = dir.join(name.as_ref());
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Report {
    /// Writes the three files into a directory, which is made if necessary.
    ///
    /// # Errors
    /// The directory or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string(self)? + "\n";
        write_files(dir, REPORT_FILES.into_iter().zip([&self.markdown(), &json, &self.html()]))
    }

    /// Reads a `report.json`, or the one in a directory.
    ///
    /// # Errors
    /// It cannot be read, or is not a report of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(value["schema"] == SCHEMA, "{} is not a report of assay-bench", path.display());
        ensure!(
            value["schema_version"] == SCHEMA_VERSION,
            "{} has schema version {}, this program reads {SCHEMA_VERSION}",
            path.display(),
            value["schema_version"]
        );
        serde_json::from_value(value).with_context(|| path.display().to_string())
    }

    /// The report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::render(&content::blocks(self))
    }

    /// The report as one HTML file, which refers to no other.
    #[must_use]
    pub fn html(&self) -> String {
        html::render(&self.scenario, &content::headline(self), &content::blocks(self))
    }
}
