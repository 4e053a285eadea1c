//! Every shader's source, put together from `kernels/wgsl`, and the list of every variant that the engine may make.
//!
//! A source is a storage prelude (f32 or f16, the same names in both), the shared functions that the kernel uses, and the
//! kernel's own file: plain concatenation, no preprocessor. Sizes are override constants, except a head's width, which
//! sizes register arrays and so must be a `const`: two generated lines.

use super::layout::{Layout, Precision};
use super::ops::{attention, gemm, gemm_norm};

/// A kernel's own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shader {
    /// `attention.wgsl`
    Attention,
    /// `attention_cpu.wgsl`
    AttentionSoftware,
    /// `classify.wgsl`
    Classify,
    /// `embed.wgsl`
    Embed,
    /// `embed_cpu.wgsl`
    EmbedSoftware,
    /// `gather.wgsl`
    Gather,
    /// `gemm_cooperative.wgsl`
    GemmCooperative,
    /// `gemm_cpu.wgsl`
    GemmSoftware,
    /// `gemm_tile.wgsl`
    GemmTile,
    /// `gemm_tile_norm.wgsl`
    GemmTileNorm,
    /// `layer_norm.wgsl`
    LayerNorm,
    /// `layer_norm_cpu.wgsl`
    LayerNormSoftware,
    /// `peak.wgsl`
    Peak,
    /// `pool_mean.wgsl`
    PoolMean,
    /// `pool_normalise.wgsl`
    PoolNormalise,
}

/// One variant as it is compiled: for validation, and for asking compilers about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// File, format and what sets it apart.
    pub name: String,
    /// The whole WGSL source.
    pub source: String,
    /// Override constants.
    pub constants: Vec<(&'static str, f64)>,
    /// For GPUs, rather than for software adapters.
    pub for_gpus: bool,
    /// Needs cooperative matrices.
    pub cooperative: bool,
}

/// Changes whenever any shader does: part of the key under which tuning is cached.
pub const VERSION: u64 = {
    let files = [
        STORAGE_F32,
        STORAGE_F16,
        EPILOGUE,
        ROW_TOTAL,
        TILE_PRODUCT,
        Shader::GemmTileNorm.file(),
        Shader::Attention.file(),
        Shader::AttentionSoftware.file(),
        Shader::Classify.file(),
        Shader::Embed.file(),
        Shader::EmbedSoftware.file(),
        Shader::Gather.file(),
        Shader::GemmCooperative.file(),
        Shader::GemmSoftware.file(),
        Shader::GemmTile.file(),
        Shader::LayerNorm.file(),
        Shader::LayerNormSoftware.file(),
        Shader::PoolMean.file(),
        Shader::PoolNormalise.file(),
    ];
    let mut hash = FNV_OFFSET;
    let mut file = 0;
    while file < files.len() {
        hash = fnv(hash, files[file].as_bytes());
        file += 1;
    }
    hash
};

const STORAGE_F32: &str = include_str!("../../wgsl/storage_f32.wgsl");
const STORAGE_F16: &str = include_str!("../../wgsl/storage_f16.wgsl");
const EPILOGUE: &str = include_str!("../../wgsl/epilogue.wgsl");
const TILE_PRODUCT: &str = include_str!("../../wgsl/tile_product.wgsl");
const ROW_TOTAL: &str = include_str!("../../wgsl/row_total.wgsl");

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(FNV_PRIME);
        index += 1;
    }
    hash
}

impl Shader {
    const fn file(self) -> &'static str {
        match self {
            Self::Attention => include_str!("../../wgsl/attention.wgsl"),
            Self::AttentionSoftware => include_str!("../../wgsl/attention_cpu.wgsl"),
            Self::Classify => include_str!("../../wgsl/classify.wgsl"),
            Self::Embed => include_str!("../../wgsl/embed.wgsl"),
            Self::EmbedSoftware => include_str!("../../wgsl/embed_cpu.wgsl"),
            Self::Gather => include_str!("../../wgsl/gather.wgsl"),
            Self::GemmCooperative => include_str!("../../wgsl/gemm_cooperative.wgsl"),
            Self::GemmSoftware => include_str!("../../wgsl/gemm_cpu.wgsl"),
            Self::GemmTile => include_str!("../../wgsl/gemm_tile.wgsl"),
            Self::GemmTileNorm => include_str!("../../wgsl/gemm_tile_norm.wgsl"),
            Self::LayerNorm => include_str!("../../wgsl/layer_norm.wgsl"),
            Self::LayerNormSoftware => include_str!("../../wgsl/layer_norm_cpu.wgsl"),
            Self::Peak => include_str!("../../wgsl/peak.wgsl"),
            Self::PoolMean => include_str!("../../wgsl/pool_mean.wgsl"),
            Self::PoolNormalise => include_str!("../../wgsl/pool_normalise.wgsl"),
        }
    }

    /// The file's name without its ending.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::AttentionSoftware => "attention_cpu",
            Self::Classify => "classify",
            Self::Embed => "embed",
            Self::EmbedSoftware => "embed_cpu",
            Self::Gather => "gather",
            Self::GemmCooperative => "gemm_cooperative",
            Self::GemmSoftware => "gemm_cpu",
            Self::GemmTile => "gemm_tile",
            Self::GemmTileNorm => "gemm_tile_norm",
            Self::LayerNorm => "layer_norm",
            Self::LayerNormSoftware => "layer_norm_cpu",
            Self::Peak => "peak",
            Self::PoolMean => "pool_mean",
            Self::PoolNormalise => "pool_normalise",
        }
    }
}

/// The whole source of a kernel whose numbers are stored in `precision`. Attention takes its head's width from
/// [`attention_source`].
#[must_use]
pub fn source(shader: Shader, precision: Precision) -> String {
    let storage = match precision {
        Precision::F32 => STORAGE_F32,
        Precision::F16 => STORAGE_F16,
    };
    let shared = match shader {
        Shader::GemmTile => [EPILOGUE, TILE_PRODUCT],
        Shader::GemmTileNorm => [TILE_PRODUCT, ""],
        Shader::GemmSoftware | Shader::GemmCooperative => [EPILOGUE, ""],
        Shader::Embed | Shader::LayerNorm => [ROW_TOTAL, ""],
        _ => ["", ""],
    };
    // `enable` directives must come first in a module.
    let enable = match (shader, precision) {
        (Shader::GemmCooperative, Precision::F32) => "enable wgpu_cooperative_matrix;\nalias Element = f32;\n",
        (Shader::GemmCooperative, Precision::F16) => {
            "enable f16;\nenable wgpu_cooperative_matrix;\nalias Element = f16;\n"
        }
        _ => "",
    };
    [enable, storage, shared[0], shared[1], shader.file()].join("\n")
}

/// The source of an attention kernel for heads of `head_dim` numbers.
#[must_use]
pub fn attention_source(shader: Shader, precision: Precision, head_dim: usize) -> String {
    let output_dim = attention::output_dim(head_dim);
    let source = source(shader, precision);
    format!("const HEAD_DIM: u32 = {head_dim}u;\nconst OUTPUT_DIM: u32 = {output_dim}u;\n{source}")
}

/// Every variant that the engine may make for a model of `layout`, on any adapter.
#[must_use]
pub fn variants(layout: &Layout, eps: f64, outputs: usize) -> Vec<Variant> {
    let precision = layout.precision;
    let mut variants = Vec::new();
    let mut add = |shader: Shader, detail: String, source: String, constants: Vec<(&'static str, f64)>| {
        let software = shader.name().ends_with("_cpu");
        let cooperative = shader == Shader::GemmCooperative;
        let name = format!("{} {}{detail}", shader.name(), precision.name());
        variants.push(Variant { name, source, constants, for_gpus: !software, cooperative });
    };
    let hidden4 = (layout.hidden / 4) as f64;
    let stride4 = (layout.hidden_padded / 4) as f64;
    let (hidden, intermediate) = (layout.hidden_padded, layout.intermediate_padded);
    let rows = [("HIDDEN4", hidden4), ("STRIDE4", stride4)];
    let with_eps = vec![rows[0], rows[1], ("EPS", eps)];
    for shader in [Shader::Embed, Shader::EmbedSoftware, Shader::LayerNorm, Shader::LayerNormSoftware] {
        add(shader, String::new(), source(shader, precision), with_eps.clone());
    }
    for (k, n, epilogues) in [
        (hidden, 3 * hidden, &[gemm::Epilogue::Bias][..]),
        (hidden, hidden, &[gemm::Epilogue::Bias, gemm::Epilogue::Residual, gemm::Epilogue::Tanh]),
        (hidden, intermediate, &[gemm::Epilogue::Gelu]),
        (intermediate, hidden, &[gemm::Epilogue::Residual]),
    ] {
        for &epilogue in epilogues {
            for variant in gemm::GemmVariant::all(n) {
                let detail = format!(" {k}x{n} {} {}", epilogue.name(), variant.name());
                let constants = variant.constants(k, n, epilogue);
                add(variant.shader(), detail, source(variant.shader(), precision), constants);
            }
        }
    }
    if gemm_norm::fits(layout) {
        for k in [hidden, intermediate] {
            let source = source(Shader::GemmTileNorm, precision);
            add(Shader::GemmTileNorm, format!(" {k}x{hidden}"), source, gemm_norm::constants(layout, k, eps));
        }
    }
    for shader in [Shader::Attention, Shader::AttentionSoftware] {
        for &threads in attention::thread_counts(shader) {
            let source = attention_source(shader, precision, layout.head_dim);
            let detail = format!(" head_dim {} t{threads}", layout.head_dim);
            add(shader, detail, source, vec![("THREADS", f64::from(threads))]);
        }
    }
    let named = |names: &[(&'static str, f64)]| names.to_vec();
    add(Shader::Gather, String::new(), source(Shader::Gather, precision), named(&[("STRIDE4", stride4)]));
    let classify = [rows[0], rows[1], ("OUTPUTS", outputs as f64)];
    add(Shader::Classify, String::new(), source(Shader::Classify, precision), named(&classify));
    add(Shader::Peak, String::new(), source(Shader::Peak, precision), Vec::new());
    add(Shader::PoolMean, String::new(), source(Shader::PoolMean, precision), named(&rows));
    add(Shader::PoolNormalise, String::new(), source(Shader::PoolNormalise, precision), named(&rows[..1]));
    variants
}
