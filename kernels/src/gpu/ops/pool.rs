//! Embedding pooling: the mean over a row's tokens, `pool_mean.wgsl`, scaled to unit length, `pool_normalise.wgsl`.
//!
//! Shapes: rows `[rows]` of [`QueryTile`](super::attention::QueryTile) with one query each, x `[tokens, stride]`, mean
//! `[rows, stride]`, y `[rows, width]` in f32.

use crate::gpu::layout::RowLayout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const MEAN_SHADER: &Shader = shader::find("pool_mean");
const NORMALISE_SHADER: &Shader = shader::find("pool_normalise");
const THREADS: u32 = 64;

/// The mean. Its [`Extent::query_keys`] is the number of tokens.
#[derive(Debug, Clone, Copy)]
pub struct PoolMean {
    /// Rows of x.
    pub states: RowLayout,
}

/// Scales the means to unit length.
#[derive(Debug, Clone, Copy)]
pub struct PoolNormalise {
    /// Rows that the means were computed from.
    pub states: RowLayout,
}

buffers! {
    /// The mean's buffers.
    pub struct PoolMeanBuffers {
        /// `[rows]` of [`QueryTile`](super::attention::QueryTile).
        rows: Read,
        /// `[tokens, stride]`.
        x: Read,
        /// `[rows, stride]`.
        mean: Write,
    }
}

buffers! {
    /// The buffers of [`PoolNormalise`].
    pub struct PoolNormaliseBuffers {
        /// `[rows, stride]`.
        mean: Read,
        /// `[rows, width]` in f32.
        y: Write,
    }
}

impl Op for PoolMean {
    fn name(&self) -> String {
        "pool_mean".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let mut constants = self.states.constants().to_vec();
        constants.push(("THREADS", f64::from(THREADS)));
        PipelineSpec::new(MEAN_SHADER, self.states.storage, PoolMeanBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let row = (self.states.width * self.states.storage.bytes()) as u64;
        let bytes = extent.query_keys * row + u64::from(extent.rows) * (row + 16);
        Work::new(&[extent.rows], groups(&self.states, extent), 0, bytes)
    }
}

impl Op for PoolNormalise {
    fn name(&self) -> String {
        "pool_normalise".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let mut constants = self.states.constants().to_vec();
        constants.push(("THREADS", f64::from(THREADS)));
        PipelineSpec::new(NORMALISE_SHADER, self.states.storage, PoolNormaliseBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let bytes = 8 * u64::from(extent.rows) * self.states.width as u64;
        Work::new(&[extent.rows], groups(&self.states, extent), 0, bytes)
    }
}

fn groups(states: &RowLayout, extent: &Extent) -> [u32; 3] {
    [(extent.rows * (states.width / 4) as u32).div_ceil(THREADS), 1, 1]
}
