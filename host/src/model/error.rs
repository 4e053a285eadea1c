//! Why a model cannot be added, found or used.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use assay_kernels::Unsupported;
use assay_kernels::checkpoint::CheckpointError;

/// Why a model cannot be added, found or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was named as a model's directory is a file.
    #[error("{} is a file: name the directory that it is in", path.display())]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// The directory is not a model.
    #[error("{} is not a model: it has no {file}", dir.display())]
    NotAModel {
        /// The directory.
        dir: PathBuf,
        /// The first file that is missing.
        file: &'static str,
    },
    /// The file changed while it was copied.
    #[error("{} changed while it was being added", path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// The weights or the configuration are bad.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No engine has a part of the model.
    #[error("{}: {lacking}", path.display())]
    Unsupported {
        /// The file that asks for the part.
        path: PathBuf,
        /// The part, and what there is in its place.
        #[source]
        lacking: Unsupported,
    },
    /// The tokenizer is bad, or is another model's.
    #[error("{}: {fault}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: TokenizerFault,
    },
    /// A file says something about the model that is not computed, or cannot be read.
    #[error("{}: {message}", path.display())]
    Described {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is supported.
        message: String,
    },
    /// The settings of a stored model are damaged or of a later program.
    #[error("{}: cannot be read: {error}; add the model again, or use the program that added it", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        error: serde_json::Error,
    },
    /// The directory has no tokenizer.
    #[error("{} is not a model: it has no tokenizer.json{way_out}", dir.display())]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
        /// What to do.
        way_out: &'static str,
    },
    /// There is no such label.
    #[error("there is no label {label:?}: the model has {labels}")]
    NoLabel {
        /// The label.
        label: String,
        /// The labels, by number and name.
        labels: String,
    },
    /// The directory's name is not a model's.
    #[error("the folder's name {name:?} is not a model's name: choose one with --name of `assay model add`")]
    NoNameFromFolder {
        /// The name.
        name: String,
    },
    /// A repository of a hub's cache without a snapshot to take.
    #[error("{} has no snapshot of its main branch, and not exactly one other: add one of them", dir.display())]
    NoSnapshot {
        /// The repository's directory.
        dir: PathBuf,
    },
    /// The name is not a valid model name.
    #[error(
        "{name:?} is not a model's name: use NAME or OWNER/NAME of letters, digits, '.', '_' and '-', at most {max_bytes} bytes"
    )]
    Name {
        /// The name.
        name: String,
        /// Longest name.
        max_bytes: usize,
    },
    /// Some file systems do not distinguish the name from another model's.
    #[error(
        "the name {name:?} is too close to that of the model {taken_by}: on some systems both would lie in one directory; use another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The model that is in the store.
        taken_by: String,
    },
    /// The store lacks the model.
    #[error("there is no model {name} here")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The store has the model but lacks the revision.
    #[error("there is no revision {revision} of the model {name} here")]
    UnknownRevision {
        /// The model's name.
        name: String,
        /// The revision, or its first digits.
        revision: String,
    },
    /// Several revisions begin with these digits.
    #[error("{name}@{prefix} may be any of {}: give more digits", revisions.join(", "))]
    AmbiguousRevision {
        /// The model's name.
        name: String,
        /// The requested digits.
        prefix: String,
        /// The revisions that begin with it.
        revisions: Vec<String>,
    },
    /// Two revisions of a model have the same first digits and so the same directory.
    #[error("revision {revision} of {name} cannot be kept beside revision {kept}: both begin with the same 16 digits")]
    RevisionClash {
        /// The model's name.
        name: String,
        /// The revision to add.
        revision: String,
        /// The revision in the store.
        kept: String,
    },
    /// The model cannot rank by itself.
    #[error("{name} cannot be the default model: {why}")]
    CannotBeDefault {
        /// The name.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// The model would take the default's place and cannot rank by itself.
    #[error(
        "{name} is the default model, and the one to add cannot be: {why}; or give it another name with --name, or make \
         another model the default first"
    )]
    InPlaceOfDefault {
        /// The name.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// The default model cannot be removed.
    #[error("{name} is the default model: make another one the default first, with `assay model default OTHER`")]
    IsDefault {
        /// The name.
        name: String,
    },
    /// The store has no default model.
    #[error("no default model is installed")]
    Empty,
    /// A file of the store has changed since it was added.
    #[error("{}: {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        #[source]
        damage: Damage,
    },
    /// The hub provided no model.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The Python package index provided no model.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Neither the hub nor the package index provided a default model.
    #[error("no default model is available: {hub}; {package}")]
    NoDefault {
        /// The hub's error.
        hub: HubError,
        /// The package's error.
        package: Box<ModelError>,
    },
}

/// Why the hub provided no model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub refused.
    #[error("the hub gave no {what}: it answers {status}; {way_out}")]
    Refused {
        /// What was requested.
        what: String,
        /// Of HTTP.
        status: u16,
        /// What may be behind it.
        way_out: &'static str,
    },
    /// The hub is out of reach.
    #[error(
        "the hub at {endpoint} cannot be asked: {why}; without it, `assay model add DIR` takes a directory, and \
         HF_HUB_OFFLINE=1 the cache of its tools"
    )]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// What its client said.
        why: String,
    },
    /// What answered makes no sense.
    #[error("for {what} came {why}: what answered is no hub; a proxy may stand between, or HF_ENDPOINT may be wrong")]
    NotAHub {
        /// What was requested.
        what: String,
        /// What came.
        why: String,
    },
    /// `HF_ENDPOINT` is no URL.
    #[error("HF_ENDPOINT is {endpoint:.200?}, and must be a URL such as https://huggingface.co")]
    Endpoint {
        /// What it is.
        endpoint: String,
    },
    /// The token cannot be one.
    #[error("the token in HF_TOKEN or its file has a character that no token has, such as a space or a line's end")]
    Token,
    /// A file is larger than it may be.
    #[error("{what} has more than {limit} bytes, the most that is fetched")]
    TooLarge {
        /// What was requested.
        what: String,
        /// Most bytes.
        limit: u64,
    },
    /// A file was broken off again and again.
    #[error("{what} was broken off again and again, after {bytes} bytes: pull again to go on there")]
    Broken {
        /// The file.
        what: String,
        /// What is here.
        bytes: u64,
    },
    /// A file came with other contents.
    #[error("{what} came damaged: its SHA-256 is {found}, and the hub announced {announced}; pull again")]
    Damaged {
        /// The file.
        what: String,
        /// The hash that the hub announced.
        announced: String,
        /// That of what came.
        found: String,
    },
    /// The hub did not resolve the revision in time.
    #[error("the hub did not answer within {} s", timeout.as_secs())]
    Silent {
        /// The most time that it may take.
        timeout: Duration,
    },
    /// The hub may not be asked, and its cache lacks the model.
    #[error(
        "{variable} is set, and the cache in {} has no {what}: unset it, or fetch the model with the hub's tools",
        cache.display()
    )]
    Offline {
        /// The variable that forbids it.
        variable: &'static str,
        /// What was requested.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
}

/// Why Python's package client provided no model.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It could not be started.
    #[error("{command} cannot be started: {source}")]
    NotStarted {
        /// The command line.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It failed and printed the reason on standard error.
    #[error("{command} failed: {status}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: ExitStatus,
    },
}

/// What is wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerFault {
    /// Larger than a tokenizer may be.
    #[error("has {bytes} bytes, the most that is read is {max_bytes}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// Largest size.
        max_bytes: u64,
    },
    /// Not JSON.
    #[error("is not a tokenizer: {0}")]
    NotJson(serde_json::Error),
    /// Without a vocabulary.
    #[error("is not a tokenizer: it has no vocabulary")]
    NoVocabulary,
    /// Its files contradict each other, or have a setting that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// Guests cannot load it.
    #[error("cannot be used: {0}")]
    Unreadable(String),
    /// It fails for a text.
    #[error("cannot be used: for a text of rare characters, {0}")]
    Fails(String),
    /// Its code panicked.
    #[error("cannot be used: the library that reads it panicked")]
    Panicked,
    /// The longest row has no room for a text.
    #[error("makes rows of at most {max_tokens} tokens, and {special_tokens} stand around each pair")]
    NoRoom {
        /// Longest row in tokens.
        max_tokens: u32,
        /// Tokens around a pair.
        special_tokens: usize,
    },
    /// Its ids are not the model's.
    #[error(
        "has token ids up to {largest}, the model's vocabulary has {vocab_size} entries: it is another model's tokenizer"
    )]
    OtherVocabulary {
        /// The tokenizer's largest id.
        largest: u64,
        /// The model's ids are below this.
        vocab_size: usize,
    },
}

/// How a stored file differs from the added one.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// In size.
    #[error("has {found} bytes, had {added} when it was added")]
    Size {
        /// Bytes now.
        found: u64,
        /// Bytes when it was added.
        added: u64,
    },
    /// In contents.
    #[error("SHA-256 is {found}, was {added} when it was added")]
    Contents {
        /// The hash now.
        found: String,
        /// The hash when it was added.
        added: String,
    },
    /// The manifest is invalid.
    #[error("is not a manifest: {0}")]
    Manifest(serde_json::Error),
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(std::io::Error),
    /// A model's pointer to its current revision is none.
    #[error("names no revision")]
    Pointer,
    /// A model that is there, or is just being added for the first time, has no such pointer.
    #[error("is missing, and says which of the model's revisions counts")]
    NoPointer,
    /// The manifest and its files contradict each other about an adapter.
    #[error("names an adapter without files, or lists files of an adapter that it does not name")]
    Adapter,
    /// The manifest's revision is not that of the files that it lists.
    #[error("its revision is not that of the files that it lists")]
    Revision,
}

impl ModelError {
    /// Wraps a system error about a path.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
