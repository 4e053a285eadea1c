//! A ceiling: reading caches and memory; `reads.wgsl`.

use crate::gpu::layout::Storage;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("reads");
/// Threads per workgroup.
pub(crate) const THREADS: u32 = 128;
/// Bytes that a thread reads a trip.
const BYTES_PER_TRIP: u64 = 64;

/// The op. Its [`Extent::rows`] is the number of workgroups.
#[derive(Debug, Clone, Copy)]
pub struct Reads {
    /// Trips of each thread.
    pub trips: u32,
    /// Bytes of x: a power of two, at least 16.
    pub bytes: u64,
}

buffers! {
    /// The op's buffers.
    pub struct ReadsBuffers {
        /// What is read, in f32.
        x: Read,
        /// `[threads]` in f32.
        y: Write,
    }
}

impl Op for Reads {
    fn name(&self) -> String {
        format!("reads of {} KiB", self.bytes >> 10)
    }

    fn pipeline(&self) -> PipelineSpec {
        let constants = vec![("THREADS", f64::from(THREADS))];
        PipelineSpec::new(SHADER, Storage::F32, ReadsBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let threads = u64::from(extent.rows) * u64::from(THREADS);
        let mask = (self.bytes / 16 - 1) as u32;
        let bytes = threads * u64::from(self.trips) * BYTES_PER_TRIP;
        Work::new(&[self.trips, mask], [extent.rows, 1, 1], 0, bytes)
    }
}
