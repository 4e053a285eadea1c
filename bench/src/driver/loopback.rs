//! A server in this process, and a client that does nothing but write and read: what a request costs over HTTP beyond
//! the same request in process.
//!
//! The client keeps one connection, and writes a request that was made before. It reads the answer's head and as many
//! bytes as that says, and decodes none of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use assay::guest;
use assay::http::{ConnectionLimits, Cors, Deadlines, Order, ServeOptions};
use assay::model::ModelStore;
use assay::model::manifest::Source;
use assay::rerank::Request;
use assay::telemetry::traces::Tracer;
use assay::tenant::admin::{AdminRequest, Command, Reply};
use assay::tenant::compile::CompilerOptions;
use assay::tenant::{Platform, PlatformOptions, TenantName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tracing::dispatcher::{self, Dispatch};

use super::InProcessOptions;

/// The only tenant.
const TENANT: &str = "loopback";

/// The server with one tenant, and a connection to it.
#[derive(Debug)]
pub struct Loopback {
    connection: BufReader<TcpStream>,
    key: String,
    answer: Vec<u8>,
    /// A connection to a task that knows no HTTP.
    echo: TcpStream,
    /// Ends the server when it is dropped.
    _orders: watch::Sender<Order>,
    /// The server's threads, if they are its own.
    threads: Option<Runtime>,
    /// Its data directory.
    _dir: tempfile::TempDir,
}

/// What a server tells of its requests.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Where sampled requests' spans go.
    pub tracer: Option<Arc<Tracer>>,
    /// Where its threads' log goes.
    pub log: Option<Dispatch>,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // It may be dropped on another runtime's thread, which must not wait.
            threads.shutdown_background();
        }
    }
}

impl Loopback {
    /// As [`start`](Self::start), on threads of its own, and observed.
    ///
    /// # Errors
    /// As [`start`](Self::start), or the system gives no threads.
    pub async fn start_observed(options: &InProcessOptions, observed: Observed) -> Result<Self> {
        let Observed { tracer, log } = observed;
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        threads.enable_all();
        if let Some(log) = log {
            // The thread keeps it to its end.
            threads.on_thread_start(move || std::mem::forget(dispatcher::set_default(&log)));
        }
        let threads = threads.build()?;
        match Self::start_on(options, threads.handle().clone(), tracer).await {
            Ok(mut server) => {
                server.threads = Some(threads);
                Ok(server)
            }
            Err(error) => {
                // This thread is another runtime's, and must not wait for this one's.
                threads.shutdown_background();
                Err(error)
            }
        }
    }

    /// Starts a server with the first of the models and the guest.
    ///
    /// # Errors
    /// The program `assay`, which compiles the guest, does not lie beside this one; or the model or the guest cannot be
    /// loaded.
    pub async fn start(options: &InProcessOptions) -> Result<Self> {
        Self::start_on(options, Handle::current(), None).await
    }

    async fn start_on(options: &InProcessOptions, tokio: Handle, tracer: Option<Arc<Tracer>>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (options, data_dir, threads) = (options.clone(), dir.path().to_owned(), tokio.clone());
        let opened = tokio::task::spawn_blocking(move || open(&options, &data_dir, threads)).await?;
        let (platform, key) = opened?;
        // Bound where it is served.
        let listener = tokio.spawn(tokio::net::TcpListener::bind("127.0.0.1:0")).await??;
        let address = listener.local_addr()?;
        let (orders, stops) = watch::channel(Order::Serve);
        let serve = ServeOptions {
            connections: ConnectionLimits { total: 8, per_address: 8 },
            deadlines: Deadlines::default(),
            drain_time: Duration::ZERO,
            keyless: None,
            cors: Cors::default(),
            tracer,
        };
        tokio.spawn(assay::http::serve(listener, platform, serve, stops));
        let connection = TcpStream::connect(address)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let echo = TcpStream::connect(listener.local_addr()?)?;
        tokio::spawn(answer_with_zeros(listener.accept().await?.0));
        for stream in [&connection, &echo] {
            stream.set_nodelay(true)?;
        }
        let connection = BufReader::new(connection);
        Ok(Self { connection, key, answer: Vec::new(), echo, _orders: orders, threads: None, _dir: dir })
    }

    /// Sends as many bytes as a request has, and waits for as many as the last answer had: what two threads and a socket
    /// take by themselves.
    ///
    /// # Errors
    /// The connection was lost.
    pub fn time_bytes(&mut self, request: &Request) -> Result<Duration> {
        let mut bytes = self.bytes(request, "");
        let lengths = [u32::try_from(bytes.len())?, u32::try_from(self.answer.len())?];
        bytes.splice(..8, lengths.iter().flat_map(|length| length.to_le_bytes()));
        let began = Instant::now();
        self.echo.write_all(&bytes)?;
        self.echo.read_exact(&mut self.answer)?;
        Ok(began.elapsed())
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// The request failed.
    pub fn time(&mut self, request: &Request) -> Result<Duration> {
        self.time_with(request, "")
    }

    /// As [`time`](Self::time), with more lines in the request's head, each with its end.
    ///
    /// # Errors
    /// The request failed.
    pub fn time_with(&mut self, request: &Request, head: &str) -> Result<Duration> {
        let bytes = self.bytes(request, head);
        let began = Instant::now();
        self.connection.get_mut().write_all(&bytes)?;
        let status = self.read_answer()?;
        let elapsed = began.elapsed();
        if !status.contains(" 200 ") {
            bail!("{}: {}", status.trim(), String::from_utf8_lossy(&self.answer));
        }
        Ok(elapsed)
    }

    fn bytes(&self, request: &Request, more: &str) -> Vec<u8> {
        let body = json!({ "query": request.query, "documents": request.documents }).to_string();
        let head = format!(
            "POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             {more}Content-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    /// Reads an answer's body, and returns its status line.
    fn read_answer(&mut self) -> Result<String> {
        let (mut status, mut line, mut length) = (String::new(), String::new(), None);
        self.connection.read_line(&mut status)?;
        loop {
            line.clear();
            ensure!(self.connection.read_line(&mut line)? > 0, "the server closed the connection");
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = Some(value.parse()?),
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        self.answer.resize(length.context("the answer has no length")?, 0);
        self.connection.read_exact(&mut self.answer)?;
        Ok(status)
    }
}

/// Reads requests whose first eight bytes say how long they and their answers are, until the connection ends.
async fn answer_with_zeros(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    let (mut lengths, mut bytes) = ([0; 8], Vec::new());
    stream.set_nodelay(true)?;
    while stream.read_exact(&mut lengths).await.is_ok() {
        let [request, answer] =
            [0, 4].map(|at| lengths[at..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize);
        bytes.resize(request.saturating_sub(lengths.len()), 0);
        stream.read_exact(&mut bytes).await?;
        bytes.resize(answer, 0);
        stream.write_all(&bytes).await?;
    }
    Ok(())
}

/// Opens a platform with one tenant, and makes a key.
fn open(options: &InProcessOptions, data_dir: &std::path::Path, tokio: Handle) -> Result<(Arc<Platform>, String)> {
    let stored = options.models.first().context("there is no model")?;
    let source = Source::Directory { path: stored.dir().display().to_string() };
    let adapter_dir = stored.adapter_dir();
    let adapter = adapter_dir.as_deref().zip(stored.manifest.adapter.clone());
    ModelStore::new(data_dir).add(&stored.manifest.name, stored.dir(), source, adapter)?;
    let component = match (&options.guest, guest::standard()) {
        (Some(path), _) => guest::read_component(path)?,
        (None, Some(standard)) => standard.to_vec(),
        (None, None) => bail!("this program was built without the standard guest: build it with `cargo xtask build`"),
    };
    let options = PlatformOptions {
        device: options.device.clone(),
        compiler: CompilerOptions::new(compiler()?),
        guest_memory_bytes: None,
        max_named_tenants: 10,
        tokio,
    };
    let platform = Platform::open(data_dir, options)?;
    let tenant: TenantName = TENANT.parse()?;
    let execute = |command| platform.execute(AdminRequest { command, by: TENANT.to_owned() });
    let component = Some(platform.put_component(&component)?);
    let deploy = Command::Deploy {
        tenant: tenant.clone(),
        component,
        limits: None,
        model: None,
        other_models: Vec::new(),
        links: Vec::new(),
    };
    if let Reply::Refused(error) = execute(deploy) {
        return Err(error.into());
    }
    match execute(Command::CreateKey { tenant }) {
        Reply::Key { secret, .. } => Ok((Arc::new(platform), secret)),
        other => bail!("no key was made: {other:?}"),
    }
}

/// The program `assay`, which compiles guests.
fn compiler() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(format!("assay{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.is_file(), "{} is missing: `cargo xtask build` makes it", path.display());
    Ok(path)
}
