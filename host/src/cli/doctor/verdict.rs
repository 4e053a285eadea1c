//! What bounds a kernel or a pass: the largest of the times that each ceiling would take for its work, and how near the
//! measured time is to it. Numbers in, a sentence out; nothing here measures.

use serde::Serialize;

/// At this share of its bound or more, the bound explains the time.
const EXPLAINED: f64 = 0.7;

/// Below this share, nothing measured explains the time.
const UNEXPLAINED: f64 = 0.3;

/// What can bound a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Bound {
    /// Multiply-adds.
    Arithmetic,
    /// Reads of workgroup memory, all threads the same place.
    Broadcast,
    /// Reads of weights from the caches.
    Cache,
    /// Each array once, from where it lies.
    Memory,
    /// Dispatching.
    Dispatch,
}

/// What holds a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) bound: Bound,
    /// The time that the bound would take, divided by the measured one.
    pub(super) share: f64,
    pub(super) sentence: String,
}

impl Bound {
    fn allows(self) -> &'static str {
        match self {
            Self::Arithmetic => "multiply-adds",
            Self::Broadcast => "broadcasts",
            Self::Cache => "reads of weights",
            Self::Memory => "memory",
            Self::Dispatch => "dispatches",
        }
    }
}

impl Verdict {
    /// Judges a measured time by what each bound would take for the work, in seconds; `None` without bounds. The sums
    /// of `rolled` are in memory if its compiler left a loop rolled, as this driver's does.
    pub(super) fn of(seconds: f64, bounds: &[(Bound, f64)], rolled: bool) -> Option<Self> {
        let bounds = bounds.iter().filter(|(_, time)| time.is_finite());
        let &(bound, least) = bounds.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let share = least / seconds;
        let allows = bound.allows();
        let sentence = if share >= EXPLAINED {
            format!("bound by {allows} ({share:.2})")
        } else if share >= UNEXPLAINED {
            format!("{share:.2} of its bound, {allows}: waiting takes the rest")
        } else if bound == Bound::Arithmetic && rolled {
            format!("{share:.2} of its bound, {allows}: is a loop rolled, are sums in memory?")
        } else {
            format!("{share:.2} of its bound, {allows}: nothing measured explains it")
        };
        Some(Self { bound, share, sentence })
    }

    /// Says of a time that a busy machine made, and that its bound does not explain, that it is unreliable.
    pub(super) fn doubt(&mut self) {
        if self.share < EXPLAINED {
            let Self { bound, share, .. } = self;
            self.sentence = format!("{share:.2} of its bound, {}: unreliable, the machine was busy", bound.allows());
        }
    }

    /// Whether no ceiling explains the time.
    pub(super) fn is_unexplained(&self) -> bool {
        self.share < UNEXPLAINED
    }
}

/// Whether a compiler leaves loops over registers rolled, by the same rates.
pub(super) fn leaves_rolled(written_out: f64, left_alone: f64) -> bool {
    written_out / left_alone >= 1.5
}

/// What a compiler does with loops over registers: a rate with the loop written out, and one with the loop left alone.
pub(super) fn rolled_loops(written_out: f64, left_alone: f64) -> String {
    let times = written_out / left_alone;
    if leaves_rolled(written_out, left_alone) {
        format!(
            "this driver's compiler leaves loops over registers rolled, {times:.1} times slower; kernels have theirs \
             written out"
        )
    } else {
        format!(
            "this driver's compiler unrolls loops over registers by itself ({times:.2} times the time of one written out)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_the_ceilings_is_the_bound() {
        let bounds = [(Bound::Arithmetic, 2.0), (Bound::Memory, 4.0), (Bound::Cache, f64::INFINITY)];
        let verdict = Verdict::of(5.0, &bounds, false).unwrap();
        assert_eq!((verdict.bound, verdict.share), (Bound::Memory, 0.8));
        assert!(verdict.sentence.starts_with("bound by memory (0.80)"), "{}", verdict.sentence);
        assert_eq!(Verdict::of(5.0, &[], false), None);
    }

    #[test]
    fn a_kernel_far_below_its_arithmetic_is_suspected_of_a_rolled_loop() {
        let sentence =
            |seconds, in_registers| Verdict::of(seconds, &[(Bound::Arithmetic, 1.0)], in_registers).unwrap().sentence;
        assert!(sentence(10.0, true).contains("rolled"));
        assert!(sentence(10.0, false).contains("nothing measured explains"));
        assert!(sentence(2.0, true).contains("waiting"));
    }

    #[test]
    fn what_a_busy_machine_made_slow_is_not_called_unexplained() {
        let doubted = |seconds| {
            let mut verdict = Verdict::of(seconds, &[(Bound::Arithmetic, 1.0)], false).unwrap();
            verdict.doubt();
            verdict.sentence
        };
        assert_eq!(doubted(10.0), "0.10 of its bound, multiply-adds: unreliable, the machine was busy");
        assert!(doubted(1.0).contains("bound by"));
    }

    #[test]
    fn a_rolled_loop_is_told_by_its_rate() {
        assert!(rolled_loops(10.0, 2.0).contains("5.0 times slower"));
        assert!(rolled_loops(10.0, 9.8).contains("by itself"));
    }
}
