//! GEMM with an epilogue: `y = epilogue(a · w + bias)`; `gemm_tile.wgsl`, `gemm_cooperative.wgsl`, `gemm_cpu.wgsl`.
//!
//! Shapes: a `[rows, k]`, w `[k, n]` (packed by [`columns`](crate::gpu::columns) at load), bias `[n]` in f32, y
//! `[rows, stride]`.
//! Every index is in bounds without a check: k and n are multiples of [`WIDTH_STEP`], and a's and y's buffers have rows
//! up to the next multiple of [`MAX_ROWS`], which is a multiple of every variant's [`rows`](GemmVariant::rows).

use crate::architecture::Activation;
use crate::gpu::adapter::{AdapterDescription, KernelFamily};
use crate::gpu::layout::{Storage, WIDTH_STEP};
use crate::gpu::op::{Binding, Buffers, Extent, Op, PipelineSpec, Rereads, Work, buffers};
use crate::gpu::shader::{self, Shader};

const TILE_SHADERS: Shaders = Shaders {
    plain: shader::find("gemm_tile"),
    gate: shader::find("gemm_tile_gate"),
    rotary: shader::find("gemm_tile_rotary"),
};
const COOPERATIVE_SHADERS: Shaders = Shaders {
    plain: shader::find("gemm_cooperative"),
    gate: shader::find("gemm_cooperative_gate"),
    rotary: shader::find("gemm_cooperative_rotary"),
};
const SOFTWARE_SHADERS: Shaders = Shaders {
    plain: shader::find("gemm_cpu"),
    gate: shader::find("gemm_gate_cpu"),
    rotary: shader::find("gemm_rotary_cpu"),
};

/// The shaders of a variant, by their epilogue.
#[derive(Debug)]
struct Shaders {
    /// `epilogue.wgsl`.
    plain: &'static Shader,
    /// `epilogue_gate.wgsl`.
    gate: &'static Shader,
    /// `epilogue_rotary.wgsl`.
    rotary: &'static Shader,
}

/// Most rows per workgroup of any variant: the step of rows in buffers.
pub const MAX_ROWS: usize = 64;
/// Rows per workgroup of the cooperative kernel.
const COOPERATIVE_ROWS: usize = 64;
/// Columns per workgroup of the cooperative kernel.
const COOPERATIVE_COLUMNS: usize = 64;
/// Rows per workgroup of the kernel for software adapters.
const SOFTWARE_ROWS: usize = 16;

/// Applied to sums before they are stored; `epilogue.wgsl` and `epilogue_gate.wgsl`. Rotary positions are an op of their
/// own, [`GemmRotary`](super::gemm_rotary::GemmRotary).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// The bias alone.
    Bias,
    /// Bias, then a residual of y's shape.
    Residual,
    /// Bias, then a function of each number.
    Activation(Activation),
    /// Bias, then the function of one number of each [pair](pair_columns) times the other: y has half the columns of w.
    /// Rows past the batch are not written.
    Gate(Activation),
}

/// An algorithm and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GemmVariant {
    /// A register tile per thread, a in workgroup memory.
    Tile(Tile),
    /// 8×8×8 cooperative matrices, 64 × 64 per workgroup of four subgroups.
    Cooperative {
        /// The adapter's subgroup size.
        subgroup: u32,
        /// Whether subgroups meet at a barrier in each step, which keeps their loads close together.
        barrier: bool,
    },
    /// For software adapters: 16 rows × 4 columns per lane, no workgroup memory.
    Software {
        /// Lanes in a workgroup.
        threads: u32,
    },
}

/// A workgroup of `gemm_tile.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Threads side by side, four columns each: a multiple of 32.
    pub threads: u32,
    /// Tiles one below the other, which share what they read of w: 1 or 2.
    pub row_tiles: u32,
    /// Rows of a thread: 4, 8 or 16.
    pub rows: u32,
    /// Numbers of K between two barriers: 16 or 32. Half as deep is half as much code in the loop.
    pub depth: u32,
}

/// Tiles worth timing, in the order of preference untimed.
const TILES: [Tile; 12] = [
    Tile::wide(96),
    Tile::wide(128),
    Tile::wide(64),
    Tile { row_tiles: 2, ..Tile::wide(32) },
    Tile::wide(32),
    Tile { row_tiles: 2, ..Tile::wide(64) },
    Tile { depth: 16, ..Tile::wide(96) },
    Tile { depth: 16, ..Tile::wide(64) },
    Tile { rows: 8, ..Tile::wide(96) },
    Tile { rows: 8, ..Tile::wide(64) },
    Tile { rows: 4, ..Tile::wide(96) },
    Tile { rows: 4, ..Tile::wide(64) },
];

/// The matrices' shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmShape {
    /// Width of a, height of w: a multiple of [`WIDTH_STEP`].
    pub k: usize,
    /// Width of w: a multiple of [`WIDTH_STEP`].
    pub n: usize,
    /// First column to compute: a multiple of [`WIDTH_STEP`].
    pub first_column: usize,
    /// Columns to compute: a multiple of [`WIDTH_STEP`].
    pub columns: usize,
    /// Row stride of y and the residual: `n`, or half of it with a gate.
    pub stride: usize,
    /// Applied to each sum.
    pub epilogue: Epilogue,
    /// Multiply-adds per row, without padding.
    pub useful_multiply_adds: u64,
}

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    shape: GemmShape,
    variant: GemmVariant,
    storage: Storage,
}

buffers! {
    /// The op's buffers.
    pub struct GemmBuffers {
        /// `[rows, k]`.
        a: Read,
        /// `[k, n]`.
        w: Read,
        /// `[n]` in f32.
        bias: Read,
        /// As y. Read only with [`Epilogue::Residual`]; otherwise any buffer other than y.
        residual: Read,
        /// `[rows, stride]`.
        y: Write,
        /// w from its [second row](Gemm::second_row) on: where two rows share an index, a compiler need not add to it.
        w_next: Read,
    }
}

impl Epilogue {
    /// The name in kernels' names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bias => "bias",
            Self::Residual => "residual",
            Self::Activation(Activation::Gelu) => "gelu",
            Self::Activation(Activation::GeluTanh) => "gelu_tanh",
            Self::Activation(Activation::Relu) => "relu",
            Self::Activation(Activation::Tanh) => "tanh",
            Self::Activation(Activation::Silu) => "silu",
            Self::Gate(Activation::Gelu) => "gelu_gate",
            Self::Gate(Activation::GeluTanh) => "gelu_tanh_gate",
            Self::Gate(Activation::Relu) => "relu_gate",
            Self::Gate(Activation::Tanh) => "tanh_gate",
            Self::Gate(Activation::Silu) => "silu_gate",
        }
    }

    /// How many numbers it makes of the sums of `columns` columns.
    #[must_use]
    pub fn outputs(self, columns: usize) -> usize {
        match self {
            Self::Bias | Self::Residual | Self::Activation(_) => columns,
            Self::Gate(_) => columns / 2,
        }
    }

    /// The shader's EPILOGUE.
    fn number(self) -> u32 {
        match self {
            Self::Bias => 0,
            Self::Residual => 2,
            // Those of `activations.wgsl`.
            Self::Activation(activation) | Self::Gate(activation) => match activation {
                Activation::Gelu => 1,
                Activation::Tanh => 3,
                Activation::Relu => 4,
                Activation::GeluTanh => 5,
                Activation::Silu => 6,
            },
        }
    }
}

/// The columns of the two numbers of a pair which an epilogue takes together: among four that one thread has, the first
/// two are of two pairs, and so are the last two.
#[must_use]
pub fn pair_columns(pair: usize) -> [usize; 2] {
    let first = pair / 2 * 4 + pair % 2;
    [first, first + 2]
}

impl GemmShape {
    /// A GEMM over all `n` columns of w, without padding.
    #[must_use]
    pub fn new(k: usize, n: usize, epilogue: Epilogue) -> Self {
        let useful_multiply_adds = (k * n) as u64;
        Self { k, n, first_column: 0, columns: n, stride: epilogue.outputs(n), epilogue, useful_multiply_adds }
    }
}

impl GemmVariant {
    /// Every variant of `family` that can compute `columns` columns, on any adapter; the first is the one to take
    /// untimed.
    #[must_use]
    pub fn all(family: KernelFamily, columns: usize) -> Vec<Self> {
        let fits = |variant: &Self| columns.is_multiple_of(variant.columns());
        match family {
            KernelFamily::Software => {
                [32, 16, 8].map(|threads| Self::Software { threads }).into_iter().filter(fits).collect()
            }
            KernelFamily::Gpu => {
                let cooperative = [false, true].map(|barrier| Self::Cooperative { subgroup: 32, barrier });
                TILES.map(Self::Tile).into_iter().chain(cooperative).filter(fits).collect()
            }
        }
    }

    /// The variants of `family` that `adapter` runs for `columns` columns; the first is the default without timing.
    #[must_use]
    pub fn candidates(
        adapter: &AdapterDescription,
        family: KernelFamily,
        columns: usize,
        storage: Storage,
    ) -> Vec<Self> {
        let runs = |variant| match variant {
            Self::Cooperative { barrier, .. } => Self::cooperative(adapter, storage, barrier),
            Self::Tile(tile) => (tile.workgroup() >= adapter.least_threads()).then_some(variant),
            Self::Software { .. } => Some(variant),
        };
        Self::all(family, columns).into_iter().filter_map(runs).collect()
    }

    /// The cooperative variant, if `adapter` supports its matrices.
    #[must_use]
    pub fn cooperative(adapter: &AdapterDescription, storage: Storage, barrier: bool) -> Option<Self> {
        let wanted = match storage {
            Storage::F32 => "8x8x8 f32->f32",
            Storage::F16 => "8x8x8 f16->f32",
        };
        let runs =
            (storage == Storage::F32 || adapter.native_f16) && adapter.cooperative.iter().any(|shape| shape == wanted);
        adapter.subgroup.filter(|_| runs).map(|subgroup| Self::Cooperative { subgroup, barrier })
    }

    /// The name in kernels' names and in the tuning cache.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Tile(tile) => tile.name(),
            Self::Cooperative { barrier: false, .. } => "cooperative".to_owned(),
            Self::Cooperative { barrier: true, .. } => "cooperative+barrier".to_owned(),
            Self::Software { threads } => format!("software{threads}"),
        }
    }

    /// Whether sums are formed by cooperative matrices, and so in another order than by the other variants.
    #[must_use]
    pub fn is_cooperative(self) -> bool {
        matches!(self, Self::Cooperative { .. })
    }

    /// Rows per workgroup; buffers round rows up to a multiple of it.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::Tile(tile) => (tile.rows * tile.row_tiles) as usize,
            Self::Software { .. } => SOFTWARE_ROWS,
            Self::Cooperative { .. } => COOPERATIVE_ROWS,
        }
    }

    /// Columns per workgroup.
    #[must_use]
    pub fn columns(self) -> usize {
        match self {
            Self::Tile(Tile { threads, .. }) | Self::Software { threads } => 4 * threads as usize,
            Self::Cooperative { .. } => COOPERATIVE_COLUMNS,
        }
    }

    fn shaders(self) -> Shaders {
        match self {
            Self::Tile(_) => TILE_SHADERS,
            Self::Cooperative { .. } => COOPERATIVE_SHADERS,
            Self::Software { .. } => SOFTWARE_SHADERS,
        }
    }
}

impl Tile {
    /// One tile of 16 rows and 32 numbers of K: the most multiply-adds per load.
    #[must_use]
    pub const fn wide(threads: u32) -> Self {
        Self { threads, row_tiles: 1, rows: 16, depth: 32 }
    }

    /// Threads in a workgroup.
    #[must_use]
    pub fn workgroup(&self) -> u32 {
        self.threads * self.row_tiles
    }

    /// Such as `tile64x2` for two tiles, `tile64r8` for 8 rows a thread, `tile64k16` for 16 numbers of K.
    fn name(&self) -> String {
        let wide = Self::wide(self.threads);
        let part = |letter, value: u32, usual: u32| match value == usual {
            true => String::new(),
            false => format!("{letter}{value}"),
        };
        let tiles = part('x', self.row_tiles, wide.row_tiles);
        let (rows, depth) = (part('r', self.rows, wide.rows), part('k', self.depth, wide.depth));
        format!("tile{}{tiles}{rows}{depth}", self.threads)
    }

    /// The constants of `tile_product.wgsl` that are the tile's.
    pub(super) fn constants(&self) -> [(&'static str, f64); 4] {
        [("THREADS", self.threads), ("ROW_TILES", self.row_tiles), ("ROWS", self.rows), ("DEPTH", self.depth)]
            .map(|(name, value)| (name, f64::from(value)))
    }
}

impl Gemm {
    /// The op over all of `shape`.
    ///
    /// # Panics
    /// A dimension is not a multiple of [`WIDTH_STEP`], or the variant cannot compute that many columns.
    #[must_use]
    pub fn new(shape: GemmShape, variant: GemmVariant, storage: Storage) -> Self {
        for dimension in [shape.k, shape.n, shape.first_column, shape.columns] {
            assert!(dimension.is_multiple_of(WIDTH_STEP), "{shape:?} is not padded to {WIDTH_STEP}");
        }
        assert!(shape.columns.is_multiple_of(variant.columns()), "{variant:?} does not divide {shape:?}");
        Self { shape, variant, storage }
    }

    /// Byte offset of the second row of w, where `w_next` begins. At least 256, which every adapter accepts as an
    /// offset.
    #[must_use]
    pub fn second_row(&self) -> u64 {
        (self.shape.n * self.storage.bytes()) as u64
    }

    /// The pipeline of the same GEMM that ends with `epilogue_rotary.wgsl`, whose constants are `of_epilogue`.
    pub(super) fn rotary_pipeline(
        &self,
        bindings: &'static [Binding],
        of_epilogue: &[(&'static str, f64)],
        detail: &str,
    ) -> PipelineSpec {
        self.pipeline_of(self.variant.shaders().rotary, bindings, of_epilogue, detail)
    }

    fn pipeline_of(
        &self,
        shader: &'static Shader,
        bindings: &'static [Binding],
        of_epilogue: &[(&'static str, f64)],
        detail: &str,
    ) -> PipelineSpec {
        let GemmShape { k, n, .. } = self.shape;
        let mut constants = vec![("K", k as f64), ("N", n as f64)];
        constants.extend(of_epilogue);
        match self.variant {
            GemmVariant::Tile(tile) => constants.extend(tile.constants()),
            GemmVariant::Software { threads } => constants.push(("THREADS", f64::from(threads))),
            GemmVariant::Cooperative { subgroup, barrier } => {
                constants.extend([("SUBGROUP", f64::from(subgroup)), ("BARRIER", f64::from(u8::from(barrier)))]);
            }
        }
        PipelineSpec::new(shader, self.storage, bindings, constants)
            .named(format!("{k}x{n} {detail} {}", self.variant.name()))
    }

    /// First column and row stride in fours, then rows, which `epilogue.wgsl` does without.
    pub(super) fn immediates(&self, extent: &Extent) -> [u32; 3] {
        [(self.shape.first_column / 4) as u32, (self.shape.stride / 4) as u32, extent.rows]
    }
}

impl Op for Gemm {
    fn name(&self) -> String {
        let GemmShape { k, columns, epilogue, .. } = self.shape;
        format!("gemm {k}x{columns} {} {}", epilogue.name(), self.variant.name())
    }

    fn pipeline(&self) -> PipelineSpec {
        let (Shaders { plain, gate, .. }, epilogue) = (self.variant.shaders(), self.shape.epilogue);
        let shader = if matches!(epilogue, Epilogue::Gate(_)) { gate } else { plain };
        let constants = [("EPILOGUE", f64::from(epilogue.number()))];
        self.pipeline_of(shader, GemmBuffers::<()>::BINDINGS, &constants, epilogue.name())
    }

    fn work(&self, extent: &Extent) -> Work {
        let GemmShape { k, columns, epilogue, .. } = self.shape;
        let rows = u64::from(extent.rows);
        let groups = [(columns / self.variant.columns()) as u32, extent.rows.div_ceil(self.variant.rows() as u32), 1];
        let residual = if epilogue == Epilogue::Residual { columns } else { 0 };
        let numbers = rows * (k + residual + epilogue.outputs(columns)) as u64 + (k * columns) as u64;
        let bytes = numbers * self.storage.bytes() as u64 + 4 * columns as u64;
        let immediates = self.immediates(extent);
        let used = if matches!(epilogue, Epilogue::Gate(_)) { 3 } else { 2 };
        Work::new(&immediates[..used], groups, 2 * rows * self.shape.useful_multiply_adds, bytes)
    }

    fn rereads(&self, extent: &Extent) -> Rereads {
        let [x, y, _] = self.work(extent).workgroups.map(u64::from);
        // Numbers of one workgroup, for each of K.
        let (cached, broadcast) = match self.variant {
            GemmVariant::Tile(tile) => (4 * tile.threads, tile.workgroup() * tile.rows),
            GemmVariant::Software { threads } => (4 * threads, 0),
            // Each of four subgroups reads 32 rows and 32 columns.
            GemmVariant::Cooperative { .. } => (4 * 64, 0),
        };
        let bytes = |numbers: u32| x * y * u64::from(numbers) * (self.shape.k * self.storage.bytes()) as u64;
        Rereads { cached_bytes: bytes(cached), broadcast_bytes: bytes(broadcast) }
    }
}
