//! Reads all counters of a server from where they are kept. Nothing here counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::live::LiveTenant;
use super::reading::{Snapshot, TenantReading};
use super::registry::now_ms;
use super::{Platform, TenantName};

impl Platform {
    /// All that is counted, now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let live = self.live_by_name();
        // Before the sum of all, so that the others have at least nothing.
        let tenants: Vec<TenantReading> = self
            .meters
            .named()
            .into_iter()
            .map(|(name, meter)| {
                let live = live.get(&name);
                TenantReading {
                    model: live.map(|live| live.model().name.clone()),
                    weight: live.map_or(0, |live| live.deployment().limits.weight),
                    usage: live.map_or_else(|| meter.usage(), |live| live.usage()),
                    total_times: meter.total_times(),
                    name: name.into(),
                }
            })
            .collect();
        let all = self.meters.all().read();
        let others = all.usage.clone().without(tenants.iter().map(|tenant| &tenant.usage));
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_ms: now_ms(),
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            tenant_counts: self.counts(),
            all,
            tenants,
            others,
            device: self.opened_device().map(|device| device.read(Instant::now())),
            guests: self.runtime.read(),
            compiles: self.compiles.read(),
            http: self.http_counts().read(),
            process: self.process.read(),
        }
    }

    /// The version of each tenant that serves, or else one that still has requests; what answers callers without a key
    /// too.
    fn live_by_name(&self) -> HashMap<TenantName, Arc<LiveTenant>> {
        let mut live = HashMap::new();
        // Those that serve come first.
        for tenant in self.in_use() {
            live.entry(tenant.name().clone()).or_insert(tenant);
        }
        live
    }
}
