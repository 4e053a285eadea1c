//! The table of series. docs/telemetry.md lists them; a test holds the two together.

use std::collections::BTreeMap;
use std::fmt::Error;

use super::writer::{Labels, Writer, label, plain};
use crate::device::{DeviceReading, ModelStatus};
use crate::rerank::{FAULT_KINDS, LIMIT_NAMES};
use crate::tenant::{Snapshot, Usage};

/// The name of all tenants that are not told by name. No tenant can have it.
const OTHERS: &str = "(others)";

pub(super) fn write(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    requests(snapshot, writer)?;
    tenants(snapshot, writer)?;
    ports(snapshot, writer)?;
    devices(snapshot, writer)?;
    guests(snapshot, writer)?;
    process(snapshot, writer)
}

fn requests(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let stages = snapshot.all.stages.all().map(|(stage, histogram)| (label("stage", stage), histogram));
    writer.histograms(
        "assay_request_stage_duration_seconds",
        "Where answered requests' time went; the stages add up to the total.",
        stages,
    )?;
    // All names from the start: a series that begins with its first event hides that event from `rate`.
    let count = |counts: &BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let limits = LIMIT_NAMES.map(|limit| (label("limit", limit), count(&snapshot.all.limits, limit)));
    writer.counters("assay_limits_met", "Requests that met a limit, by its name.", limits)?;
    let faults = FAULT_KINDS.map(|fault| (label("fault", fault), count(&snapshot.all.faults, fault)));
    writer.counters("assay_guest_faults", "Requests that failed by a fault of the guest, by its kind.", faults)
}

/// Reads one number of a tenant, a device or a model.
type Read<T> = fn(&T) -> f64;

fn tenants(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let named = snapshot.tenants.iter().map(|tenant| (tenant.name.as_str(), &tenant.usage));
    let all: Vec<(&str, &Usage)> = named.clone().chain(std::iter::once((OTHERS, &snapshot.others))).collect();
    let outcomes = all.iter().flat_map(|(tenant, usage)| {
        let outcomes = usage.outcomes().into_iter();
        outcomes
            .map(|(outcome, count)| (vec![("tenant", (*tenant).to_owned()), ("outcome", outcome.to_owned())], count))
    });
    writer.counters("assay_requests", "Requests that reached a tenant, by how they ended.", outcomes)?;
    let sums: [(&str, &str, Read<Usage>); 4] = [
        ("assay_tenant_documents", "Documents of answered requests.", |usage| usage.documents as f64),
        ("assay_tenant_rows", "Rows sent to the device.", |usage| usage.rows as f64),
        ("assay_tenant_tokens", "Tokens sent to the device.", |usage| usage.tokens as f64),
        ("assay_tenant_guest_cpu_seconds", "Processor time of guests.", |usage| usage.guest_cpu_ms as f64 / 1e3),
    ];
    for (name, help, read) in sums {
        writer.sums(name, help, all.iter().map(|(tenant, usage)| (label("tenant", *tenant), read(usage))))?;
    }
    let device: Read<Usage> = |usage| usage.device_time_ms as f64 / 1e3;
    writer.sums(
        "assay_tenant_device_seconds",
        "Device time of rows.",
        named.clone().map(|(tenant, usage)| (label("tenant", tenant), device(usage))),
    )?;
    let times = snapshot.tenants.iter().map(|tenant| (label("tenant", &tenant.name), tenant.total_times.sum()));
    writer.sums("assay_tenant_answer_seconds", "Time of answered requests, from arrival to answer.", times)?;
    let gauges: [(&str, &str, Read<Usage>); 5] = [
        ("assay_tenant_running_requests", "Requests that run.", |usage| usage.running as f64),
        ("assay_tenant_waiting_requests", "Requests that wait to run.", |usage| usage.waiting as f64),
        ("assay_tenant_queued_tokens", "Tokens that wait for the device.", |usage| usage.queued_tokens as f64),
        ("assay_tenant_guest_memory_bytes", "Memory of guests and waiting texts.", |usage| {
            usage.guest_memory_bytes as f64
        }),
        ("assay_tenant_idle_instances", "Prepared instances that wait.", |usage| usage.idle_instances as f64),
    ];
    for (name, help, read) in gauges {
        writer.gauges(name, help, named.clone().map(|(tenant, usage)| (label("tenant", tenant), read(usage))))?;
    }
    let counts = snapshot.tenant_counts;
    let states = [("starting", counts.starting), ("serving", counts.serving), ("failed", counts.failed)];
    let states = states.map(|(state, count)| (label("state", state), count as f64));
    writer.gauges("assay_tenants", "Tenants by state.", states)
}

fn ports(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let http = &snapshot.http;
    let requests = http
        .requests
        .iter()
        .map(|(dialect, status, count)| (vec![("dialect", dialect.clone()), ("status", status.to_string())], *count));
    writer.counters(
        "assay_http_requests",
        "HTTP requests by dialect and status; 499: the caller went away.",
        requests,
    )?;
    let idle = http.open.saturating_sub(http.busy) as f64;
    let connections = [("busy", http.busy as f64), ("idle", idle)].map(|(state, count)| (label("state", state), count));
    writer.gauges("assay_http_connections", "Open connections, with a request in work or without.", connections)?;
    let happenings = [("accepted", http.accepted), ("refused", http.refused), ("evicted", http.evicted)];
    let happenings = happenings.map(|(what, count)| (label("what", what), count));
    writer.counters(
        "assay_http_connection_events",
        "Connections accepted, refused, or closed to make room.",
        happenings,
    )
}

fn devices(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let first = snapshot.device.as_ref();
    let devices: Vec<&DeviceReading> =
        first.into_iter().chain(first.and_then(|device| device.processor.as_deref())).collect();
    let named = |device: &DeviceReading| label("device", &device.status.engine);
    let info = devices.iter().map(|device| {
        let labels = vec![("device", device.status.engine.clone()), ("name", device.status.device.clone())];
        (labels, 1.0)
    });
    writer.gauges("assay_device_info", "What computes.", info)?;
    let sums: [(&str, &str, Read<DeviceReading>); 5] = [
        ("assay_device_busy_seconds", "Time with a batch on the device: its rate is the utilization.", |device| {
            device.busy_seconds
        }),
        ("assay_device_rows", "Rows computed.", |device| device.work.rows as f64),
        ("assay_device_tokens", "Tokens computed; all are useful.", |device| device.work.tokens as f64),
        (
            "assay_device_padding_avoided_tokens",
            "Tokens that padding to each batch's longest row would add.",
            |device| device.work.padding_avoided as f64,
        ),
        ("assay_device_flops", "Useful floating-point operations, by formula.", |device| {
            device.work.useful_flops as f64
        }),
    ];
    for (name, help, read) in sums {
        writer.sums(name, help, devices.iter().map(|device| (named(device), read(device))))?;
    }
    let results = devices.iter().flat_map(|device| {
        let work = device.work;
        [("done", work.batches), ("failed", work.failed_batches)].map(|(result, count)| {
            (vec![("device", device.status.engine.clone()), ("result", result.to_owned())], count)
        })
    });
    writer.counters("assay_device_batches", "Batches by result.", results)?;
    let gauges: [(&str, &str, Read<DeviceReading>); 6] = [
        ("assay_device_best_flops_per_second", "Fastest batch so far: a measure of the device's peak.", |device| {
            device.work.best_flops_per_s
        }),
        ("assay_device_memory_used_bytes", "Memory of all models.", |device| device.status.memory_used_bytes as f64),
        ("assay_device_memory_budget_bytes", "Most memory of all models.", |device| {
            device.status.memory_budget_bytes as f64
        }),
        ("assay_queue_tokens", "Tokens that wait for the device.", |device| device.status.waiting_tokens as f64),
        ("assay_queue_requests", "Requests with rows that wait.", |device| device.queued_requests as f64),
        ("assay_queue_oldest_seconds", "How long the oldest of them has waited.", |device| {
            device.oldest_queued_seconds
        }),
    ];
    for (name, help, read) in gauges {
        writer.gauges(name, help, devices.iter().map(|device| (named(device), read(device))))?;
    }
    let batches = |read: fn(&DeviceReading) -> &crate::telemetry::Histogram| {
        devices.iter().map(move |device| (named(device), read(device)))
    };
    writer.histograms("assay_batch_rows", "Rows of batches.", batches(|device| &device.batches.rows))?;
    writer.histograms("assay_batch_tokens", "Tokens of batches.", batches(|device| &device.batches.tokens))?;
    writer.histograms("assay_batch_tenants", "Tenants of batches.", batches(|device| &device.batches.tenants))?;
    writer.histograms(
        "assay_batch_duration_seconds",
        "Batches on the device.",
        batches(|device| &device.batches.seconds),
    )?;
    models(&devices, writer)
}

fn models(devices: &[&DeviceReading], writer: &mut Writer<'_>) -> Result<(), Error> {
    let models = || {
        let all = devices.iter().flat_map(|device| device.status.models.iter());
        all.map(|model| (label("model", format!("{}@{:.16}", model.name, model.revision)), model))
    };
    let memory = models().flat_map(|(labels, model)| {
        let of = |kind: &str, bytes: u64| {
            let mut labels: Labels = labels.clone();
            labels.push(("kind", kind.to_owned()));
            (labels, bytes as f64)
        };
        [
            of("weights", model.weights_bytes),
            of("activations", model.arena_bytes),
            of("buffers", model.io_bytes),
            of("host", model.host_bytes),
        ]
    });
    writer.gauges("assay_model_memory_bytes", "Device memory; models share that of activations.", memory)?;
    let holders = models().map(|(labels, model)| (labels, model.holders as f64));
    writer.gauges("assay_model_holders", "Versions of tenants that hold the model.", holders)?;
    let sums: [(&str, &str, Read<ModelStatus>); 4] = [
        ("assay_model_batches", "Batches of the model.", |model| model.batches as f64),
        ("assay_model_rows", "Rows of the model.", |model| model.rows as f64),
        ("assay_model_tokens", "Tokens of the model.", |model| model.tokens as f64),
        ("assay_model_device_seconds", "Device time of the model.", |model| model.device_time_ms as f64 / 1e3),
    ];
    for (name, help, read) in sums {
        writer.sums(name, help, models().map(|(labels, model)| (labels, read(model))))?;
    }
    Ok(())
}

fn guests(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let guests = snapshot.guests;
    let starts = [
        ("snapshot", guests.snapshotted),
        ("prepared", guests.prepared),
        ("warm", guests.warm),
        ("reused", guests.reused),
    ];
    let starts = starts.map(|(kind, count)| (label("kind", kind), count));
    writer.counters("assay_guest_starts", "Requests by how their instance started.", starts)?;
    for (name, help, value) in [
        ("assay_guest_memory_bytes", "Memory of all guests and waiting texts.", guests.memory_bytes),
        ("assay_guest_memory_budget_bytes", "Most memory of them.", guests.memory_budget_bytes),
        ("assay_guest_instances", "Instances now.", guests.instances),
        ("assay_guest_max_instances", "Most instances.", guests.max_instances),
    ] {
        writer.gauges(name, help, plain(value as f64))?;
    }
    let compiles = snapshot.compiles;
    let results = [("done", compiles.done), ("failed", compiles.failed)];
    let results = results.map(|(result, count)| (label("result", result), count));
    writer.counters("assay_compiles", "Components compiled, by result.", results)?;
    writer.sums("assay_compile_seconds", "Time of compiling, the wait for a place included.", plain(compiles.seconds))
}

fn process(snapshot: &Snapshot, writer: &mut Writer<'_>) -> Result<(), Error> {
    let process = &snapshot.process;
    writer.gauges("assay_build_info", "The program.", [(label("version", &snapshot.version), 1.0)])?;
    writer.sums("process_cpu_seconds", "Processor time of the process.", plain(process.cpu_seconds))?;
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory.", Some(process.resident_bytes)),
        ("process_start_time_seconds", "Start, in seconds since 1970.", Some(process.start_seconds)),
        ("process_open_fds", "Open file descriptors.", process.open_files),
        ("process_max_fds", "Most open file descriptors.", process.max_open_files),
    ];
    for (name, help, value) in gauges {
        writer.gauges(name, help, value.into_iter().flat_map(|value| plain(value as f64)))?;
    }
    writer.gauges("assay_process_cores", "Cores that the process may use.", plain(process.cores as f64))
}
