//! Facts about this machine, for reports: never a name of a user, a host or a path.

use assay_kernels::cpu::Cores;
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// A machine. What the system does not tell is empty or 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// The processors that this process may use.
    pub cores: Cores,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The operating system and its kernel.
    pub os: String,
    /// The instruction set's family.
    pub arch: &'static str,
}

impl Machine {
    /// Asks the system.
    #[must_use]
    pub fn detect() -> Self {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what).ok();
        let cpu = system.as_ref().and_then(|system| system.cpus().first()).map_or("", |cpu| cpu.brand()).trim();
        Self {
            cpu: if cpu.is_empty() { "unknown".to_owned() } else { cpu.to_owned() },
            cores: Cores::detect(),
            memory_bytes: system.as_ref().map_or(0, System::total_memory),
            os: [System::long_os_version(), System::kernel_version()]
                .map(Result::unwrap_or_default)
                .join(", kernel ")
                .trim_matches([',', ' '])
                .to_owned(),
            arch: std::env::consts::ARCH,
        }
    }
}
