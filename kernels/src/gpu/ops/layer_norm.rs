//! LayerNorm: `layer_norm.wgsl`.
//!
//! Shapes: x and y `[rows, stride]`, of which `width` columns are read and written; norm `[2, stride]` in f32, weight
//! and bias.

use crate::gpu::adapter::KernelFamily;
use crate::gpu::layout::RowLayout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("layer_norm");
const SOFTWARE_SHADER: &Shader = shader::find("layer_norm_cpu");

/// Rows per workgroup on a GPU: ROW_GROUPS in `norm_rows.wgsl`.
const ROWS_PER_GROUP: u32 = 4;
/// Rows per workgroup on a software adapter: THREADS in `norm_rows_cpu.wgsl`.
const SOFTWARE_ROWS_PER_GROUP: u32 = 8;

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Rows of x and y.
    pub rows: RowLayout,
    /// Added to the variance.
    pub eps: f64,
    /// The kernel family.
    pub family: KernelFamily,
}

buffers! {
    /// The op's buffers.
    pub struct LayerNormBuffers {
        /// `[rows, stride]`.
        x: Read,
        /// `[2, stride]` in f32: weight, bias.
        norm: Read,
        /// `[rows, stride]`.
        y: Write,
    }
}

pub(super) fn row_constants(rows: &RowLayout, eps: f64, family: KernelFamily) -> Vec<(&'static str, f64)> {
    let mut constants = rows.constants().to_vec();
    constants.push(("EPS", eps));
    if family == KernelFamily::Software {
        constants.push(("THREADS", f64::from(SOFTWARE_ROWS_PER_GROUP)));
    }
    constants
}

pub(super) fn row_groups(family: KernelFamily, rows: u32) -> [u32; 3] {
    let rows_per_group = match family {
        KernelFamily::Gpu => ROWS_PER_GROUP,
        KernelFamily::Software => SOFTWARE_ROWS_PER_GROUP,
    };
    [rows.div_ceil(rows_per_group), 1, 1]
}

impl Op for LayerNorm {
    fn name(&self) -> String {
        "layer_norm".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let shader = match self.family {
            KernelFamily::Gpu => SHADER,
            KernelFamily::Software => SOFTWARE_SHADER,
        };
        let constants = row_constants(&self.rows, self.eps, self.family);
        PipelineSpec::new(shader, self.rows.storage, LayerNormBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let row = (self.rows.width * self.rows.storage.bytes()) as u64;
        let bytes = 2 * u64::from(extent.rows) * row + 8 * self.rows.width as u64;
        Work::new(&[extent.rows], row_groups(self.family, extent.rows), 0, bytes)
    }
}
