//! A service in this process, for tests of what callers meet.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay::http::{ConnectionLimits, Cors, Deadlines, Listeners, Order, ServeOptions, Tls};
use assay::tenant::admin::{Command, Reply};
use assay::tenant::{Platform, TenantLimits};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::server::{Answer, post, read_all};
use super::tenants;

/// What a test lets pass before it gives up on something that takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const BODY: &[u8] = br#"{"query":"q","documents":["some","documents"]}"#;

/// A service in this process, with a tenant and its key.
pub struct Service {
    pub address: String,
    pub key: String,
    pub platform: Arc<Platform>,
    pub orders: watch::Sender<Order>,
    pub serving: Option<tokio::task::JoinHandle<()>>,
    // Last: what is above runs on it, or in it.
    pub runtime: Runtime,
    _dir: tempfile::TempDir,
}

/// What of a service a test changes.
pub struct Setting {
    pub guest: Vec<u8>,
    pub limits: TenantLimits,
    pub connections: ConnectionLimits,
    pub deadlines: Deadlines,
    pub drain_time: Duration,
    pub tls: Option<Arc<Tls>>,
    pub cors: Cors,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            guest: tenants::seeded(3),
            limits: TenantLimits::default(),
            connections: ConnectionLimits { total: 64, per_address: 64 },
            deadlines: Deadlines::default(),
            drain_time: PATIENCE,
            tls: None,
            cors: Cors::default(),
        }
    }
}

impl Service {
    pub fn start(setting: Setting) -> Self {
        Self::start_in(setting, tenants::data_dir())
    }

    /// With a copy of the models of a data directory.
    pub fn start_with_model(setting: Setting, models_of: &std::path::Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        super::server::copy_all(&models_of.join("models"), &dir.path().join("models"));
        Self::start_in(setting, dir)
    }

    fn start_in(setting: Setting, dir: tempfile::TempDir) -> Self {
        let Setting { guest, limits, connections, deadlines, drain_time, tls, cors } = setting;
        let runtime = Runtime::new().unwrap();
        let platform = Arc::new(tenants::platform(dir.path(), runtime.handle()));
        tenants::serving(tenants::deploy(&platform, "acme", &guest, Some(limits)));
        let Reply::Key { secret, .. } = tenants::admin(&platform, Command::CreateKey { tenant: tenants::name("acme") })
        else {
            panic!("no key")
        };
        let options = ServeOptions { connections, deadlines, drain_time, keyless: None, cors, tracer: None };
        Self::with_options(platform, &secret, runtime, dir, options, tls)
    }

    /// Serves the tenants of a platform; `key` opens one of them.
    pub fn over(platform: Arc<Platform>, key: &str, runtime: Runtime, dir: tempfile::TempDir) -> Self {
        let Setting { deadlines, drain_time, cors, .. } = Setting::default();
        let connections = ConnectionLimits { total: 4_096, per_address: 4_000 };
        let options = ServeOptions { connections, deadlines, drain_time, keyless: None, cors, tracer: None };
        Self::with_options(platform, key, runtime, dir, options, None)
    }

    fn with_options(
        platform: Arc<Platform>,
        key: &str,
        runtime: Runtime,
        dir: tempfile::TempDir,
        options: ServeOptions,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let listeners = Listeners { tls, ..Listeners::from(listener) };
        let (orders, stops) = watch::channel(Order::Serve);
        let serving = runtime.spawn(assay::http::serve(listeners, Arc::clone(&platform), options, stops));
        Self { address, key: key.to_owned(), platform, orders, serving: Some(serving), runtime, _dir: dir }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and reads to the end of the connection.
    pub fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        Answer::parse(&read_all(&mut stream))
    }

    pub fn good(&self) -> Vec<u8> {
        post("/v1/rerank", Some(&self.key), BODY)
    }

    /// Sends a request without the last byte of its body.
    pub fn half(&self) -> TcpStream {
        let mut stream = self.connect();
        let request = self.good();
        stream.write_all(&request[..request.len() - 1]).unwrap();
        stream
    }

    pub fn running(&self) -> u64 {
        self.platform.tenant(&tenants::name("acme")).unwrap().usage().running
    }

    pub fn drain(&self) {
        self.orders.send(Order::Drain).unwrap();
    }

    /// Waits until the service has ended by itself.
    pub fn ended(&mut self) {
        let serving = self.serving.take().unwrap();
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap() });
    }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what} took longer than {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
