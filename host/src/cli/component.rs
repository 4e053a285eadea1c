//! The component that a command line names: a file, or one in a registry.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::CliError;
use super::patience::Patience;
use crate::guest::{MAX_COMPONENT_BYTES, read_component};
use crate::oci;

/// The program that knows signatures.
const COSIGN: &str = "cosign";

/// Which component, and whose signature it must have.
#[derive(Debug, clap::Args)]
pub(super) struct ComponentArgs {
    /// The component, a file or oci://HOST/NAME@sha256:DIGEST [default: that of the current version; the standard guest
    /// for a new tenant]
    component: Option<PathBuf>,
    /// Deploy a component of a registry only if `cosign verify` finds a signature by this public key
    #[arg(long, value_name = "FILE", requires = "component")]
    cosign_key: Option<PathBuf>,
}

impl ComponentArgs {
    /// Reads or fetches the component.
    ///
    /// # Errors
    /// It is not there, too large or not signed.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, CliError> {
        let Some(path) = &self.component else { return Ok(None) };
        match (path.to_str().filter(|argument| oci::is_reference(argument)), &self.cosign_key) {
            (Some(reference), key) => {
                if let Some(key) = key {
                    verify(reference, key)?;
                }
                let _patience = Patience::new("the registry is asked for the component");
                Ok(Some(oci::fetch(reference, MAX_COMPONENT_BYTES)?))
            }
            (None, Some(_)) => Err(CliError::bad_input(
                "--cosign-key is for a component of a registry: name one as oci://HOST/NAME@sha256:DIGEST",
            )),
            (None, None) => Ok(Some(read_component(path)?)),
        }
    }
}

/// Has cosign look for a signature. The digest in the reference binds what is fetched afterwards to what was verified.
fn verify(reference: &str, key: &Path) -> Result<(), CliError> {
    let name = reference.strip_prefix(oci::SCHEME).unwrap_or(reference);
    if !name.contains("@sha256:") {
        return Err(CliError::bad_input("--cosign-key needs a component by its digest: oci://HOST/NAME@sha256:DIGEST"));
    }
    let mut cosign = Command::new(COSIGN);
    cosign.args(["verify", "--key"]).arg(key).arg("--").arg(name).stdin(Stdio::null());
    let done = cosign.output().map_err(|error| {
        CliError::failed(format!("--cosign-key needs the program {COSIGN}, which cannot be started: {error}"))
    })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        return Err(CliError::bad_input(format!("{COSIGN} finds no valid signature of {name}: {last:.300}")));
    }
    Ok(())
}

impl From<oci::OciError> for CliError {
    fn from(error: oci::OciError) -> Self {
        match error {
            oci::OciError::Reference { .. } | oci::OciError::NoComponent { .. } | oci::OciError::TooLarge { .. } => {
                Self::bad_input(error.to_string())
            }
            _ => Self::failed(error.to_string()),
        }
    }
}
