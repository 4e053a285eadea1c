//! Every kernel's shader, one row of [`TABLE`] each, or of [`CEILINGS`] if it only measures. Sources, pipelines and the
//! [version](VERSION) come from these tables.
//!
//! A source is a storage prelude (f32 or f16, the same names in both), the shared texts that the row names, and the
//! kernel's own file, one after the other, with loops over registers [written out](super::unroll). Sizes are override
//! constants, except those that size register arrays and so must be `const`: generated lines in front.

use super::adapter::KernelFamily;
use super::layout::Storage;
use super::unroll::unrolled;

/// A kernel's shader.
#[derive(Debug)]
pub struct Shader {
    /// The kernel's name: its file's, and the shared text that stands in for another; ends with `_cpu` if for software
    /// adapters.
    pub name: &'static str,
    /// The kernel's own file.
    text: &'static str,
    /// Shared texts in front of it.
    preludes: &'static [&'static str],
    /// The adapters it is for; `None` means all.
    pub family: Option<KernelFamily>,
    /// Whether it needs cooperative matrices.
    pub cooperative: bool,
    /// What becomes of its loops over registers.
    pub loops: Loops,
    /// Constants that size arrays.
    pub sizes: &'static [&'static str],
    /// Override constants. The op sets all of them.
    pub overrides: &'static [&'static str],
    /// Members of the immediates, one word each.
    pub immediates: &'static [&'static str],
}

/// What becomes of a shader's loops over registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loops {
    /// They are [written out](super::unroll), as in every kernel of a model.
    WrittenOut,
    /// They are left to the driver's compiler, to find out what it makes of them.
    LeftAlone,
}

const ACTIVATIONS: &str = include_str!("../../wgsl/activations.wgsl");
const EPILOGUE: &str = include_str!("../../wgsl/epilogue.wgsl");
const EPILOGUE_GATE: &str = include_str!("../../wgsl/epilogue_gate.wgsl");
const EPILOGUE_ROTARY: &str = include_str!("../../wgsl/epilogue_rotary.wgsl");
const TILE_PRODUCT: &str = include_str!("../../wgsl/tile_product.wgsl");
const NORM_ROWS: &str = include_str!("../../wgsl/norm_rows.wgsl");
const NORM_ROWS_CPU: &str = include_str!("../../wgsl/norm_rows_cpu.wgsl");
const QUERY_TILE: &str = include_str!("../../wgsl/query_tile.wgsl");
const ATTENTION_QUERY: &str = include_str!("../../wgsl/attention_query.wgsl");
const PEAK: &str = include_str!("../../wgsl/peak.wgsl");
const STORAGE_F32: &str = include_str!("../../wgsl/storage_f32.wgsl");
const STORAGE_F16: &str = include_str!("../../wgsl/storage_f16.wgsl");

/// Immediates of `attention_query.wgsl`.
const ATTENTION_IMMEDIATES: &[&str] =
    &["q_stride", "kv_stride", "key_column", "value_column", "context_stride4", "radius", "queries_are_tokens"];

/// Immediates of GEMMs that write no row past the batch.
const GEMM_ROWS_IMMEDIATES: &[&str] = &["column4", "y_stride4", "rows"];

/// A row without preludes and constants, for any adapter.
const ROW: Shader = Shader {
    name: "",
    text: "",
    preludes: &[],
    family: None,
    cooperative: false,
    loops: Loops::WrittenOut,
    sizes: &[],
    overrides: &[],
    immediates: &[],
};

const GEMM_COOPERATIVE: Shader = Shader {
    name: "gemm_cooperative",
    text: include_str!("../../wgsl/gemm_cooperative.wgsl"),
    preludes: &[ACTIVATIONS, EPILOGUE],
    family: Some(KernelFamily::Gpu),
    cooperative: true,
    overrides: &["K", "N", "EPILOGUE", "SUBGROUP", "BARRIER"],
    immediates: &["column4", "y_stride4"],
    ..ROW
};
const GEMM_CPU: Shader = Shader {
    name: "gemm_cpu",
    text: include_str!("../../wgsl/gemm_cpu.wgsl"),
    preludes: &[ACTIVATIONS, EPILOGUE],
    family: Some(KernelFamily::Software),
    overrides: &["K", "N", "EPILOGUE", "THREADS"],
    immediates: &["column4", "y_stride4"],
    ..ROW
};
const GEMM_TILE: Shader = Shader {
    name: "gemm_tile",
    text: include_str!("../../wgsl/gemm_tile.wgsl"),
    preludes: &[ACTIVATIONS, EPILOGUE, TILE_PRODUCT],
    family: Some(KernelFamily::Gpu),
    sizes: &["ROWS", "DEPTH", "ROW_TILES"],
    overrides: &["K", "N", "EPILOGUE", "THREADS"],
    immediates: &["column4", "y_stride4"],
    ..ROW
};

/// Every kernel. To add one: its WGSL file, its op in [`ops`](super::ops), and a row here.
pub const TABLE: [Shader; 22] = [
    Shader {
        name: "attention",
        text: include_str!("../../wgsl/attention.wgsl"),
        preludes: &[QUERY_TILE, ATTENTION_QUERY],
        family: Some(KernelFamily::Gpu),
        sizes: &["HEAD_DIM", "OUTPUT_DIM"],
        overrides: &["THREADS"],
        immediates: ATTENTION_IMMEDIATES,
        ..ROW
    },
    Shader {
        name: "attention_cpu",
        text: include_str!("../../wgsl/attention_cpu.wgsl"),
        preludes: &[QUERY_TILE, ATTENTION_QUERY],
        family: Some(KernelFamily::Software),
        sizes: &["HEAD_DIM", "OUTPUT_DIM"],
        overrides: &["THREADS"],
        immediates: ATTENTION_IMMEDIATES,
        ..ROW
    },
    Shader {
        name: "attention_relative",
        text: include_str!("../../wgsl/attention_relative.wgsl"),
        preludes: &[QUERY_TILE, ATTENTION_QUERY],
        sizes: &["HEAD_DIM", "OUTPUT_DIM"],
        overrides: &["THREADS", "MAX_TOKENS", "ROW_RUNS"],
        immediates: ATTENTION_IMMEDIATES,
        ..ROW
    },
    Shader {
        name: "classify",
        text: include_str!("../../wgsl/classify.wgsl"),
        overrides: &["HIDDEN4", "STRIDE4", "OUTPUTS", "THREADS"],
        immediates: &["rows"],
        ..ROW
    },
    Shader {
        name: "embed",
        text: include_str!("../../wgsl/embed.wgsl"),
        preludes: &[NORM_ROWS],
        family: Some(KernelFamily::Gpu),
        overrides: &["HIDDEN4", "STRIDE4", "EPS", "POSITIONED"],
        immediates: &["rows"],
        ..ROW
    },
    Shader {
        name: "embed_cpu",
        text: include_str!("../../wgsl/embed.wgsl"),
        preludes: &[NORM_ROWS_CPU],
        family: Some(KernelFamily::Software),
        overrides: &["HIDDEN4", "STRIDE4", "EPS", "THREADS", "POSITIONED"],
        immediates: &["rows"],
        ..ROW
    },
    Shader {
        name: "gather",
        text: include_str!("../../wgsl/gather.wgsl"),
        preludes: &[QUERY_TILE],
        overrides: &["STRIDE4", "THREADS"],
        immediates: &["rows"],
        ..ROW
    },
    GEMM_COOPERATIVE,
    Shader {
        name: "gemm_cooperative_gate",
        preludes: &[ACTIVATIONS, EPILOGUE_GATE],
        immediates: GEMM_ROWS_IMMEDIATES,
        ..GEMM_COOPERATIVE
    },
    Shader {
        name: "gemm_cooperative_rotary",
        preludes: &[EPILOGUE_ROTARY],
        overrides: &["K", "N", "HEAD_DIM", "PART4", "SUBGROUP", "BARRIER"],
        immediates: GEMM_ROWS_IMMEDIATES,
        ..GEMM_COOPERATIVE
    },
    GEMM_CPU,
    Shader {
        name: "gemm_gate_cpu",
        preludes: &[ACTIVATIONS, EPILOGUE_GATE],
        immediates: GEMM_ROWS_IMMEDIATES,
        ..GEMM_CPU
    },
    Shader {
        name: "gemm_rotary_cpu",
        preludes: &[EPILOGUE_ROTARY],
        overrides: &["K", "N", "HEAD_DIM", "PART4", "THREADS"],
        immediates: GEMM_ROWS_IMMEDIATES,
        ..GEMM_CPU
    },
    GEMM_TILE,
    Shader {
        name: "gemm_tile_gate",
        preludes: &[ACTIVATIONS, EPILOGUE_GATE, TILE_PRODUCT],
        immediates: GEMM_ROWS_IMMEDIATES,
        ..GEMM_TILE
    },
    Shader {
        name: "gemm_tile_rotary",
        preludes: &[EPILOGUE_ROTARY, TILE_PRODUCT],
        overrides: &["K", "N", "HEAD_DIM", "PART4", "THREADS"],
        immediates: GEMM_ROWS_IMMEDIATES,
        ..GEMM_TILE
    },
    Shader {
        name: "gemm_tile_norm",
        text: include_str!("../../wgsl/gemm_tile_norm.wgsl"),
        preludes: &[TILE_PRODUCT],
        family: Some(KernelFamily::Gpu),
        sizes: &["ROWS", "DEPTH", "ROW_TILES"],
        overrides: &["THREADS", "K", "N", "HIDDEN", "EPS"],
        ..ROW
    },
    Shader {
        name: "layer_norm",
        text: include_str!("../../wgsl/layer_norm.wgsl"),
        preludes: &[NORM_ROWS],
        family: Some(KernelFamily::Gpu),
        overrides: &["HIDDEN4", "STRIDE4", "EPS"],
        immediates: &["rows"],
        ..ROW
    },
    Shader {
        name: "layer_norm_cpu",
        text: include_str!("../../wgsl/layer_norm.wgsl"),
        preludes: &[NORM_ROWS_CPU],
        family: Some(KernelFamily::Software),
        overrides: &["HIDDEN4", "STRIDE4", "EPS", "THREADS"],
        immediates: &["rows"],
        ..ROW
    },
    Shader { name: "peak", text: PEAK, overrides: &["THREADS"], immediates: &["trips", "factor"], ..ROW },
    Shader {
        name: "pool_mean",
        text: include_str!("../../wgsl/pool_mean.wgsl"),
        preludes: &[QUERY_TILE],
        overrides: &["HIDDEN4", "STRIDE4", "THREADS"],
        immediates: &["rows"],
        ..ROW
    },
    Shader {
        name: "pool_normalise",
        text: include_str!("../../wgsl/pool_normalise.wgsl"),
        overrides: &["HIDDEN4", "STRIDE4", "THREADS"],
        immediates: &["rows"],
        ..ROW
    },
];

/// Shaders that only measure a device. No model runs them, and tuning does not depend on them.
pub const CEILINGS: [Shader; 3] = [
    Shader {
        name: "broadcast",
        text: include_str!("../../wgsl/broadcast.wgsl"),
        overrides: &["THREADS"],
        immediates: &["trips", "factor"],
        ..ROW
    },
    Shader {
        name: "peak_rolled",
        text: PEAK,
        loops: Loops::LeftAlone,
        overrides: &["THREADS"],
        immediates: &["trips", "factor"],
        ..ROW
    },
    Shader {
        name: "reads",
        text: include_str!("../../wgsl/reads.wgsl"),
        overrides: &["THREADS"],
        immediates: &["trips", "mask"],
        ..ROW
    },
];

/// Changes when any shader of a model changes: part of the tuning cache's key.
pub const VERSION: u64 = {
    let mut hash = fnv(fnv(FNV_OFFSET, STORAGE_F32), STORAGE_F16);
    let mut row = 0;
    while row < TABLE.len() {
        let mut prelude = 0;
        while prelude < TABLE[row].preludes.len() {
            hash = fnv(hash, TABLE[row].preludes[prelude]);
            prelude += 1;
        }
        hash = fnv(hash, TABLE[row].text);
        row += 1;
    }
    hash
};

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

const fn fnv(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(FNV_PRIME);
        index += 1;
    }
    hash
}

/// The row of a kernel. Ops look their row up in a constant, so an unknown name does not compile.
///
/// # Panics
/// No table has such a row.
#[must_use]
pub const fn find(name: &str) -> &'static Shader {
    const TABLES: [&[Shader]; 2] = [&TABLE, &CEILINGS];
    let mut table = 0;
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            if equal(TABLES[table][row].name.as_bytes(), name.as_bytes()) {
                return &TABLES[table][row];
            }
            row += 1;
        }
        table += 1;
    }
    panic!("the tables of shaders have no kernel of this name")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

impl Shader {
    /// The kernel's whole source for numbers stored as `storage`; `sizes` are the values of [`sizes`](Self::sizes), by
    /// name.
    #[must_use]
    pub fn source(&self, storage: Storage, sizes: &[(&'static str, f64)]) -> String {
        let mut parts = Vec::new();
        // `enable` directives must come first in a module.
        if self.cooperative {
            parts.push(match storage {
                Storage::F32 => "enable wgpu_cooperative_matrix;\nalias Element = f32;\n".to_owned(),
                Storage::F16 => "enable f16;\nenable wgpu_cooperative_matrix;\nalias Element = f16;\n".to_owned(),
            });
        }
        parts.extend(sizes.iter().map(|(name, value)| format!("const {name}: u32 = {value}u;")));
        parts.push(
            match storage {
                Storage::F32 => STORAGE_F32,
                Storage::F16 => STORAGE_F16,
            }
            .to_owned(),
        );
        parts.extend(self.preludes.iter().map(|&prelude| prelude.to_owned()));
        parts.push(self.text.to_owned());
        match self.loops {
            Loops::WrittenOut => unrolled(&parts.join("\n")),
            Loops::LeftAlone => parts.join("\n"),
        }
    }
}
