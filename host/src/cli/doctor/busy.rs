//! Whether something else used the processor while the doctor measured, and what a control group allows it: both make
//! rates lower than the machine's. Linux tells, by files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

/// A doctor that waits for a processor for more of its time does not measure the machine alone.
const MOST_WAITED: f64 = 0.05;

/// What a control group allows the process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Quota {
    /// Processor time in each second, such as 1.5 seconds: that of so many processors.
    pub(super) processors: f64,
    /// Periods in which the group was stopped because it had used its time.
    pub(super) throttled_periods: Option<u64>,
}

/// What slowed the doctor down.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Busy {
    /// The part of the doctor's time in which its most delayed thread waited for a processor.
    pub(super) waited: Option<f64>,
    pub(super) quota: Option<Quota>,
    /// Periods in which the group was stopped since the doctor started.
    pub(super) throttled: u64,
}

impl Busy {
    /// What happened since `at_start`, which was asked `elapsed` ago.
    pub(super) fn since(at_start: Option<Quota>, elapsed: Duration) -> Self {
        let quota = Quota::detect(Path::new("/"));
        let stopped = |quota: Option<Quota>| quota.and_then(|quota| quota.throttled_periods).unwrap_or_default();
        let throttled = stopped(quota).saturating_sub(stopped(at_start));
        Self { waited: waited(Path::new("/proc/self/task"), elapsed), quota, throttled }
    }

    /// Whether what was measured is too low to be relied on.
    pub(super) fn is_busy(&self) -> bool {
        self.waited.is_some_and(|waited| waited > MOST_WAITED)
    }

    /// The sentence for the page, if the machine was busy.
    pub(super) fn sentence(&self) -> Option<String> {
        let waited = self.waited.filter(|_| self.is_busy())?;
        let unreliable = "rates, ceilings and shares are unreliable";
        Some(match self.quota.filter(|_| self.throttled > 0) {
            Some(Quota { processors, .. }) => format!(
                "BUSY: {waited:.2} of the time went by waiting for a processor: the control group's quota of \
                 {processors:.2} processors stopped the doctor in {} periods, so {unreliable}. Raise the quota, or \
                 compare with runs under the same one",
                self.throttled
            ),
            None => format!(
                "BUSY: {waited:.2} of the time went by waiting for a processor that other programs had, so {unreliable}: \
                 run the doctor again with nothing else beside it"
            ),
        })
    }
}

impl Quota {
    /// The least of what the process's control group and those above it allow, by the files below `root`.
    pub(super) fn detect(root: &Path) -> Option<Self> {
        let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let found = groups.lines().filter_map(|line| {
            // Such as `0::/docker/1` in version 2, `4:cpu,cpuacct:/docker/1` in version 1.
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let mount = match controllers {
                "" => root.join("sys/fs/cgroup"),
                _ if controllers.split(',').any(|name| name == "cpu") => root.join("sys/fs/cgroup").join("cpu"),
                _ => return None,
            };
            Self::of_group(&mount, path)
        });
        found.min_by(|a, b| a.processors.total_cmp(&b.processors))
    }

    fn of_group(mount: &Path, path: &str) -> Option<Self> {
        let relative = Path::new(path.trim_start_matches('/'));
        // In a container the path may be the machine's; the mount's own files are the container's then.
        let dirs = relative.ancestors().map(|part| mount.join(part));
        let of_dir = |dir: PathBuf| {
            let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
            let (quota, period) = match read("cpu.max") {
                Some(text) => {
                    let (quota, period) = text.trim().split_once(' ')?;
                    (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
                }
                None => {
                    let number = |file: &str| read(file)?.trim().parse::<f64>().ok();
                    (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
                }
            };
            // No quota is `max` in version 2 and -1 in version 1.
            let processors = Some(quota / period).filter(|part| *part > 0.0 && part.is_finite())?;
            let stopped = read("cpu.stat")
                .and_then(|text| text.lines().find_map(|line| line.strip_prefix("nr_throttled "))?.trim().parse().ok());
            Some(Self { processors, throttled_periods: stopped })
        };
        dirs.filter_map(of_dir).min_by(|a, b| a.processors.total_cmp(&b.processors))
    }
}

/// The part of `elapsed` in which the most delayed thread could have run and had no processor. Time asleep counts as
/// none.
fn waited(tasks: &Path, elapsed: Duration) -> Option<f64> {
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        // Time on a processor, time waiting for one, in nanoseconds.
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let most = std::fs::read_dir(tasks).ok()?.filter_map(of_thread).reduce(f64::max)?;
    Some((most / 1e9 / elapsed.as_secs_f64().max(1e-3)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_quota_is_found_in_both_versions_of_control_groups() {
        let second = system(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.stat", "usage_usec 5\nnr_periods 30\nnr_throttled 12\n"),
        ]);
        let found = Quota { processors: 1.5, throttled_periods: Some(12) };
        assert_eq!(Quota::detect(second.path()), Some(found));
        let first = system(&[
            ("proc/self/cgroup", "4:cpu,cpuacct:/outside\n1:name=systemd:/\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(Quota::detect(first.path()), Some(Quota { processors: 0.5, throttled_periods: None }));
        let none = system(&[("proc/self/cgroup", "4:cpu:/\n"), ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")]);
        assert_eq!(Quota::detect(none.path()), None);
    }

    #[test]
    fn time_asleep_is_no_time_in_the_processors_queue() {
        let tasks = system(&[("1/schedstat", "300000000 100000000 7\n"), ("2/schedstat", "0 500000000 7\n")]);
        assert_eq!(waited(tasks.path(), Duration::from_secs(10)), Some(0.05));
        assert_eq!(waited(Path::new("/nowhere"), Duration::from_secs(1)), None);
    }

    #[test]
    fn a_quota_is_named_in_place_of_other_programs() {
        let quota = Some(Quota { processors: 1.5, throttled_periods: Some(40) });
        let busy = |throttled, waited| Busy { waited: Some(waited), quota, throttled };
        let sentence = busy(12, 0.4).sentence().unwrap();
        assert!(sentence.contains("1.50 processors") && !sentence.contains("other programs"), "{sentence}");
        assert!(busy(0, 0.4).sentence().unwrap().contains("other programs"));
        assert_eq!(busy(12, 0.04).sentence(), None);
    }
}
