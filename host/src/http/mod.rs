//! The HTTP service: rankings and scores in the dialects of the servers that people come from, over one port.
//!
//! The only module that knows HTTP. [`listener`] accepts and ends connections, over TCP, [`tls`] or a Unix socket;
//! [`connections`] bounds them; [`cors`] says which pages may call from a browser. [`service`] takes a request from its
//! head to its answer; [`asking`] decodes its body and asks the tenant, in a [`dialect`], one file for each way of asking.
//! [`record`] tells the log of it. [`routes`] is the table of what exists, [`openapi`] and [`page`] show it, and
//! [`dashboard`] shows what the server does. The key picks the tenant; everything else is the tenant's.

mod answer;
mod asking;
mod body;
mod connections;
mod cors;
mod dashboard;
mod deadlines;
mod dialect;
mod error;
mod facts;
mod fields;
mod io;
mod listener;
mod openapi;
mod page;
mod record;
mod routes;
mod service;
mod tls;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use connections::Connections;
use dialect::{Choice, Serving};
use error::HttpError;
use fields::Fields;
use routes::Endpoint;
use service::Service;

use crate::limits::RequestLimits;
use crate::rerank::Request;
use crate::telemetry::traces::Tracer;
use crate::tenant::{LiveTenant, Platform};

pub use connections::ConnectionLimits;
pub use cors::{Cors, OriginError};
pub use deadlines::Deadlines;
pub use listener::{Listeners, Order};
pub use tls::{Reloaded, Tls, TlsError};

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
    /// Which pages may call from a browser.
    pub cors: Cors,
    /// Where the spans of sampled requests go; absent if none is traced.
    pub tracer: Option<Arc<Tracer>>,
}

/// What callers without a key get.
#[derive(Debug)]
pub struct Keyless {
    /// What answers them, once that is known.
    pub answer: Arc<OnceLock<KeylessAnswer>>,
    /// For how long.
    pub until: KeylessUntil,
}

/// What callers without a key are answered with.
#[derive(Debug, Clone)]
pub enum KeylessAnswer {
    /// The answers of this tenant, which has no name.
    Tenant(Arc<LiveTenant>),
    /// That they need a key: a tenant or a key was made meanwhile.
    NeedsKey,
    /// That the model could not be loaded.
    Failed,
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
    /// What answers callers without a key now.
    fn tenant(&self, platform: &Platform) -> Result<Arc<LiveTenant>, HttpError> {
        if self.until == KeylessUntil::FirstTenant && !platform.is_untouched() {
            return Err(HttpError::Unauthorized);
        }
        match self.answer.get() {
            None => Err(HttpError::Starting),
            Some(KeylessAnswer::Tenant(tenant)) => Ok(Arc::clone(tenant)),
            Some(KeylessAnswer::NeedsKey) => Err(HttpError::Unauthorized),
            Some(KeylessAnswer::Failed) => Err(HttpError::NoModel),
        }
    }
}

/// Serves until the order to drain comes and what was in work then is answered, or its time is over.
pub async fn serve(
    listeners: impl Into<Listeners>,
    platform: Arc<Platform>,
    options: ServeOptions,
    orders: watch::Receiver<Order>,
) {
    let (listeners, drain_time) = (listeners.into(), options.drain_time);
    let connections = Connections::new(options.connections, options.deadlines, Arc::clone(platform.http_counts()));
    let service = Arc::new(Service::new(platform, options, listeners.tls.is_some()));
    let serving = listener::run(&listeners, &connections, &service, orders, drain_time);
    tokio::select! {
        () = serving => {}
        () = service.sample() => {}
    }
}

/// Decodes a body as a path's dialect does; `None` if it is refused. For checks of what must hold for any bytes.
#[must_use]
pub fn decode_body(path: &str, body: Vec<u8>, limits: &RequestLimits) -> Option<Vec<Request>> {
    let choice = match routes::find(&hyper::Method::POST, path).ok()?.1 {
        Endpoint::Rank(choice) => choice,
        Endpoint::Score(dialect) => Choice::Named(dialect),
        _ => return None,
    };
    let body = crate::json::decode(body).ok()?;
    let fields = Fields::of(&body).ok()?;
    let dialect = choice.dialect(&fields);
    let question = dialect.parse(fields, &Serving { model: "model", max_tokens: 512, scores: None, limits }).ok()?;
    for place in question.shown {
        // What is given back is JSON again.
        serde_json::from_str::<serde::de::IgnoredAny>(body.get(place)?).ok()?;
    }
    Some(question.requests)
}
