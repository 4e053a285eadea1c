//! The most that this processor's registers compute: the ceiling of a matrix product, whatever its loops and caches do.
//!
//! Every thread of the device repeats the multiply-add of the precision's product on registers alone. Nothing here is
//! part of a forward pass.

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::device::CpuDevice;
use super::pack::Format;
use super::pool::Work;
use super::simd::{Isa, Kernel, Simd};
use super::worker::Worker;
use crate::engine::{EngineError, Precision};

/// How long each thread multiplies: a thousand times as long as waking a thread takes.
const DURATION: Duration = Duration::from_millis(4);

/// Multiply-adds in flight: enough for two a cycle with a latency of five cycles, and they fit 16 registers.
const CHAINS: usize = 12;

/// Steps of all chains between two looks at the clock.
const STEPS: usize = 4_000;

/// The register peak of one precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// The instruction that the precision's matrix product repeats.
    pub instruction: &'static str,
    /// 10⁹ operations a second, of all threads together; a multiplication and an addition are two.
    pub gops: f64,
}

impl CpuDevice {
    /// Measures the register peak now, on all threads, in a few milliseconds.
    ///
    /// # Errors
    /// The engine lacks the precision, or a thread panicked.
    pub fn peak(&self, precision: Precision) -> Result<Peak, EngineError> {
        let format = Format::try_from(precision)?;
        let work = Arc::new(Multiply { isa: self.isa(), format, gops: Mutex::new(0.0) });
        if !self.run(work.clone()) {
            return Err(EngineError::Device("a thread panicked while it measured the register peak".to_owned()));
        }
        let gops = *work.gops.lock().unwrap_or_else(PoisonError::into_inner);
        let instruction = match format {
            Format::F32 => self.isa().float_instruction(),
            Format::Int8 | Format::Int16 => self.isa().integer_instruction(),
        };
        Ok(Peak { instruction, gops })
    }
}

struct Multiply {
    isa: Isa,
    format: Format,
    /// The sum of all threads' rates.
    gops: Mutex<f64>,
}

impl Work<Worker> for Multiply {
    fn run(&self, _worker: &mut Worker) {
        let mut operations = 0;
        let started = Instant::now();
        while started.elapsed() < DURATION {
            operations += match self.format {
                Format::F32 => self.isa.run(Floats),
                Format::Int8 | Format::Int16 => self.isa.run_integers(Integers),
            };
        }
        let gops = operations as f64 / started.elapsed().as_secs_f64() / 1e9;
        *self.gops.lock().unwrap_or_else(PoisonError::into_inner) += gops;
    }
}

/// Returns how many operations it did.
struct Floats;

impl Kernel for Floats {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // x = x / 2 + 1 stays at 2. The compiler does not know the factor, so it cannot leave a step out.
        let (factor, one) = (s.splat(black_box(0.5)), s.splat(1.0));
        let mut chains = [s.splat(black_box(2.0)); CHAINS];
        for _ in 0..STEPS {
            for chain in &mut chains {
                *chain = s.mul_add(*chain, factor, one);
            }
        }
        let total = chains.into_iter().reduce(|a, b| s.add(a, b));
        black_box(total.map(|total| s.reduce_add(total)));
        2 * STEPS * CHAINS * S::LANES
    }
}

struct Integers;

impl Kernel for Integers {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // Times zero stays what it is, and no sum overflows. A chain is its own factor, so that no product is the same
        // in every step and could be taken out of the loop.
        let zero = black_box(s.as_pairs(s.zero_sum()));
        let mut chains = [black_box(s.zero_sum()); CHAINS];
        for _ in 0..STEPS {
            for chain in &mut chains {
                *chain = s.dot_pairs(zero, s.as_pairs(*chain), *chain);
            }
        }
        for chain in chains {
            black_box(s.reduce_max(s.to_f32(chain)));
        }
        4 * STEPS * CHAINS * S::LANES
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::CpuDeviceOptions;
    use super::super::simd::InstructionSet;
    use super::*;

    #[test]
    fn every_instruction_set_has_a_peak_of_floats_and_of_integers() {
        for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
            let options = CpuDeviceOptions { instruction_set: Some(set), ..CpuDeviceOptions::default() };
            let device = CpuDevice::new(options).unwrap();
            for precision in [Precision::F32, Precision::Int8, Precision::Int16] {
                let peak = device.peak(precision).unwrap();
                // Far below and far above what any processor does: a loop that the compiler removed is above.
                let per_thread = peak.gops / device.threads() as f64;
                assert!((0.01..2_000.0).contains(&per_thread), "{set:?} {precision:?}: {peak:?}");
            }
        }
    }

    #[test]
    fn a_precision_that_the_engine_lacks_has_no_peak() {
        let device = CpuDevice::new(CpuDeviceOptions::default()).unwrap();
        assert!(matches!(device.peak(Precision::F16), Err(EngineError::Precision { .. })));
    }
}
