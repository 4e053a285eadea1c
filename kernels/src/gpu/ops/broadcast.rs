//! A ceiling: reading workgroup memory, all threads the same place; `broadcast.wgsl`.

use crate::gpu::layout::Storage;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("broadcast");
/// Threads per workgroup.
pub(crate) const THREADS: u32 = 128;
/// Bytes that a thread reads a trip.
const BYTES_PER_TRIP: u64 = 16 * 16;
/// Any number that the compiler does not know.
const FACTOR: f32 = 0.5;

/// The op. Its [`Extent::rows`] is the number of workgroups.
#[derive(Debug, Clone, Copy)]
pub struct Broadcast {
    /// Trips of each thread.
    pub trips: u32,
}

buffers! {
    /// The op's buffers.
    pub struct BroadcastBuffers {
        /// `[threads]` in f32.
        y: Write,
    }
}

impl Op for Broadcast {
    fn name(&self) -> String {
        "broadcast".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let constants = vec![("THREADS", f64::from(THREADS))];
        PipelineSpec::new(SHADER, Storage::F32, BroadcastBuffers::<()>::BINDINGS, constants)
    }

    /// Bytes are those that all threads read from workgroup memory.
    fn work(&self, extent: &Extent) -> Work {
        let threads = u64::from(extent.rows) * u64::from(THREADS);
        let bytes = threads * u64::from(self.trips) * BYTES_PER_TRIP;
        Work::new(&[self.trips, FACTOR.to_bits()], [extent.rows, 1, 1], 0, bytes)
    }
}
