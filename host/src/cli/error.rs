//! Maps failures to exit codes; no other file does.

use std::fmt;

use crate::device::LoadError;
use crate::guest::GuestError;
use crate::model::ModelError;
use crate::rerank::RerankError;
use crate::tenant::RegistryError;
use crate::tenant::admin::{AdminError, Cause, Fault};
use crate::tenant::client::ClientError;

/// The process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A failure that is not the input's fault.
    Failed = 1,
    /// The input is bad: the same command will fail again.
    BadInput = 2,
    /// All was read and computed, but some requests have an error instead of an answer, or scores are too far from
    /// others.
    SomeFailed = 3,
    /// The reader of standard output has gone, as `head` does when it has enough. This is not a failure.
    OutputClosed = 0,
}

impl Exit {
    /// The process's exit status.
    #[must_use]
    pub fn code(self) -> i32 {
        self as i32
    }
}

/// A failed command.
#[derive(Debug)]
pub struct CliError {
    /// The process's exit code.
    pub exit: Exit,
    message: String,
}

impl CliError {
    /// The caller's input is at fault.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, message: message.into() }
    }

    /// Anything else is at fault.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    /// Some requests have an error instead of an answer, or scores are too far from others.
    pub fn some_failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::SomeFailed, message: message.into() }
    }

    /// The reader of standard output has gone: the command ends silently.
    #[must_use]
    pub fn output_closed() -> Self {
        Self { exit: Exit::OutputClosed, message: "the reader of standard output has gone".to_owned() }
    }

    /// Adds the place of the failure.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ModelError> for CliError {
    fn from(error: ModelError) -> Self {
        let message = Cause::from(&error).advise(error.to_string());
        match error {
            ModelError::NotAModel { .. }
            | ModelError::NotADirectory { .. }
            | ModelError::NoTokenizer { .. }
            | ModelError::Described { .. }
            | ModelError::NoLabel { .. }
            | ModelError::NoNameFromFolder { .. }
            | ModelError::NoSnapshot { .. }
            | ModelError::Checkpoint(_)
            | ModelError::Unsupported { .. }
            | ModelError::Tokenizer { .. }
            | ModelError::Name { .. }
            | ModelError::NameTaken { .. }
            | ModelError::CannotBeDefault { .. }
            | ModelError::InPlaceOfDefault { .. }
            | ModelError::IsDefault { .. }
            | ModelError::Unknown { .. }
            | ModelError::UnknownRevision { .. }
            | ModelError::AmbiguousRevision { .. } => Self::bad_input(message),
            ModelError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::bad_input(message)
            }
            ModelError::Io { .. }
            | ModelError::Changing { .. }
            | ModelError::RevisionClash { .. }
            | ModelError::Empty
            | ModelError::Damaged { .. }
            | ModelError::Settings { .. }
            | ModelError::Hub(_)
            | ModelError::Package(_)
            | ModelError::NoDefault { .. } => Self::failed(message),
        }
    }
}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> Self {
        let cause = Cause::from(&error);
        match error {
            LoadError::Model(error) => error.into(),
            LoadError::Device { .. } | LoadError::NoRoom(_) => Self::failed(cause.advise(error.to_string())),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<RegistryError> for CliError {
    fn from(error: RegistryError) -> Self {
        AdminError::from(error).into()
    }
}

impl From<GuestError> for CliError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Engine(_) => Self::failed(error.to_string()),
            GuestError::Io { ref source, .. } if source.kind() != std::io::ErrorKind::NotFound => {
                Self::failed(error.to_string())
            }
            GuestError::Io { .. }
            | GuestError::TooLarge { .. }
            | GuestError::NotWasm { .. }
            | GuestError::CoreModule { .. }
            | GuestError::Compile { .. }
            | GuestError::Prepare { .. }
            | GuestError::NotATenant { .. }
            | GuestError::NotACaller { .. } => Self::bad_input(error.to_string()),
        }
    }
}

impl From<RerankError> for CliError {
    fn from(error: RerankError) -> Self {
        match error {
            RerankError::InvalidInput(_)
            | RerankError::TooLarge { .. }
            | RerankError::AccessDenied(_)
            | RerankError::ModelNotFound(_) => Self::bad_input(error.to_string()),
            RerankError::Overloaded { .. }
            | RerankError::TooManyRequests { .. }
            | RerankError::Unavailable { .. }
            | RerankError::Deferred { .. }
            | RerankError::Late { .. }
            | RerankError::DeadlineExceeded { .. }
            | RerankError::Guest(_)
            | RerankError::Internal(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        let message = error.with_remedy();
        match error.fault {
            Fault::Command => Self::bad_input(message),
            Fault::Host => Self::failed(message),
        }
    }
}
