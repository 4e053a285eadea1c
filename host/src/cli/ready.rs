//! `assay ready`: whether a server on this machine takes requests, for health checks of containers without a shell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::error::CliError;

/// Most time for each step: a server answers this in well under a millisecond.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most bytes that are read of the answer.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:8790", value_name = "ADDRESS:PORT")]
    address: SocketAddr,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let answer =
        ask(args.address).map_err(|error| CliError::failed(format!("{} does not answer: {error}", args.address)))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(CliError::failed(format!("{} is not ready: {body}", args.address)))
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
