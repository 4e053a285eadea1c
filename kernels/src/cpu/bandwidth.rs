//! How fast this processor reads from its caches and its memory: with the register peak, what bounds a forward pass.
//!
//! Every thread of the device reads a buffer of its own again and again. Nothing here is part of a forward pass.

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::device::CpuDevice;
use super::pool::Work;
use super::simd::{Isa, Kernel, Simd};
use super::sync::Barrier;
use super::worker::Worker;
use crate::engine::EngineError;

/// Least time of the measurement.
const DURATION: Duration = Duration::from_millis(8);

/// Sums in flight: enough that adding is never what takes the time.
const CHAINS: usize = 8;

/// Most bytes that the threads read, all together.
pub const MOST_READ_BYTES: usize = 256 << 20;

impl CpuDevice {
    /// Bytes a second that all threads together read, each `bytes_per_thread` bytes of its own over and over.
    ///
    /// # Errors
    /// The buffers would be larger than [`MOST_READ_BYTES`], there is no memory for them, or a thread panicked.
    pub fn read_rate(&self, bytes_per_thread: usize) -> Result<f64, EngineError> {
        let bytes = bytes_per_thread.saturating_mul(self.threads());
        if bytes > MOST_READ_BYTES {
            let limit = "the limit of a measurement: give each thread less";
            return Err(EngineError::Device(format!("{bytes} bytes to read are over {MOST_READ_BYTES}, {limit}")));
        }
        let work = Arc::new(Reads {
            isa: self.isa(),
            numbers: (bytes_per_thread / size_of::<f32>()).max(1),
            threads: self.threads(),
            barrier: Barrier::default(),
            rate: Mutex::new(Some(0.0)),
        });
        if !self.run(work.clone()) {
            return Err(EngineError::Device("a thread panicked while it measured how fast it reads".to_owned()));
        }
        let rate = *work.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.ok_or_else(|| EngineError::Device(format!("no memory for {bytes} bytes to read")))
    }
}

struct Reads {
    isa: Isa,
    /// Each thread's, in f32.
    numbers: usize,
    threads: usize,
    barrier: Barrier,
    /// The sum of all threads' rates; `None` if one had no memory.
    rate: Mutex<Option<f64>>,
}

impl Work<Worker> for Reads {
    fn run(&self, _worker: &mut Worker) {
        let mut buffer = Vec::new();
        let memory = buffer.try_reserve_exact(self.numbers).is_ok();
        if memory {
            buffer.resize(self.numbers, 1.0f32);
        }
        // Threads share what is measured, so they measure at the same time.
        self.barrier.wait(self.threads);
        let (mut passes, started) = (0, Instant::now());
        while memory && (passes == 0 || started.elapsed() < DURATION) {
            black_box(self.isa.run(Sum(black_box(&buffer))));
            passes += 1;
        }
        let bytes = passes * self.numbers * size_of::<f32>();
        let rate = bytes as f64 / started.elapsed().as_secs_f64();
        let mut all = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.filter(|_| memory).map(|others| others + rate);
    }

    fn abandon(&self) {
        self.barrier.break_up();
    }
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); CHAINS];
        for numbers in self.0.chunks_exact(CHAINS * S::LANES) {
            for (sum, numbers) in sums.iter_mut().zip(numbers.chunks_exact(S::LANES)) {
                *sum = s.add(*sum, s.load(numbers));
            }
        }
        sums.into_iter().reduce(|a, b| s.add(a, b)).map_or(0.0, |sum| s.reduce_add(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::CpuDeviceOptions;
    use super::*;

    #[test]
    fn small_buffers_are_read_and_too_large_ones_are_refused() {
        let device = CpuDevice::new(CpuDeviceOptions::default()).unwrap();
        let rate = device.read_rate(16 << 10).unwrap() / device.threads() as f64;
        // Far below and far above what any processor does: a loop that the compiler removed is above.
        assert!((1e8..2e12).contains(&rate), "{rate} bytes a second");
        let refused = device.read_rate(MOST_READ_BYTES / device.threads() + 4).unwrap_err().to_string();
        assert!(refused.contains("268435456"), "{refused}");
    }
}
