//! The HTTP service: rankings and scores in the dialects of the servers that people come from, over one port.
//!
//! The only module that knows HTTP. [`listener`] accepts and ends connections, [`connections`] bounds them, [`service`]
//! takes a request from its head to its answer, [`routes`] is the table of what exists, and [`dialect`] has one file
//! for each way of asking. The key picks the tenant; everything else is the tenant's.

mod answer;
mod body;
mod connections;
mod deadlines;
mod dialect;
mod error;
mod fields;
mod io;
mod listener;
mod routes;
mod service;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use connections::Connections;
use service::Service;

use crate::tenant::{LiveTenant, Platform};

pub use connections::ConnectionLimits;
pub use deadlines::Deadlines;
pub use listener::Order;

/// How to serve.
#[derive(Debug)]
pub struct ServeOptions {
    /// Most connections.
    pub connections: ConnectionLimits,
    /// Most time that callers may take.
    pub deadlines: Deadlines,
    /// Most time that requests in work get when the server is asked to stop.
    pub drain_time: Duration,
    /// What callers without a key get.
    pub keyless: Option<Keyless>,
}

/// What callers without a key get.
#[derive(Debug)]
pub struct Keyless {
    /// What answers them.
    pub tenant: Arc<LiveTenant>,
    /// For how long.
    pub until: KeylessUntil,
}

/// For how long callers without a key are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeylessUntil {
    /// Until there is a tenant or a key.
    FirstTenant,
    /// As long as the server runs.
    End,
}

impl Keyless {
    fn tenant(&self, platform: &Platform) -> Option<&Arc<LiveTenant>> {
        let answers = self.until == KeylessUntil::End || platform.is_empty();
        answers.then_some(&self.tenant)
    }
}

/// Serves until the order to drain comes and what was in work then is answered, or its time is over.
pub async fn serve(
    listener: TcpListener,
    platform: Arc<Platform>,
    options: ServeOptions,
    orders: watch::Receiver<Order>,
) {
    let ServeOptions { connections, deadlines, drain_time, keyless } = options;
    let connections = Connections::new(connections, deadlines);
    let service = Arc::new(Service::new(platform, keyless, deadlines));
    listener::run(listener, &connections, &service, orders, drain_time).await;
}
