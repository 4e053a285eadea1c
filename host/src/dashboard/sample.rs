//! Numbers for people, from the snapshots of the last seconds.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::Viewer;
use crate::device::ModelStatus;
use crate::telemetry::Histogram;
use crate::tenant::{Snapshot, TenantReading, Usage};

/// Samples that a rate or a percentile looks back on, so that a few requests a second make a steady curve.
const WINDOW_SAMPLES: usize = 5;

/// The names of a sample's series, in their order: one chart each, or two that share one.
pub(super) const SERIES: [&str; 18] = [
    "pairs_per_s",
    "requests_per_s",
    "failed_per_s",
    "tokens_per_s",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "tokenization_ms",
    "inference_ms",
    "queue_ms",
    "utilization_percent",
    "peak_percent",
    "cpu_percent",
    "device_memory_mb",
    "process_memory_mb",
    "queue_tokens",
    "queue_oldest_ms",
    "padding_avoided_percent",
];

/// The names of a tenant's series, in their order.
pub(super) const TENANT_SERIES: [&str; 6] =
    ["pairs_per_s", "requests_per_s", "failed_per_s", "tokens_per_s", "p50_ms", "p95_ms"];

/// One moment. A value that is not known, as a percentile without requests, is not a number.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    pub(super) series: [f32; SERIES.len()],
    /// The tenants that are told by name.
    pub tenants: Vec<TenantSample>,
    /// What is shown as text, and not kept.
    facts: Value,
}

/// A tenant at one moment.
#[derive(Debug, Clone, Default)]
pub struct TenantSample {
    /// Its name.
    pub name: String,
    pub(super) series: [f32; TENANT_SERIES.len()],
    /// Its part of the device's time.
    pub device_percent: f32,
    /// Its use.
    pub usage: Usage,
    model: Option<String>,
}

/// The last snapshots, oldest first.
#[derive(Debug, Default)]
pub struct Window(VecDeque<Snapshot>);

impl Window {
    /// The sample at a snapshot; `None` for the first one, which has no past.
    pub fn push(&mut self, now: Snapshot) -> Option<Sample> {
        let sample = self.0.front().map(|before| Sample::between(before, &now));
        self.0.push_back(now);
        if self.0.len() > WINDOW_SAMPLES {
            self.0.pop_front();
        }
        sample
    }
}

impl Sample {
    fn between(before: &Snapshot, now: &Snapshot) -> Self {
        let seconds = (now.uptime_seconds - before.uptime_seconds).max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let (usage, old) = (&now.all.usage, &before.all.usage);
        let stage = |read: fn(&Snapshot) -> &Histogram| read(now).since(read(before));
        let total = stage(|it| &it.all.stages.total);
        let ms = |seconds: Option<f64>| seconds.map_or(f64::NAN, |seconds| seconds * 1e3);
        let mean = |read: fn(&Snapshot) -> &Histogram| ms(stage(read).mean());
        let work = |it: &Snapshot| it.device.as_ref().map(|device| device.work).unwrap_or_default();
        let (done, done_before) = (work(now), work(before));
        let busy = |it: &Snapshot| it.device.as_ref().map_or(0.0, |device| device.busy_seconds);
        let flops_per_s = rate(done.useful_flops, done_before.useful_flops);
        let padding = done.padding_avoided.saturating_sub(done_before.padding_avoided) as f64;
        let useful = done.tokens.saturating_sub(done_before.tokens) as f64;
        let device = now.device.as_ref();
        let cpu = (now.process.cpu_seconds - before.process.cpu_seconds) / seconds / now.process.cores.max(1) as f64;
        let series = [
            rate(usage.documents, old.documents),
            rate(usage.answered, old.answered),
            rate(usage.failed, old.failed),
            rate(usage.tokens, old.tokens),
            ms(total.quantile(0.5)),
            ms(total.quantile(0.95)),
            ms(total.quantile(0.99)),
            mean(|it| &it.all.stages.guest),
            mean(|it| &it.all.stages.inference),
            mean(|it| &it.all.stages.queue),
            ((busy(now) - busy(before)) / seconds * 100.0).clamp(0.0, 100.0),
            if done.best_flops_per_s > 0.0 { flops_per_s / done.best_flops_per_s * 100.0 } else { 0.0 },
            (cpu * 100.0).max(0.0),
            device.map_or(0.0, |device| device.status.memory_used_bytes as f64 / 1e6),
            now.process.resident_bytes as f64 / 1e6,
            device.map_or(0.0, |device| device.status.waiting_tokens as f64),
            device.map_or(0.0, |device| device.oldest_queued_seconds * 1e3),
            if padding + useful > 0.0 { padding / (padding + useful) * 100.0 } else { f64::NAN },
        ];
        let earlier: HashMap<&str, &TenantReading> =
            before.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant)).collect();
        let tenants = now.tenants.iter().map(|tenant| {
            let earlier = earlier.get(tenant.name.as_str()).copied();
            TenantSample::between(earlier, tenant, seconds)
        });
        Self {
            at_ms: now.at_ms,
            series: series.map(|value| value as f32),
            tenants: tenants.collect(),
            facts: facts(now, flops_per_s),
        }
    }

    /// A series' value, by one of the names that the dashboard's stream has; not a number if there is none.
    #[must_use]
    pub fn value(&self, name: &str) -> f32 {
        value(&SERIES, &self.series, name)
    }

    /// The sample as its viewer may see it, as JSON; `None` if nothing is known of the viewer.
    #[must_use]
    pub fn json(&self, viewer: &Viewer) -> Option<String> {
        let value = match viewer {
            Viewer::Operator => json!({
                "at": self.at_ms,
                "series": named(&SERIES, &self.series),
                "facts": self.facts,
                "tenants": self.tenants.iter().map(TenantSample::json).collect::<Vec<_>>(),
            }),
            Viewer::Tenant(name) => {
                let tenant = self.tenants.iter().find(|tenant| tenant.name == *name)?;
                json!({
                    "at": self.at_ms,
                    "series": named(&TENANT_SERIES, &tenant.series),
                    "tenants": [tenant.json()],
                })
            }
        };
        Some(value.to_string())
    }
}

/// A sample of these tenants, each with so many requests answered.
#[cfg(test)]
pub(crate) fn sample_of(at_ms: u64, tenants: &[(&str, u64)]) -> Sample {
    let tenant = |&(name, answered): &(&str, u64)| {
        let usage = Usage { answered, ..Usage::default() };
        TenantSample { name: name.to_owned(), usage, ..TenantSample::default() }
    };
    Sample { at_ms, tenants: tenants.iter().map(tenant).collect(), ..Sample::default() }
}

impl TenantSample {
    fn between(before: Option<&TenantReading>, now: &TenantReading, seconds: f64) -> Self {
        let none = Usage::default();
        let (usage, old) = (&now.usage, before.map_or(&none, |before| &before.usage));
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let times = before.map_or_else(|| now.total_times.clone(), |before| now.total_times.since(&before.total_times));
        let ms = |part: f64| times.quantile(part).map_or(f64::NAN, |seconds| seconds * 1e3);
        let series = [
            rate(usage.documents, old.documents),
            rate(usage.answered, old.answered),
            rate(usage.failed, old.failed),
            rate(usage.tokens, old.tokens),
            ms(0.5),
            ms(0.95),
        ];
        let device_percent = rate(usage.device_time_ms, old.device_time_ms) / 10.0;
        Self {
            name: now.name.clone(),
            series: series.map(|value| value as f32),
            device_percent: device_percent as f32,
            usage: usage.clone(),
            model: now.model.clone(),
        }
    }

    /// A series' value, as [`Sample::value`].
    #[must_use]
    pub fn value(&self, name: &str) -> f32 {
        value(&TENANT_SERIES, &self.series, name)
    }

    fn json(&self) -> Value {
        let Usage { answered, failed, tokens, running, waiting, queued_tokens, guest_memory_bytes, .. } = self.usage;
        json!({
            "name": self.name,
            "model": self.model,
            "series": named(&TENANT_SERIES, &self.series),
            "device_percent": rounded(self.device_percent),
            "answered": answered,
            "failed": failed,
            "failures": self.usage.outcomes()[1..].iter().map(|(name, count)| ((*name).to_owned(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
            "tokens": tokens,
            "running": running,
            "waiting": waiting,
            "queued_tokens": queued_tokens,
            "guest_memory_mb": rounded(guest_memory_bytes as f32 / 1e6),
        })
    }
}

/// What the operator reads as text.
fn facts(now: &Snapshot, flops_per_s: f64) -> Value {
    let device = now.device.as_ref().map(|device| {
        let models = device
            .status
            .models
            .iter()
            .chain(device.processor.iter().flat_map(|processor| processor.status.models.iter()));
        json!({
            "name": device.status.device,
            "engine": device.status.engine,
            "memory_budget_mb": rounded(device.status.memory_budget_bytes as f32 / 1e6),
            "gflop_per_s": rounded((flops_per_s / 1e9) as f32),
            "best_gflop_per_s": rounded((device.work.best_flops_per_s / 1e9) as f32),
            "batches": device.work.batches,
            "failed_batches": device.work.failed_batches,
            "models": models.map(model).collect::<Vec<_>>(),
        })
    });
    json!({
        "version": now.version,
        "uptime_s": now.uptime_seconds as u64,
        "answered": now.all.usage.answered,
        "failed": now.all.usage.failed,
        "tokens": now.all.usage.tokens,
        "running": now.tenants.iter().map(|tenant| tenant.usage.running).sum::<u64>(),
        "waiting": now.tenants.iter().map(|tenant| tenant.usage.waiting).sum::<u64>(),
        "connections": now.http.open,
        "guests": now.guests,
        "tenant_counts": now.tenant_counts,
        "faults": now.all.faults,
        "limits": now.all.limits,
        "device": device,
    })
}

fn model(model: &ModelStatus) -> Value {
    let bytes = model.weights_bytes + model.io_bytes + model.host_bytes;
    json!({
        "name": model.name,
        "revision": format!("{:.12}", model.revision),
        "precision": model.precision,
        "memory_mb": rounded(bytes as f32 / 1e6),
        "holders": model.holders,
        "tokens": model.tokens,
        "device_time_s": rounded(model.device_time_ms as f32 / 1e3),
    })
}

fn value(names: &[&str], values: &[f32], name: &str) -> f32 {
    let found = names.iter().zip(values).find(|(known, _)| **known == name);
    found.map_or(f32::NAN, |(_, value)| *value)
}

fn named(names: &[&str], values: &[f32]) -> Value {
    names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), rounded(*value))).collect()
}

/// A number with as many digits as a screen shows; `null` if it is none.
pub(super) fn rounded(value: f32) -> Value {
    let value = f64::from(value);
    let scale = if value.abs() >= 100.0 { 10.0 } else { 1_000.0 };
    serde_json::Number::from_f64((value * scale).round() / scale).map_or(Value::Null, Value::Number)
}
