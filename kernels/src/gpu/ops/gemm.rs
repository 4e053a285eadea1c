//! GEMM with an epilogue: `y = epilogue(a · w + bias)`; `gemm_tile.wgsl`, `gemm_cooperative.wgsl`, `gemm_cpu.wgsl`.
//!
//! Shapes: a `[rows, k]`, w `[k, n]` (transposed from the checkpoint at load), bias `[n]` in f32, y `[rows, stride]`.
//! Every index is in bounds without a check: k and n are multiples of [`TILE`], and a's and y's buffers have rows up to
//! the next multiple of [`TILE_ROWS`] ([`GemmVariant::rows`] for the cooperative kernel).

use super::Target;
use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::{Precision, TILE, TILE_ROWS};
use crate::gpu::shader::{self, Shader};

/// Rows that one workgroup of the cooperative kernel computes.
pub const COOPERATIVE_ROWS: usize = 64;
/// Columns that one workgroup of the cooperative kernel computes.
const COOPERATIVE_COLUMNS: usize = 64;

/// Those of a GEMM: a, w, bias or parameters, residual, y, and [w from its second row on](bindings).
pub(super) const BINDINGS: [Access; 6] =
    [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Read];

/// The buffers of [`BINDINGS`]: w, `[k, n]`, is bound a second time. A row of it is at least 256 bytes, which every
/// adapter takes for an offset.
pub(super) fn bindings(buffers: [&wgpu::Buffer; 5], n: usize, precision: Precision) -> [wgpu::BufferBinding<'_>; 6] {
    let [a, w, bias, residual, y] = buffers.map(wgpu::Buffer::as_entire_buffer_binding);
    let w_next = wgpu::BufferBinding { offset: (n * precision.bytes()) as u64, ..w.clone() };
    [a, w, bias, residual, y, w_next]
}

/// What is done to a sum before it is stored; `epilogue.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// The bias alone.
    Bias,
    /// Bias, then the exact GELU.
    Gelu,
    /// Bias, then a residual of y's shape.
    Residual,
    /// Bias, then tanh.
    Tanh,
}

/// An algorithm and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GemmVariant {
    /// 16 rows × 4 columns to a thread, a in workgroup memory: `threads` of them side by side.
    Tile {
        /// Threads in a workgroup: a multiple of 32.
        threads: u32,
    },
    /// 8×8×8 cooperative matrices, 64 × 64 to a workgroup of four subgroups.
    Cooperative {
        /// The adapter's subgroup size.
        subgroup: u32,
    },
    /// For software adapters: 16 rows × 4 columns to a lane, no workgroup memory.
    Software {
        /// Lanes in a workgroup.
        threads: u32,
    },
}

/// The matrices' shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmShape {
    /// Width of a, height of w: a multiple of [`TILE`].
    pub k: usize,
    /// Width of w: a multiple of [`TILE`].
    pub n: usize,
    /// First column that is computed: a multiple of [`TILE`].
    pub first_column: usize,
    /// Columns that are computed: a multiple of [`TILE`].
    pub columns: usize,
    /// Row stride of y and the residual.
    pub stride: usize,
    /// What is done to a sum.
    pub epilogue: Epilogue,
    /// Multiply-adds to count for one row: without the padding.
    pub useful_multiply_adds: u64,
}

/// A GEMM's kernel.
#[derive(Debug, Clone)]
pub struct Gemm {
    kernel: Kernel,
    shape: GemmShape,
    variant: GemmVariant,
    precision: Precision,
}

impl Epilogue {
    /// In names of kernels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bias => "bias",
            Self::Gelu => "gelu",
            Self::Residual => "residual",
            Self::Tanh => "tanh",
        }
    }

    /// The shader's EPILOGUE.
    fn number(self) -> u32 {
        match self {
            Self::Bias => 0,
            Self::Gelu => 1,
            Self::Residual => 2,
            Self::Tanh => 3,
        }
    }
}

impl GemmShape {
    /// A plain GEMM over all of `n`, nothing of it padding.
    #[must_use]
    pub fn new(k: usize, n: usize, epilogue: Epilogue) -> Self {
        let useful_multiply_adds = (k * n) as u64;
        Self { k, n, first_column: 0, columns: n, stride: n, epilogue, useful_multiply_adds }
    }
}

impl GemmVariant {
    /// Every variant that can compute `n` columns, on any adapter.
    #[must_use]
    pub fn all(n: usize) -> Vec<Self> {
        let tiles = [32, 64, 96, 128].map(|threads| Self::Tile { threads });
        let software = [8, 16, 32].map(|threads| Self::Software { threads });
        let fits = |variant: &Self| n.is_multiple_of(variant.columns());
        tiles.into_iter().chain([Self::Cooperative { subgroup: 32 }]).chain(software).filter(fits).collect()
    }

    /// The variants of `target` worth timing on `gpu` for `columns` columns; the first is the one to take untimed.
    #[must_use]
    pub fn candidates(gpu: &GpuDevice, target: Target, columns: usize, precision: Precision) -> Vec<Self> {
        let fits = |variant: &Self| columns.is_multiple_of(variant.columns());
        if target == Target::Software {
            return [32, 16, 8].map(|threads| Self::Software { threads }).into_iter().filter(fits).collect();
        }
        let mut candidates: Vec<_> =
            [96, 128, 64, 32].map(|threads| Self::Tile { threads }).into_iter().filter(fits).collect();
        candidates.extend(Self::cooperative(gpu, precision));
        candidates
    }

    /// The cooperative variant, where `gpu` has the matrices that it uses with `precision`.
    #[must_use]
    pub fn cooperative(gpu: &GpuDevice, precision: Precision) -> Option<Self> {
        let wanted = match precision {
            Precision::F32 => "8x8x8 f32->f32",
            Precision::F16 => "8x8x8 f16->f32",
        };
        let runs = gpu.has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
            && (precision == Precision::F32 || gpu.has(wgpu::Features::SHADER_F16))
            && gpu.description().cooperative.iter().any(|shape| shape == wanted);
        gpu.description().subgroup.filter(|_| runs).map(|subgroup| Self::Cooperative { subgroup })
    }

    /// In names of kernels, and in the tuning cache.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Tile { threads } => format!("tile{threads}"),
            Self::Cooperative { .. } => "cooperative".to_owned(),
            Self::Software { threads } => format!("software{threads}"),
        }
    }

    /// Rows that one workgroup computes, and so to which rows are rounded up in buffers.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::Tile { .. } | Self::Software { .. } => TILE_ROWS,
            Self::Cooperative { .. } => COOPERATIVE_ROWS,
        }
    }

    /// Columns that one workgroup computes.
    #[must_use]
    pub fn columns(self) -> usize {
        match self {
            Self::Tile { threads } | Self::Software { threads } => 4 * threads as usize,
            Self::Cooperative { .. } => COOPERATIVE_COLUMNS,
        }
    }

    pub(crate) fn shader(self) -> Shader {
        match self {
            Self::Tile { .. } => Shader::GemmTile,
            Self::Cooperative { .. } => Shader::GemmCooperative,
            Self::Software { .. } => Shader::GemmSoftware,
        }
    }

    pub(crate) fn constants(self, k: usize, n: usize, epilogue: Epilogue) -> Vec<(&'static str, f64)> {
        let mut constants = vec![("K", k as f64), ("N", n as f64), ("EPILOGUE", f64::from(epilogue.number()))];
        constants.push(match self {
            Self::Tile { threads } | Self::Software { threads } => ("THREADS", f64::from(threads)),
            Self::Cooperative { subgroup } => ("SUBGROUP", f64::from(subgroup)),
        });
        constants
    }
}

impl Gemm {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    ///
    /// # Panics
    /// A dimension is not a multiple of [`TILE`], or the variant cannot compute that many columns.
    pub fn new(
        gpu: &GpuDevice,
        shape: GemmShape,
        variant: GemmVariant,
        precision: Precision,
    ) -> Result<Self, GpuError> {
        for dimension in [shape.k, shape.n, shape.first_column, shape.columns] {
            assert!(dimension.is_multiple_of(TILE), "{shape:?} is not padded to {TILE}");
        }
        assert!(shape.columns.is_multiple_of(variant.columns()), "{variant:?} does not divide {shape:?}");
        let label = format!("gemm {}x{} {} {}", shape.k, shape.n, shape.epilogue.name(), variant.name());
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: &label,
                source: &shader::source(variant.shader(), precision),
                bindings: &BINDINGS,
                immediate_bytes: 8,
                constants: &variant.constants(shape.k, shape.n, shape.epilogue),
            },
        )?;
        Ok(Self { kernel, shape, variant, precision })
    }

    /// The same kernel over a slice of w's columns.
    #[must_use]
    pub fn columns(&self, first_column: usize, columns: usize, useful_multiply_adds: u64) -> Self {
        self.with_shape(GemmShape { first_column, columns, useful_multiply_adds, ..self.shape })
    }

    /// The same kernel over another slice or stride; k, n and the epilogue are the pipeline's and stay.
    #[must_use]
    pub fn with_shape(&self, shape: GemmShape) -> Self {
        let GemmShape { k, n, epilogue, .. } = self.shape;
        Self { shape: GemmShape { k, n, epilogue, ..shape }, ..self.clone() }
    }

    /// Binds the matrices; `residual` is read with [`Epilogue::Residual`] only, and may be any buffer that is not `y`
    /// otherwise.
    #[must_use]
    pub fn bind(&self, gpu: &GpuDevice, [a, w, bias, residual, y]: [&wgpu::Buffer; 5]) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &bindings([a, w, bias, residual, y], self.shape.n, self.precision))
    }
}

impl Op for Gemm {
    fn name(&self) -> String {
        let GemmShape { k, columns, epilogue, .. } = self.shape;
        format!("gemm {k}x{columns} {} {}", epilogue.name(), self.variant.name())
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let GemmShape { k, columns, first_column, stride, .. } = self.shape;
        let rows = u64::from(extent.rows);
        let groups = [(columns / self.variant.columns()) as u32, extent.rows.div_ceil(self.variant.rows() as u32), 1];
        let outputs = if self.shape.epilogue == Epilogue::Residual { 2 } else { 1 };
        let numbers = rows * (k + outputs * columns) as u64 + (k * columns) as u64;
        let bytes = numbers * self.precision.bytes() as u64 + 4 * columns as u64;
        let immediates = [(first_column / 4) as u32, (stride / 4) as u32];
        Work::new(&immediates, groups, 2 * rows * self.shape.useful_multiply_adds, bytes)
    }
}
