//! `assay ready`: whether the server on a data directory takes requests, for health checks of containers without a shell.
//! It asks over the admin socket, so the server may listen anywhere.

use std::path::Path;

use super::error::CliError;
use super::orders;
use crate::tenant::Counts;

pub(super) fn run(data_dir: &Path) -> Result<(), CliError> {
    match orders::server_counts(data_dir)? {
        None => Err(CliError::failed(format!("no server runs on {}", data_dir.display()))),
        Some(Counts { device_fails: true, .. }) => {
            Err(CliError::failed("the device fails at every batch: restart the server if that lasts".to_owned()))
        }
        Some(Counts { starting: 0, .. }) => Ok(()),
        Some(Counts { starting, serving, failed, .. }) => Err(CliError::failed(format!(
            "the server is starting: {starting} tenants are being loaded, {serving} serve, {failed} have failed"
        ))),
    }
}
