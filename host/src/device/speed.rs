//! Estimates how long a model's work takes on the device, from its batches.

/// Weight of the newest batch in the estimate.
const SMOOTHING: f64 = 0.1;

/// Seconds per floating-point operation before the first measurement: two processor cores.
const FIRST_S_PER_FLOP: f64 = 1e-11;

/// Most that tenants are charged, as a multiple of the expected time. A batch that takes longer was delayed by
/// something other than its rows, such as a paused machine or a compiling driver.
const MAX_SURPRISE: f64 = 4.0;

/// Device time per floating-point operation, smoothed over batches. Work and time are smoothed separately, so that a
/// small batch counts little and the charges of many batches add up to their actual time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Speed {
    flops: f64,
    seconds: f64,
    /// Used until something is measured.
    estimate: Option<f64>,
}

impl Speed {
    /// A speed without measurements; `self` is the first estimate.
    pub(super) fn estimate(&self) -> Self {
        Self { flops: 0.0, seconds: 0.0, estimate: Some(self.s_per_flop()) }
    }

    /// Expected seconds for `flops` floating-point operations.
    pub(super) fn seconds(&self, flops: f64) -> f64 {
        flops * self.s_per_flop()
    }

    /// Records that a batch of `flops` floating-point operations took `seconds`.
    pub(super) fn learn(&mut self, flops: f64, seconds: f64) {
        self.flops += SMOOTHING * (flops - self.flops);
        self.seconds += SMOOTHING * (seconds - self.seconds);
    }

    /// The part of a batch's time that its tenants are charged.
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
    fn charges_add_up_to_the_batches_actual_time() {
        // Small batches are slower for their size. Smoothing each batch's own ratio would count them too much.
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
    fn a_new_model_starts_with_the_devices_speed() {
        let mut device = Speed::default();
        device.learn(1e9, 0.5);
        let mut model = device.estimate();
        assert!((model.seconds(2e9) - 1.0).abs() < 1e-9);
        model.learn(1e9, 0.25);
        assert!((model.seconds(2e9) - 0.5).abs() < 1e-9, "the first batch replaces the guess");
    }

    #[test]
    fn a_stall_is_not_charged_but_the_first_batch_is() {
        let mut speed = Speed::default();
        assert!((speed.plausible(1e9, 60.0) - 60.0).abs() < 1e-9);
        speed.learn(1e9, 0.1);
        assert!((speed.plausible(1e9, 60.0) - 0.4).abs() < 1e-9);
        assert!((speed.plausible(1e9, 0.2) - 0.2).abs() < 1e-9);
    }
}
