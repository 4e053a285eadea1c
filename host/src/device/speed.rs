//! How long a model's work takes on the device, learnt from its batches.

/// How much of the estimate the newest batch makes.
const SMOOTHING: f64 = 0.1;

/// Seconds of a floating-point operation before anything was measured: a processor of two cores.
const FIRST_S_PER_FLOP: f64 = 1e-11;

/// A batch that takes so many times longer than expected met something that is not its rows' doing: a machine that was
/// paused, a driver that compiled. Its tenants are not charged for more than this.
const MAX_SURPRISE: f64 = 4.0;

/// Device time for each floating-point operation, smoothed over batches. Work and time are smoothed apart, so that a
/// small batch counts for little and the charges of many batches add up to the time that they took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Speed {
    flops: f64,
    seconds: f64,
    /// Where nothing is learnt yet.
    estimate: Option<f64>,
}

impl Speed {
    /// A speed of which nothing is learnt yet, expected to be this one.
    pub(super) fn estimate(&self) -> Self {
        Self { flops: 0.0, seconds: 0.0, estimate: Some(self.s_per_flop()) }
    }

    /// How long so many floating-point operations are expected to take, in seconds.
    pub(super) fn seconds(&self, flops: f64) -> f64 {
        flops * self.s_per_flop()
    }

    /// A batch of so many floating-point operations took so long.
    pub(super) fn learn(&mut self, flops: f64, seconds: f64) {
        self.flops += SMOOTHING * (flops - self.flops);
        self.seconds += SMOOTHING * (seconds - self.seconds);
    }

    /// What of the time that a batch took its tenants are charged.
    pub(super) fn plausible(&self, flops: f64, seconds: f64) -> f64 {
        if self.is_learnt() { seconds.min(MAX_SURPRISE * self.seconds(flops)) } else { seconds }
    }

    fn is_learnt(&self) -> bool {
        self.flops > 0.0 && self.seconds > 0.0
    }

    fn s_per_flop(&self) -> f64 {
        if self.is_learnt() { self.seconds / self.flops } else { self.estimate.unwrap_or(FIRST_S_PER_FLOP) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_by_the_learnt_speed_add_up_to_the_time_that_batches_took() {
        // Small batches are slower for their size; were each batch's own ratio smoothed, they would count too much.
        let batches = [(1e9, 0.10), (1e7, 0.01)];
        let mut speed = Speed::default();
        let (mut charged, mut took) = (0.0, 0.0);
        for round in 0..400 {
            for (flops, seconds) in batches {
                if round >= 100 {
                    charged += speed.seconds(flops);
                    took += seconds;
                }
                speed.learn(flops, seconds);
            }
        }
        let ratio: f64 = charged / took;
        assert!((ratio - 1.0).abs() < 0.1, "charged {ratio:.3} of the time");
    }

    #[test]
    fn a_new_model_is_expected_to_be_as_fast_as_the_device_until_it_is_measured() {
        let mut device = Speed::default();
        device.learn(1e9, 0.5);
        let mut model = device.estimate();
        assert!((model.seconds(2e9) - 1.0).abs() < 1e-9);
        model.learn(1e9, 0.25);
        assert!((model.seconds(2e9) - 0.5).abs() < 1e-9, "the first batch replaces the guess");
    }

    #[test]
    fn a_stall_is_not_charged_and_the_first_batch_is() {
        let mut speed = Speed::default();
        assert!((speed.plausible(1e9, 60.0) - 60.0).abs() < 1e-9);
        speed.learn(1e9, 0.1);
        assert!((speed.plausible(1e9, 60.0) - 0.4).abs() < 1e-9);
        assert!((speed.plausible(1e9, 0.2) - 0.2).abs() < 1e-9);
    }
}
