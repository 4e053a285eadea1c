//! The admin socket: a running server takes requests from the same user on the same machine.
//!
//! A Unix socket in the data directory, open only to the directory's owner, who can write the directory anyway. A
//! connection carries one request and one reply, each one line of JSON, or a call of a tenant ([`calls`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tracing::{info, warn};

use super::Platform;
use super::admin::{AdminError, AdminRequest, Command, Reply};
use super::calls::{self, CallsInWork};
use super::client::SOCKET_FILE;
use crate::rerank::Response;

/// Longest request: the largest limits file, four times.
const MAX_REQUEST_BYTES: u64 = 1 << 20;

/// Most time for a client to send its request.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(10);

/// How often a removal that could not be stored is tried again.
const RETRY_TIME: Duration = Duration::from_secs(5);

/// Listens for requests. Dropping it removes the socket.
#[derive(Debug)]
pub struct AdminServer {
    listener: UnixListener,
    path: PathBuf,
    calls: Arc<CallsInWork>,
}

impl AdminServer {
    /// Creates the socket. The caller has the registry open, so no other server runs on the data directory, and an
    /// existing socket is left over from a dead server.
    ///
    /// # Errors
    /// The socket cannot be created, for example because its path is too long.
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET_FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(Self { listener, path, calls: Arc::default() })
    }

    /// The calls that came over the socket.
    #[must_use]
    pub fn calls(&self) -> &Arc<CallsInWork> {
        &self.calls
    }

    /// Takes requests until the future is dropped.
    pub async fn serve(&self, platform: &Arc<Platform>) {
        let mut retry = tokio::time::interval(RETRY_TIME);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = retry.tick() => {
                    let platform = Arc::clone(platform);
                    tokio::task::spawn_blocking(move || platform.store_withdrawals());
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    let (platform, calls) = (Arc::clone(platform), Arc::clone(&self.calls));
                    tokio::spawn(async move {
                        // The client has hung up.
                        let _ = converse(stream, platform, calls).await;
                    });
                }
                // Out of file descriptors; tries again soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        // If this fails, the next server removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A command that changes something, in a word, and the tenant that it changes; `None` for a question.
fn change(command: &Command) -> Option<(&'static str, String)> {
    let (change, tenant) = match command {
        Command::Deploy { tenant, .. } => ("deploy", tenant),
        Command::Rollback { tenant, .. } => ("rollback", tenant),
        Command::SetLimits { tenant, .. } => ("set-limits", tenant),
        Command::CreateKey { tenant } => ("create-key", tenant),
        Command::RevokeKey { tenant, .. } => ("revoke-key", tenant),
        Command::Remove { tenant, .. } => ("remove", tenant),
        Command::OperatorKey { renew: true } => return Some(("renew-operator-key", "-".to_owned())),
        Command::CollectGarbage { dry_run: false, .. } => return Some(("collect-garbage", "-".to_owned())),
        Command::RemoveModel { .. } => return Some(("remove-model", "-".to_owned())),
        // By name, so that a new command must be one or the other.
        Command::List
        | Command::Show { .. }
        | Command::ListKeys { .. }
        | Command::ListHeldModels
        | Command::ShowDevice
        | Command::Observe
        | Command::Ready
        | Command::OperatorKey { renew: false }
        | Command::CollectGarbage { dry_run: true, .. } => return None,
    };
    Some((change, tenant.to_string()))
}

/// A line about a change. The words of a refusal are for who asked for it: they may hold what a guest said.
fn tell_of(change: &str, tenant: &str, by: &str, reply: &Reply) {
    match reply {
        Reply::Serving(served) => info!(change, tenant, version = served.deployment.version, ?by, "a version serves"),
        Reply::Refused(error) => warn!(change, tenant, ?by, fault = ?error.fault, "a change was refused"),
        _ => info!(change, tenant, ?by, "changed"),
    }
}

async fn converse(mut stream: UnixStream, platform: Arc<Platform>, calls: Arc<CallsInWork>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST_BYTES));
    let read = tokio::time::timeout(MAX_REQUEST_TIME, reader.read_line(&mut line)).await;
    if let Ok(opening) = serde_json::from_str(&line) {
        // Until the answer is written.
        let _in_work = match calls.begin() {
            Ok(in_work) => in_work,
            Err(stopping) => return reply_with(&mut writer, &Err::<Response, _>(stopping)).await,
        };
        return match calls::answer(opening, &mut reader, &platform).await {
            Some(answer) => reply_with(&mut writer, &answer).await,
            None => Ok(()),
        };
    }
    let mut removed = None;
    let reply = match read.map(|read| read.map(|_| serde_json::from_str::<AdminRequest>(&line))) {
        Ok(Ok(Ok(request))) => {
            removed = matches!(request.command, Command::Remove { .. }).then(|| Arc::clone(&platform));
            let (change, by) = (change(&request.command), request.by.clone());
            let done = tokio::task::spawn_blocking(move || platform.execute(request)).await;
            let reply = done.unwrap_or_else(|_| Reply::Refused(AdminError::host("carrying the request out panicked")));
            if let Some((change, tenant)) = change {
                tell_of(change, &tenant, &by, &reply);
            }
            reply
        }
        Ok(Ok(Err(error))) => Reply::Refused(AdminError::command(format!("not a request: {error}"))),
        Ok(Err(error)) => Reply::Refused(AdminError::command(format!("not a request: {error}"))),
        Err(_) => Reply::Refused(AdminError::command("no request came")),
    };
    reply_with(&mut writer, &reply).await?;
    if let Some(platform) = removed {
        // The tenant is removed even if its files are not: the next sweep finds them.
        tokio::task::spawn_blocking(move || drop(platform.tidy()));
    }
    Ok(())
}

async fn reply_with(writer: &mut WriteHalf<'_>, reply: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    writer.shutdown().await
}
