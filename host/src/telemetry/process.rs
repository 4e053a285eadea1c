//! Facts about the process: processor time, memory, open files.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Reads facts about this process.
#[derive(Debug)]
pub struct Process(Mutex<Option<System>>);

/// What the system says of the process. What it does not say is 0, or absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReading {
    /// Processor time since the start, of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Most that the process may have.
    pub max_open_files: Option<u64>,
    /// When it began, in seconds since 1970.
    pub start_seconds: u64,
    /// Cores that it may use.
    pub cores: u64,
}

impl Default for Process {
    fn default() -> Self {
        Self(Mutex::new(System::new().ok()))
    }
}

impl Process {
    /// The facts now: some reads of `/proc` on Linux, in a tenth of a millisecond.
    #[must_use]
    pub fn read(&self) -> ProcessReading {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64;
        let pid = Pid::from_u32(std::process::id());
        let mut system = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(system) = system.as_mut() else { return ProcessReading { cores, ..ProcessReading::default() } };
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        let Some(process) = system.process(pid) else { return ProcessReading { cores, ..ProcessReading::default() } };
        ProcessReading {
            cpu_seconds: process.accumulated_cpu_time() as f64 / 1e3,
            resident_bytes: process.memory(),
            open_files: process.open_files().map(|count| count as u64),
            max_open_files: process.open_files_limit().map(|count| count as u64),
            start_seconds: process.start_time(),
            cores,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_uses_processor_time() {
        let process = Process::default();
        let before = process.read();
        assert!(before.resident_bytes > 1 << 20 && before.start_seconds > 1_000_000_000, "{before:?}");
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 60 {
            std::hint::black_box(began.elapsed());
        }
        assert!(process.read().cpu_seconds > before.cpu_seconds, "{before:?}");
    }
}
