//! The instruction set that kernels run on, chosen once per device.

use super::portable::Portable;
use super::{Kernel, Simd};

/// An instruction set that the CPU engine has kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// The target's baseline: SSE2 on x86-64.
    Portable,
    /// AVX2 and FMA: x86-64 since 2013 (Intel Haswell) and 2015 (AMD Excavator).
    Avx2,
    /// AVX-512F and BW: Intel Skylake-X and AMD Zen 4 on.
    Avx512,
    /// NEON: every aarch64.
    Neon,
}

impl InstructionSet {
    /// Every set, best first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// The best set of this processor.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|set| set.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        Isa::new(self).is_some()
    }

    /// Its name: `avx2+fma`, `avx512f+bw`, `neon` or `portable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2+fma",
            Self::Avx512 => "avx512f+bw",
            Self::Neon => "neon",
        }
    }
}

/// An instruction set that this processor is known to have.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Isa(Set);

#[derive(Debug, Clone, Copy)]
enum Set {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(super::avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(super::neon::Neon),
}

struct Geometry;

impl Kernel for Geometry {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> (usize, usize) {
        (S::TILE_ROWS, S::PANEL)
    }
}

impl Isa {
    /// `None` if this processor does not have the set.
    pub(in crate::cpu) fn new(set: InstructionSet) -> Option<Self> {
        match set {
            InstructionSet::Portable => Some(Self(Set::Portable(Portable))),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => super::avx2::Avx2::new().map(|simd| Self(Set::Avx2(simd))),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => super::avx512::Avx512::new().map(|simd| Self(Set::Avx512(simd))),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => super::neon::Neon::new().map(|simd| Self(Set::Neon(simd))),
            _ => None,
        }
    }

    /// Every set of this processor, for tests.
    #[cfg(test)]
    pub(in crate::cpu) fn available() -> impl Iterator<Item = Self> {
        InstructionSet::ALL.into_iter().filter_map(Self::new)
    }

    /// Runs the copy of a kernel that was compiled for this set.
    #[inline]
    pub(in crate::cpu) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(simd) => simd.vectorize(kernel),
        }
    }

    /// Rows of a register tile.
    pub(in crate::cpu) fn tile_rows(self) -> usize {
        self.run(Geometry).0
    }

    /// Columns of a panel.
    pub(in crate::cpu) fn panel(self) -> usize {
        self.run(Geometry).1
    }
}
