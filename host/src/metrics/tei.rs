//! Names that text-embeddings-inference gives the same things, so that its dashboards show this server too.
//!
//! Its counters have no `_total`. What it calls tokenization is the guest's time here.

use std::fmt::Error;

use super::writer::{Writer, label, plain};
use crate::tenant::{RequestCounts, Snapshot};

pub(super) fn write(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let RequestCounts { usage, stages, .. } = &snapshot.all;
    let all = (usage.answered + usage.failed) as f64;
    writer.untyped("te_request_count", "Requests, as text-embeddings-inference names them.", plain(all))?;
    writer.untyped("te_request_success", "Requests answered.", plain(usage.answered as f64))?;
    let failures = usage.outcomes().into_iter().filter(|(outcome, _)| *outcome != "answered");
    let failures = failures.map(|(outcome, count)| (label("err", outcome), count as f64));
    writer.untyped("te_request_failure", "Requests not answered.", failures)?;
    for (name, help, histogram) in [
        ("te_request_duration", "Seconds of answered requests.", &stages.total),
        ("te_request_tokenization_duration", "Seconds in the guest.", &stages.guest),
        ("te_request_queue_duration", "Seconds that rows waited.", &stages.queue),
        ("te_request_inference_duration", "Seconds on the device.", &stages.inference),
    ] {
        writer.histograms(name, help, plain(histogram))?;
    }
    if let Some(device) = &snapshot.device {
        writer.histograms("te_batch_next_size", "Rows of batches.", plain(&device.batches.rows))?;
        writer.histograms("te_batch_next_tokens", "Tokens of batches.", plain(&device.batches.tokens))?;
        writer.gauges("te_queue_size", "Requests with rows that wait.", plain(device.queued_requests as f64))?;
    }
    Ok(())
}
