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
pub(in crate::cpu) struct Isa {
    set: Set,
    /// The set with its extension for integers, if the processor has that.
    dot_product: Option<DotProduct>,
}

#[derive(Debug, Clone, Copy)]
enum Set {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(super::avx2::Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::avx512::Avx512<false>),
    #[cfg(target_arch = "aarch64")]
    Neon(super::neon::Neon),
}

/// A set that multiplies pairs of integers and adds both products to a sum in one instruction. It has the same vectors
/// as the set without, so panels packed for one fit the other, and the same sums.
#[derive(Debug, Clone, Copy)]
enum DotProduct {
    #[cfg(target_arch = "x86_64")]
    Avx2(super::avx2::Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::avx512::Avx512<true>),
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
        let set = match set {
            InstructionSet::Portable => Set::Portable(Portable),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => Set::Avx2(super::avx2::Avx2::new()?),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => Set::Avx512(super::avx512::Avx512::new()?),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => Set::Neon(super::neon::Neon::new()?),
            _ => return None,
        };
        let dot_product = match set {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => super::avx2::Avx2::new().map(DotProduct::Avx2),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => super::avx512::Avx512::new().map(DotProduct::Avx512),
            _ => None,
        };
        Some(Self { set, dot_product })
    }

    /// Every set of this processor, for tests: with its extension for integers, and without.
    #[cfg(test)]
    pub(in crate::cpu) fn available() -> impl Iterator<Item = Self> {
        let with = InstructionSet::ALL.into_iter().filter_map(Self::new);
        with.flat_map(|isa| isa.dot_product.map(|_| Self { dot_product: None, ..isa }).into_iter().chain([isa]))
    }

    /// The multiply-add of f32.
    pub(in crate::cpu) fn float_instruction(self) -> &'static str {
        match self.set {
            Set::Portable(_) => "multiply, add",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) | Set::Avx512(_) => "vfmadd",
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => "fmla",
        }
    }

    /// The multiply-add of pairs of i16.
    pub(in crate::cpu) fn integer_instruction(self) -> &'static str {
        match self.set {
            _ if self.dot_product.is_some() => "vpdpwssd",
            Set::Portable(_) => "multiply, add",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) | Set::Avx512(_) => "vpmaddwd, vpaddd",
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => "smlal",
        }
    }

    /// Runs the copy of a kernel that was compiled for this set.
    #[inline]
    pub(in crate::cpu) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.set {
            Set::Portable(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(simd) => simd.vectorize(kernel),
        }
    }

    /// Runs the copy of a kernel of integers: compiled for the set's extension, if the processor has that.
    #[inline]
    pub(in crate::cpu) fn run_integers<K: Kernel>(self, kernel: K) -> K::Output {
        match self.dot_product {
            None => self.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Some(DotProduct::Avx2(simd)) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Some(DotProduct::Avx512(simd)) => simd.vectorize(kernel),
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
