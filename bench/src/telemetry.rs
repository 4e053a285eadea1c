//! What telemetry adds to a request: the same requests to one server, with a line and with spans for each or without.
//!
//! Question: what do the access log and traces cost a request over HTTP? Baseline: a request that its caller does not
//! have traced, without a line. It is there twice: what the second one adds is what chance adds. One server answers all
//! of them, because two servers of the same program differ by more than telemetry costs: `traceparent` decides about
//! spans, and a switch about lines. Excluded: starting, a warm-up round, and the collector, a thread of this process
//! that reads spans and throws them away; the processor time that it, the exporter and the log's writer take is in the
//! others' times where cores are few.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use assay::model::ModelStore;
use assay::telemetry::logs::{self, Format, LogOptions};
use assay::telemetry::traces::{Protocol, TraceOptions, Tracer};
use tokio_util::sync::CancellationToken;
use tracing::dispatcher::Dispatch;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber, span};

use crate::driver::{InProcessOptions, Loopback, Observed};
use crate::load::{NativeTokenizer, RowCosts};
use crate::overhead::{Layer, OverheadOptions, median};
use crate::run::measure::ms;
use crate::stats::Summary;

/// Names, whether the request has a line, and whether it has spans.
const VARIANTS: [(&str, bool, bool); 5] = [
    ("no line, not traced", false, false),
    ("the same again", false, false),
    ("a line of the access log", true, false),
    ("traced", false, true),
    ("both", true, true),
];

/// Lines of a request's head that decide whether it is traced.
const NOT_TRACED: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n";
const TRACED: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

/// Measures every variant. After `stop` is cancelled it finishes the current request and returns what it has.
///
/// # Errors
/// Something cannot be loaded, or a request fails.
pub async fn measure(options: &OverheadOptions, stop: &CancellationToken) -> Result<Vec<Layer>> {
    let target = &options.target;
    let host = InProcessOptions {
        device: target.device.clone(),
        models: vec![ModelStore::new(&target.data_dir).open(target.model.as_deref())?],
        guest: target.guest.clone(),
    };
    let (endpoint, sample) = (collector().context("the collector of traces")?.parse()?, "0".parse()?);
    let tracer = Tracer::start(&TraceOptions { endpoint, protocol: Protocol::Http, sample })?;
    let lines = LogOptions { format: Format::Json, filter: "info".parse()?, access: true };
    let (lines, _logs) = logs::dispatch(&lines, File::create("/dev/null")?, false);
    let is_on = Arc::<AtomicBool>::default();
    let log = Dispatch::new(Switch { lines, is_on: Arc::clone(&is_on) });
    let observed = Observed { tracer: Some(Arc::clone(&tracer)), log: Some(log) };
    let mut server = Loopback::start_observed(&host, observed).await?;
    let model = host.load_models()?.into_iter().next().context("no model was loaded")?;
    let tokenizer = NativeTokenizer::new(model.tokenizer(), model.max_tokens())?;
    let costs = RowCosts::new(model.max_tokens(), |tokens| model.row_flops(tokens));
    let pool = options.source.pool(options.batch, &tokenizer, &costs)?;
    let requests = &pool.requests()[..options.requests.clamp(1, pool.requests().len())];
    let rounds = options.rounds.max(1) + 1;
    let bar = options.progress.bar("telemetry".to_owned(), Some((rounds * VARIANTS.len() * requests.len()) as u64));
    let mut times = vec![Vec::new(); VARIANTS.len()];
    'rounds: for round in 0..rounds {
        for (number, request) in requests.iter().enumerate() {
            let mut taken = vec![0.0; VARIANTS.len()];
            for turn in 0..VARIANTS.len() {
                if stop.is_cancelled() {
                    break 'rounds;
                }
                // Each is first, second, … equally often.
                let index = (turn + number + round) % VARIANTS.len();
                let (name, has_line, has_spans) = VARIANTS[index];
                is_on.store(has_line, Ordering::Relaxed);
                let head = if has_spans { TRACED } else { NOT_TRACED };
                taken[index] = ms(server.time_with(&request.request, head).context(name)?);
                bar.inc(1);
            }
            if round > 0 {
                times.iter_mut().zip(taken).for_each(|(times, ms)| times.push(ms));
            }
        }
    }
    bar.finish_and_clear();
    tracer.finish();
    let layer = |(index, (name, ..)): (usize, (&'static str, bool, bool))| {
        let adds: Vec<f64> = times[index].iter().zip(&times[0]).map(|(with, without)| with - without).collect();
        let request_ms = Summary::of(times[index].iter().copied());
        Layer { name, request_ms, adds_ms: if index == 0 { None } else { median(&adds) } }
    };
    Ok(VARIANTS.into_iter().enumerate().map(layer).collect())
}

/// A log that can be turned off.
struct Switch {
    lines: Dispatch,
    is_on: Arc<AtomicBool>,
}

impl Subscriber for Switch {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_on.load(Ordering::Relaxed) && self.lines.enabled(metadata)
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.lines.new_span(span)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        self.lines.record(span, values);
    }

    fn record_follows_from(&self, span: &span::Id, follows: &span::Id) {
        self.lines.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.lines.event(event);
    }

    fn enter(&self, span: &span::Id) {
        self.lines.enter(span);
    }

    fn exit(&self, span: &span::Id) {
        self.lines.exit(span);
    }
}

/// A collector that takes every span and keeps none, and its address.
fn collector() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An exporter that goes away ends its thread.
            std::thread::spawn(move || swallow(&stream));
        }
    });
    Ok(address)
}

/// Answers requests of one connection, until it ends.
fn swallow(stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        (&*stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
