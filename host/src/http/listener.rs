//! Accepts connections, serves them and ends them. When the server is asked to stop, it answers the requests in work
//! first.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connections::{Connections, Full, SWEEP_INTERVAL, Slot};
use super::io::Noted;
use super::service::{ConnectionService, Door, Service};
use super::tls::Tls;
use crate::limits::TokenRate;

/// Largest head of a request: a key and the headers of several proxies.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most bytes that are buffered of a request's body, and of an answer.
const MAX_BUFFER_BYTES: usize = 64 << 10;

/// Most bytes that are read and thrown away after a connection's last answer. Many callers read no answer before they
/// have sent everything; closing at once would lose the answer.
const MAX_DISCARDED_BYTES: usize = 64 << 20;

/// Pause after the system gave no connection although one is there.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Time for the last answers' bytes to leave once no request is in work.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// What a connection beyond its address's bound is told.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\n\r\n{\"message\":\"too many connections from this address are in use: try again later\"}";

/// What the server is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Serve.
    Serve,
    /// Answer what is in work, refuse the rest, and end.
    Drain,
}

/// Where connections come from: any of these.
#[derive(Debug, Default)]
pub struct Listeners {
    /// A port.
    pub tcp: Option<TcpListener>,
    /// A port for metrics alone, without a key and without TLS.
    pub metrics: Option<TcpListener>,
    /// The certificate of the port's connections; they are not encrypted without one.
    pub tls: Option<Arc<Tls>>,
    /// A socket of this machine.
    #[cfg(unix)]
    pub unix: Option<tokio::net::UnixListener>,
}

/// A connection that was accepted.
#[derive(Debug)]
enum Accepted {
    Tcp(TcpStream, IpAddr),
    Metrics(TcpStream, IpAddr),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        Self { tcp: Some(listener), ..Self::default() }
    }
}

impl Listeners {
    async fn accept(&self) -> io::Result<Accepted> {
        let tcp = async { accept(self.tcp.as_ref()).await.map(|(stream, address)| Accepted::Tcp(stream, address)) };
        let metrics =
            async { accept(self.metrics.as_ref()).await.map(|(stream, address)| Accepted::Metrics(stream, address)) };
        #[cfg(unix)]
        let unix = async {
            match &self.unix {
                Some(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
                None => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let unix = std::future::pending();
        tokio::select! {
            accepted = tcp => accepted,
            accepted = metrics => accepted,
            accepted = unix => accepted,
        }
    }
}

/// The next connection of a port; none ever comes to a port that is not open.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, IpAddr)> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, address)| (stream, address.ip())),
        None => std::future::pending().await,
    }
}

impl Accepted {
    /// The address that the connection counts for. Callers over a socket share one.
    fn address(&self) -> IpAddr {
        match self {
            Self::Tcp(_, address) | Self::Metrics(_, address) => *address,
            #[cfg(unix)]
            Self::Unix(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// Tells a caller why its connection is closed, if the system takes the bytes at once. A caller that speaks TLS only
    /// sees its connection closed.
    fn refuse(self, tls: Option<&Arc<Tls>>) {
        use std::io::Write as _;
        match self {
            Self::Tcp(stream, _) if tls.is_none() => {
                if let Ok(mut stream) = stream.into_std() {
                    let _ = stream.write(TOO_MANY);
                }
            }
            Self::Tcp(..) | Self::Metrics(..) => {}
            #[cfg(unix)]
            Self::Unix(stream) => {
                if let Ok(mut stream) = stream.into_std() {
                    let _ = stream.write(TOO_MANY);
                }
            }
        }
    }
}

/// Accepts and serves connections until it has drained.
pub(super) async fn run(
    listeners: &Listeners,
    connections: &Arc<Connections>,
    service: &Arc<Service>,
    mut orders: watch::Receiver<Order>,
    drain_time: Duration,
) {
    let mut tasks = JoinSet::new();
    let orders_of_connections = orders.clone();
    let accepting = accept_all(listeners, connections, service, &orders_of_connections, &mut tasks);
    let draining = async {
        // If the sender is gone, no order comes any more: the server goes on.
        if orders.wait_for(|order| *order == Order::Drain).await.is_err() {
            std::future::pending::<()>().await;
        }
        service.drain();
        timeout(drain_time, connections.no_requests()).await.is_ok()
    };
    let drained = tokio::select! {
        drained = draining => drained,
        () = accepting => false,
    };
    if drained {
        // Connections close by themselves after their answers, but for those that never sent a request.
        let _ = timeout(CLOSING_TIME, async { while tasks.join_next().await.is_some() {} }).await;
    }
    tasks.shutdown().await;
}

async fn accept_all(
    listeners: &Listeners,
    connections: &Arc<Connections>,
    service: &Arc<Service>,
    orders: &watch::Receiver<Order>,
    tasks: &mut JoinSet<()>,
) {
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A connection that there is no room for yet. Until there is, the system keeps the next ones.
    let mut held: Option<Accepted> = None;
    loop {
        tokio::select! {
            accepted = listeners.accept(), if held.is_none() => match accepted {
                Ok(accepted) => held = Some(accepted),
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // Most likely there are no more file descriptors.
                    connections.make_room();
                    sleep(RETRY_INTERVAL).await;
                }
            },
            () = connections.one_closed(), if held.is_some() => {}
            Some(_) = tasks.join_next() => {}
            _ = sweep.tick() => connections.sweep(),
        }
        let Some(accepted) = held.take() else { continue };
        match connections.admit(accepted.address()) {
            Ok(slot) => {
                let (service, tls) = (Arc::clone(service), listeners.tls.clone());
                drop(tasks.spawn(open(accepted, slot, tls, service, orders.clone())));
            }
            Err(Full::Address) => accepted.refuse(listeners.tls.as_ref()),
            Err(Full::Total) => held = Some(accepted),
        }
    }
}

/// Whether accepting failed for a connection that is gone, and works for the next.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves a connection, after its handshake if it has one.
async fn open(
    accepted: Accepted,
    slot: Slot,
    tls: Option<Arc<Tls>>,
    service: Arc<Service>,
    orders: watch::Receiver<Order>,
) {
    let connection = Arc::clone(&slot.connection);
    match (accepted, tls) {
        (Accepted::Tcp(stream, _), tls) => {
            // Answers are written in one piece: nothing is gained by waiting for more.
            let _ = stream.set_nodelay(true);
            let stream = Noted::new(stream, Arc::clone(&connection));
            let Some(tls) = tls else { return serve(stream, slot, service, Door::Callers, orders).await };
            // Its first byte begins the time that the first head has, so a handshake that does not end is late too.
            tokio::select! {
                () = connection.closing() => {}
                stream = tls.acceptor().accept(stream) => if let Ok(stream) = stream {
                    serve(stream, slot, service, Door::Callers, orders).await;
                },
            }
        }
        (Accepted::Metrics(stream, _), _) => {
            serve(Noted::new(stream, connection), slot, service, Door::Metrics, orders).await;
        }
        #[cfg(unix)]
        (Accepted::Unix(stream), _) => {
            serve(Noted::new(stream, connection), slot, service, Door::Callers, orders).await;
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    slot: Slot,
    service: Arc<Service>,
    door: Door,
    mut orders: watch::Receiver<Order>,
) {
    let connection = Arc::clone(&slot.connection);
    let handler = ConnectionService { service, connection: Arc::clone(&connection), door };
    let stream = TokioIo::new(stream);
    let mut http = http1::Builder::new();
    // Late heads are found by the sweep.
    http.header_read_timeout(None).max_header_size(MAX_HEAD_BYTES).max_buf_size(MAX_BUFFER_BYTES);
    let mut served = http.serve_connection(stream, handler);
    // A connection that comes while the server drains is told so, in the answer to its first request.
    let mut drains = *orders.borrow() == Order::Drain;
    let ended = loop {
        tokio::select! {
            () = connection.closing() => return,
            _ = orders.wait_for(|order| *order == Order::Drain), if !drains => {
                drains = true;
                std::pin::Pin::new(&mut served).graceful_shutdown();
            }
            ended = poll_fn(|context| served.poll_without_shutdown(context)) => break ended,
        }
    };
    if ended.is_ok() {
        let lingering = linger(served.into_parts().io.into_inner(), &slot.connections.discarded);
        tokio::select! {
            () = connection.closing() => {}
            _ = timeout(slot.connections.deadlines.linger, lingering) => {}
        }
    }
}

/// Says that no more answers come, and reads what the caller still sends until it has read that, at the pace that all
/// such callers share.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, pace: &TokenRate) {
    let mut discarded = 0;
    let mut buffer = vec![0; MAX_HEAD_BYTES];
    if stream.shutdown().await.is_err() {
        return;
    }
    while discarded < MAX_DISCARDED_BYTES {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                discarded += read;
                let wait = pace.pace(read as u64, Instant::now());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
        }
    }
}
