//! Which failure gives which exit code: the one place that decides it.

use std::fmt;

use crate::guest::GuestError;
use crate::model::ModelError;
use crate::rerank::RerankError;
use crate::tenant::admin::{AdminError, Fault};

/// The process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that the caller's input is not to blame for.
    Failed = 1,
    /// The input is bad: the same command will fail again.
    BadInput = 2,
    /// All requests were read, and some of them have an error in the place of an answer.
    SomeFailed = 3,
    /// The reader of standard output has gone, as `head` does when it has enough. That is no failure.
    OutputClosed = 0,
}

impl Exit {
    /// What the process ends with.
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

    /// Some requests have an error in the place of an answer.
    pub fn some_failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::SomeFailed, message: message.into() }
    }

    /// The reader of standard output has gone: the command ends without a word.
    #[must_use]
    pub fn output_closed() -> Self {
        Self { exit: Exit::OutputClosed, message: "the reader of standard output has gone".to_owned() }
    }

    /// Says where the failure happened.
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
        match error {
            ModelError::NotAModel { .. }
            | ModelError::Checkpoint(_)
            | ModelError::Tokenizer { .. }
            | ModelError::Name { .. }
            | ModelError::Unknown { .. } => Self::bad_input(error.to_string()),
            ModelError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::bad_input(error.to_string())
            }
            ModelError::Io { .. }
            | ModelError::Empty
            | ModelError::Damaged { .. }
            | ModelError::Fetch(_)
            | ModelError::Engine { .. } => Self::failed(error.to_string()),
        }
    }
}

impl From<GuestError> for CliError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Engine(_) | GuestError::NotCompiled { .. } => Self::failed(error.to_string()),
            GuestError::Io { .. }
            | GuestError::TooLarge { .. }
            | GuestError::NotWasm { .. }
            | GuestError::CoreModule { .. }
            | GuestError::Compile { .. }
            | GuestError::Prepare { .. }
            | GuestError::Refused { .. }
            | GuestError::NotATenant { .. } => Self::bad_input(error.to_string()),
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
            | RerankError::DeviceFailed(_)
            | RerankError::DeadlineExceeded { .. }
            | RerankError::Guest(_)
            | RerankError::Internal(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        match error.fault {
            Fault::Command => Self::bad_input(error.message),
            Fault::Host => Self::failed(error.message),
        }
    }
}
