//! One op of the forward pass to a file: its kernel, its bindings, its grid and its cost by formula.

pub mod attention;
pub mod classify;
pub mod embed;
pub mod gather;
pub mod gemm;
pub mod gemm_norm;
pub mod layer_norm;
pub mod peak;
pub mod pool;

/// Which family of kernels to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Many threads, workgroup memory, barriers.
    Gpu,
    /// A driver that computes on the processor: barriers and workgroup memory are dear there.
    Software,
}

impl Target {
    /// The family for `gpu`'s adapter.
    #[must_use]
    pub fn of(gpu: &super::GpuDevice) -> Self {
        match gpu.description().kind {
            super::AdapterKind::Software => Self::Software,
            _ => Self::Gpu,
        }
    }

    /// The attention kernel of the family.
    pub(crate) fn attention(self) -> super::shader::Shader {
        match self {
            Self::Gpu => super::shader::Shader::Attention,
            Self::Software => super::shader::Shader::AttentionSoftware,
        }
    }
}
