//! What the tests of every crate share: where models and goldens are, and a record of what a test could not do.
//!
//! Owns the files of this folder: [`models`] are tiny Hugging Face directories of every family, [`golden`] files hold
//! float64 logits of the default model, and [`default_model`] is what `cargo xtask test` fetches. Knows only paths: it
//! reads none of the files, and no program depends on it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Environment variable that names the file to which [`skip`] appends.
pub const SKIPS_VARIABLE: &str = "ASSAY_SKIPS";

/// Environment variable that names another directory of the default model's files.
pub const DEFAULT_MODEL_VARIABLE: &str = "ASSAY_MINILM_DIR";

/// Why a test was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No adapter or no Vulkan driver.
    NoAdapter,
    /// The processor lacks the instructions.
    NoInstructions,
    /// The model hub cannot be reached.
    NoHub,
    /// Packages of other languages cannot be had.
    NoPackages,
    /// The operating system lacks what the test looks at.
    NoSystemFeature,
    /// The reference material is not beside the checkout.
    NoReference,
    /// A file that `cargo xtask test` makes is missing.
    NotSetUp,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::NoAdapter,
        Self::NoInstructions,
        Self::NoHub,
        Self::NoPackages,
        Self::NoSystemFeature,
        Self::NoReference,
        Self::NotSetUp,
    ];

    /// Its name in the file of skips.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAdapter => "no adapter",
            Self::NoInstructions => "no instructions",
            Self::NoHub => "no hub",
            Self::NoPackages => "no packages",
            Self::NoSystemFeature => "no system feature",
            Self::NoReference => "no reference material",
            Self::NotSetUp => "not set up",
        }
    }
}

/// Says that the calling test does nothing, and why: on standard error, and as a line
/// `cause <tab> program <tab> test <tab> reason` of the file that [`SKIPS_VARIABLE`] names.
///
/// # Panics
/// The file cannot be written.
pub fn skip(cause: Cause, reason: &str) {
    eprintln!("skipped: {reason}");
    if let Some(path) = std::env::var_os(SKIPS_VARIABLE) {
        note(Path::new(&path), cause, reason).expect("the file of skips can be written");
    }
}

fn note(path: &Path, cause: Cause, reason: &str) -> std::io::Result<()> {
    // A test's thread has the test's name.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main");
    let line = format!("{}\t{}\t{test}\t{}\n", cause.name(), program(), reason.replace(['\t', '\n'], " "));
    // One short write in append mode: lines of tests that run at once do not mix.
    OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

/// The test program's name, without the hash that cargo adds.
fn program() -> String {
    // Not the current executable: that is the loader where another system's loader starts the tests.
    let path = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.rsplit_once('-').map_or(&*stem, |(name, _)| name).to_owned()
}

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The tiny model `testdata/models/NAME`: `config.json`, `model.safetensors`, `tokenizer.json` and `golden.json`.
///
/// # Panics
/// There is none of that name.
#[must_use]
pub fn model(name: &str) -> PathBuf {
    let path = root().join("testdata/models").join(name);
    assert!(path.is_dir(), "there is no {}", path.display());
    path
}

/// Directories of the tiny models whose names start with `family`, sorted. Includes those of the reference material
/// beside the checkout, where it has `golden/tiny-FAMILY…`.
///
/// # Panics
/// `testdata/models` has none.
#[must_use]
pub fn models(family: &str) -> Vec<PathBuf> {
    let list = |folder: PathBuf, prefix: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        let mut paths: Vec<_> = named.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let mut models = list(root().join("testdata/models"), family);
    assert!(!models.is_empty(), "testdata/models has no {family}");
    models.extend(list(root().join("../shared/golden"), &format!("tiny-{family}")));
    models
}

/// The golden file `testdata/golden/NAME`.
///
/// # Panics
/// There is none of that name.
#[must_use]
pub fn golden(name: &str) -> PathBuf {
    let path = root().join("testdata/golden").join(name);
    assert!(path.is_file(), "there is no {}", path.display());
    path
}

/// A file of the reference material that some checkouts have beside them. Tests use it as one more input: what they
/// prove does not depend on it.
#[must_use]
pub fn beside_checkout(path: &str) -> Option<PathBuf> {
    Some(root().join("../shared").join(path)).filter(|path| path.exists())
}

/// The data directory of the tests, which holds the default model once `cargo xtask test` has run.
#[must_use]
pub fn data_dir() -> PathBuf {
    root().join("target/test-data")
}

/// The directory of the default model's encoder and tokenizer: [`DEFAULT_MODEL_VARIABLE`], or what `cargo xtask test`
/// fetched. Skips the calling test where there is neither.
#[must_use]
pub fn default_model() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(DEFAULT_MODEL_VARIABLE) {
        return Some(dir.into());
    }
    let revisions = data_dir().join("models/assay--minilm-l6-debian");
    match std::fs::read_to_string(revisions.join("current")) {
        Ok(revision) => Some(revisions.join(revision.trim())),
        Err(_) => {
            skip(Cause::NotSetUp, "the default model is not here; `cargo xtask test` fetches it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_model_with_a_golden() {
        for family in ["bert-", "xlm-roberta", "roberta", "camembert", "distilbert", "electra", "modernbert-"] {
            for dir in models(family) {
                for file in ["config.json", "model.safetensors", "tokenizer.json", "golden.json"] {
                    assert!(dir.join(file).is_file(), "{} has no {file}", dir.display());
                }
            }
        }
    }

    #[test]
    fn a_skip_is_one_line_of_cause_program_test_and_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("skips.tsv");
        note(&path, Cause::NoHub, "two\nlines").unwrap();
        note(&path, Cause::NotSetUp, "another").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let test = "tests::a_skip_is_one_line_of_cause_program_test_and_reason";
        assert_eq!(text, format!("no hub\ttestdata\t{test}\ttwo lines\nnot set up\ttestdata\t{test}\tanother\n"));
    }

    #[test]
    fn a_program_is_named_without_its_hash() {
        assert_eq!(program(), "testdata");
    }
}
