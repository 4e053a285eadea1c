//! Samples of the process and the device, ten times a second.

use std::sync::Arc;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, Gauge};

/// Time between samples: several for each batch on a slow machine, and too few to disturb the measurement.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// One sample of the process and the device.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// From the start of the run.
    pub at: Duration,
    /// Processor time that the process has used.
    pub cpu_time: Duration,
    /// Resident memory of the process.
    pub rss_bytes: u64,
    /// The device.
    pub gauge: Gauge,
}

/// The process to sample: this one, or a service's.
#[derive(Debug)]
pub struct ProcessProbe {
    /// Absent on a system that has no such figures; they are 0 then.
    system: Option<System>,
    pid: Pid,
}

impl ProcessProbe {
    /// A probe of the process with this id.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { system: System::new().ok(), pid: Pid::from_u32(pid) }
    }

    /// Processor time used so far, and resident bytes; both 0 once the process is gone.
    pub fn read(&mut self) -> (Duration, u64) {
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        let Some(system) = &mut self.system else { return Default::default() };
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), true, what);
        let process = system.process(self.pid);
        process.map_or((Duration::ZERO, 0), |process| {
            (Duration::from_millis(process.accumulated_cpu_time()), process.memory())
        })
    }
}

/// Samples from the start until `until` is cancelled, and once more then. Returns the probe too.
pub async fn sample(
    driver: Arc<dyn Driver>,
    mut probe: ProcessProbe,
    until: CancellationToken,
) -> (Vec<Sample>, ProcessProbe) {
    let begun = Instant::now();
    let mut ticks = interval(SAMPLE_INTERVAL);
    // Late samples are skipped: each sample has its own time.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Vec::new();
    loop {
        let last = tokio::select! {
            biased;
            () = until.cancelled() => true,
            _ = ticks.tick() => false,
        };
        // The last sample replaces one from just before it, as rates over a very short time are noise.
        if last && samples.len() > 1 {
            samples.pop_if(|sample: &mut Sample| begun.elapsed() - sample.at < SAMPLE_INTERVAL / 2);
        }
        let (cpu_time, rss_bytes) = probe.read();
        samples.push(Sample { at: begun.elapsed(), cpu_time, rss_bytes, gauge: driver.gauge() });
        if last {
            return (samples, probe);
        }
    }
}
