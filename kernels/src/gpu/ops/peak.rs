//! Measures a device's ceiling: only multiply-adds on registers; `peak.wgsl`.

use crate::gpu::layout::Storage;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Loops, Shader};

const SHADER: &Shader = shader::find("peak");
const ROLLED_SHADER: &Shader = shader::find("peak_rolled");
/// Threads per workgroup.
pub(crate) const THREADS: u32 = 64;
/// Multiply-adds per trip: CHAINS in the shader, four-wide.
const MULTIPLY_ADDS_PER_TRIP: u64 = 64;
/// Close enough to 1 that sums stay finite; different enough that no compiler folds it.
const FACTOR: f32 = 0.999;

/// The op. Its [`Extent::rows`] is the number of workgroups.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    /// Trips of each thread.
    pub trips: u32,
    /// Storage that the shader's source names; this kernel does not use it.
    pub storage: Storage,
    /// Whether its loops over registers are written out.
    pub loops: Loops,
}

buffers! {
    /// The op's buffers.
    pub struct PeakBuffers {
        /// `[threads]` in f32.
        y: Write,
    }
}

impl Op for Peak {
    fn name(&self) -> String {
        "peak".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let constants = vec![("THREADS", f64::from(THREADS))];
        let shader = match self.loops {
            Loops::WrittenOut => SHADER,
            Loops::LeftAlone => ROLLED_SHADER,
        };
        PipelineSpec::new(shader, self.storage, PeakBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let threads = u64::from(extent.rows) * u64::from(THREADS);
        let flops = 2 * threads * u64::from(self.trips) * MULTIPLY_ADDS_PER_TRIP;
        Work::new(&[self.trips, FACTOR.to_bits()], [extent.rows, 1, 1], flops, 4 * threads)
    }
}
