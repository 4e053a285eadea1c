//! What telemetry adds to a request: the same requests to servers of this process that differ in nothing else.
//!
//! Question: what do the access log and traces cost a request over HTTP, and do traces cost anything that are off?
//! Baseline: a server as it is by default, which counts and logs events but has no line and no span for a request. It
//! is there twice: what the second one adds is what chance adds. Excluded: starting, a warm-up round, and the collector,
//! a thread of this process that reads spans and throws them away; the processor time that it and the exporter take is
//! in the other's times where cores are few. Each request goes to all servers before the next.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};
use assay::model::ModelStore;
use assay::telemetry::logs::{self, Format, LogOptions, Logs};
use assay::telemetry::traces::{Protocol, TraceOptions, Tracer};
use tokio_util::sync::CancellationToken;

use crate::driver::{InProcessOptions, Loopback, Observed};
use crate::load::{NativeTokenizer, RowCosts};
use crate::overhead::{Layer, OverheadOptions, median};
use crate::run::measure::ms;
use crate::stats::Summary;

/// What servers tell of their requests.
const VARIANTS: [(&str, Telling); 7] = [
    ("default: no access log, no traces", Telling::Nothing),
    ("the same again", Telling::Nothing),
    ("access log, text", Telling::Lines(Format::Text)),
    ("access log, JSON", Telling::Lines(Format::Json)),
    ("traces, no request sampled", Telling::Spans("0")),
    ("traces, 0.01 sampled", Telling::Spans("0.01")),
    ("traces, all sampled", Telling::Spans("1")),
];

/// What a server tells of a request.
#[derive(Debug, Clone, Copy)]
enum Telling {
    Nothing,
    Lines(Format),
    Spans(&'static str),
}

/// A server, and what it tells with.
struct Server {
    loopback: Loopback,
    tracer: Option<Arc<Tracer>>,
    _logs: Option<Logs>,
}

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
    let collector = collector().context("the collector of traces")?;
    let mut servers = Vec::new();
    for (name, telling) in VARIANTS {
        servers.push(start(&host, telling, &collector).await.with_context(|| name.to_owned())?);
    }
    let model = host.load_models()?.into_iter().next().context("no model was loaded")?;
    let tokenizer = NativeTokenizer::new(model.tokenizer(), model.max_tokens())?;
    let costs = RowCosts::new(model.max_tokens(), |tokens| model.row_flops(tokens));
    let pool = options.source.pool(options.batch, &tokenizer, &costs)?;
    let requests = &pool.requests()[..options.requests.clamp(1, pool.requests().len())];
    let rounds = options.rounds.max(1) + 1;
    let bar = options.progress.bar("telemetry".to_owned(), Some((rounds * servers.len() * requests.len()) as u64));
    let mut times = vec![Vec::new(); servers.len()];
    'rounds: for round in 0..rounds {
        for (number, request) in requests.iter().enumerate() {
            let mut taken = vec![0.0; servers.len()];
            for turn in 0..servers.len() {
                if stop.is_cancelled() {
                    break 'rounds;
                }
                // Each is first, second, … equally often.
                let index = (turn + number + round) % servers.len();
                taken[index] = ms(servers[index].loopback.time(&request.request).context(VARIANTS[index].0)?);
                bar.inc(1);
            }
            if round > 0 {
                times.iter_mut().zip(taken).for_each(|(times, ms)| times.push(ms));
            }
        }
    }
    bar.finish_and_clear();
    for tracer in servers.iter().filter_map(|server| server.tracer.as_ref()) {
        tracer.finish();
    }
    let layer = |(index, (name, _)): (usize, (&'static str, Telling))| {
        let adds: Vec<f64> = times[index].iter().zip(&times[0]).map(|(with, without)| with - without).collect();
        let request_ms = Summary::of(times[index].iter().copied());
        Layer { name, request_ms, adds_ms: if index == 0 { None } else { median(&adds) } }
    };
    Ok(VARIANTS.into_iter().enumerate().map(layer).collect())
}

async fn start(host: &InProcessOptions, telling: Telling, collector: &str) -> Result<Server> {
    let (mut observed, mut logs) = (Observed::default(), None);
    match telling {
        Telling::Nothing => {}
        Telling::Lines(format) => {
            let options = LogOptions { format, filter: "info".parse()?, access: true };
            let (lines, running) = logs::dispatch(&options, File::create("/dev/null")?, false);
            (observed.log, logs) = (Some(lines), Some(running));
        }
        Telling::Spans(sample) => {
            let (endpoint, sample) = (collector.parse()?, sample.parse()?);
            observed.tracer = Some(Tracer::start(&TraceOptions { endpoint, protocol: Protocol::Http, sample })?);
        }
    }
    let tracer = observed.tracer.clone();
    Ok(Server { loopback: Loopback::start_observed(host, observed).await?, tracer, _logs: logs })
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
