//! How many threads compute unless told otherwise: one for each physical performance core that the process may use.
//!
//! Two threads of one core share its multipliers, and a team waits for its slowest member, so a second thread of a core
//! or a thread on a slow core gains nothing. Linux tells cores and their kinds in `/sys`, macOS by `sysctl`. Elsewhere
//! each processor that the process may use gets a thread.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

use serde::Serialize;

/// A core of less than this part of the fastest one's capacity is not one for compute threads.
const LEAST_CAPACITY: f64 = 0.5;

/// Most processors that a list in `/sys` or `/proc` is read to.
const MAX_PROCESSORS: usize = 1 << 16;

/// The processors that the process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// Logical ones, within affinity and the control group's quota.
    pub logical: usize,
    /// Physical cores among them, if the system tells.
    pub physical: Option<usize>,
    /// Performance cores among those; all of them if the processor has one kind only.
    pub performance: Option<usize>,
}

impl Cores {
    /// Asks the system.
    #[must_use]
    pub fn detect() -> Self {
        let logical = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let found = if cfg!(target_os = "macos") { macos() } else { linux(Path::new("/")) };
        Self { logical, physical: found.map(|(physical, _)| physical), performance: found.map(|(_, fast)| fast) }
    }

    /// Threads that compute unless told otherwise.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        let threads = self.performance.unwrap_or(self.logical).min(self.logical);
        NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Physical cores that the process may use, and the fast ones of them, by the files below `root`.
fn linux(root: &Path) -> Option<(usize, usize)> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let status = read("proc/self/status")?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let processors = list(allowed)?;
    // Processors with hybrid cores name the fast ones.
    let named = read("sys/devices/cpu_core/cpus").and_then(|text| list(&text));
    let mut cores = Vec::new();
    for &processor in &processors {
        let of = |file: &str| read(&format!("sys/devices/system/cpu/cpu{processor}/{file}"));
        // The threads of a core all list the same: it stands for the core.
        let core = of("topology/core_cpus_list").or_else(|| of("topology/thread_siblings_list"))?;
        let capacity = of("cpu_capacity").and_then(|text| text.trim().parse::<f64>().ok());
        let fast = named.as_ref().is_none_or(|named| named.contains(&processor));
        cores.push((core.trim().to_owned(), fast, capacity));
    }
    let most = cores.iter().filter_map(|(_, _, capacity)| *capacity).fold(0.0, f64::max);
    let is_fast = |(_, fast, capacity): &&(String, bool, Option<f64>)| {
        *fast && capacity.is_none_or(|capacity| capacity >= LEAST_CAPACITY * most)
    };
    let count = |cores: &mut dyn Iterator<Item = &(String, bool, Option<f64>)>| {
        cores.map(|(core, _, _)| core.as_str()).collect::<BTreeSet<_>>().len()
    };
    let physical = count(&mut cores.iter());
    // A process that may use slow cores only uses them.
    let fast = Some(count(&mut cores.iter().filter(is_fast))).filter(|&fast| fast > 0);
    Some((physical, fast.unwrap_or(physical)))
}

/// The numbers of a list such as `0-3,8`.
fn list(text: &str) -> Option<BTreeSet<usize>> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MAX_PROCESSORS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Physical cores, and performance cores of them. A Mac has no affinity and no control groups.
fn macos() -> Option<(usize, usize)> {
    let ask = |name: &str| -> Option<usize> {
        let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    let physical = ask("hw.physicalcpu")?;
    // Macs with Intel processors have no levels.
    Some((physical, ask("hw.perflevel0.physicalcpu").unwrap_or(physical)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system whose processors are given by the list of their core's threads and their capacity.
    fn system(allowed: &str, processors: &[(&str, Option<u32>)], fast: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/status", &format!("Name:\tassay\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n"));
        for (index, (threads, capacity)) in processors.iter().enumerate() {
            let processor = format!("sys/devices/system/cpu/cpu{index}");
            write(&format!("{processor}/topology/core_cpus_list"), &format!("{threads}\n"));
            if let Some(capacity) = capacity {
                write(&format!("{processor}/cpu_capacity"), &format!("{capacity}\n"));
            }
        }
        if let Some(fast) = fast {
            write("sys/devices/cpu_core/cpus", &format!("{fast}\n"));
        }
        dir
    }

    #[test]
    fn two_threads_of_a_core_are_one_physical_core() {
        let threads = [("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)];
        assert_eq!(linux(system("0-3", &threads, None).path()), Some((2, 2)));
        assert_eq!(linux(system("0,2", &threads, None).path()), Some((1, 1)), "affinity to one core");
    }

    #[test]
    fn slow_cores_are_left_out_unless_there_is_nothing_else() {
        // Two fast cores of two threads each, two slow ones.
        let hybrid = [("0-1", None), ("0-1", None), ("2-3", None), ("2-3", None), ("4", None), ("5", None)];
        assert_eq!(linux(system("0-5", &hybrid, Some("0-3")).path()), Some((4, 2)));
        assert_eq!(linux(system("4-5", &hybrid, Some("0-3")).path()), Some((2, 2)));
        let arm = [("0", Some(300)), ("1", Some(300)), ("2", Some(900)), ("3", Some(1024))];
        assert_eq!(linux(system("0-3", &arm, None).path()), Some((4, 2)));
    }

    #[test]
    fn a_system_that_does_not_tell_has_a_thread_for_each_processor() {
        assert_eq!(linux(Path::new("/nowhere")), None);
        assert_eq!(linux(system("0-x", &[], None).path()), None);
        assert_eq!(linux(system("0-99999999", &[], None).path()), None);
        let cores = Cores { logical: 6, physical: None, performance: None };
        assert_eq!(cores.threads().get(), 6);
    }

    #[test]
    fn a_quota_below_the_cores_bounds_the_threads() {
        let cores = Cores { logical: 2, physical: Some(8), performance: Some(4) };
        assert_eq!(cores.threads().get(), 2);
        assert!(Cores::detect().threads().get() <= Cores::detect().logical);
    }
}
