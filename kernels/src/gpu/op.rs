//! What an op of the forward pass is: the pipeline that it needs, the buffers that it touches, and its cost. Plain
//! values: nothing here knows a device.

use serde::Serialize;

use super::layout::Storage;
use super::shader::Shader;

/// One op of the forward pass.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// Name in profiles and benches: op and shape.
    fn name(&self) -> String;
    /// The pipeline that it runs.
    fn pipeline(&self) -> PipelineSpec;
    /// The cost of a dispatch over `extent`.
    fn work(&self, extent: &Extent) -> Work;
    /// What the threads of such a dispatch read beyond each array once; nothing worth counting in most kernels.
    fn rereads(&self, extent: &Extent) -> Rereads {
        let _ = extent;
        Rereads::default()
    }
}

/// Reads that caches and workgroup memory serve: what may bound a kernel besides arithmetic and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rereads {
    /// Bytes of weights that all workgroups together ask the caches for.
    pub cached_bytes: u64,
    /// Bytes that all threads together read from workgroup memory, all of a workgroup the same.
    pub broadcast_bytes: u64,
}

/// Everything that a pipeline is compiled from. Models of equal shapes have equal specs and share the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineSpec {
    /// The shader.
    pub shader: &'static Shader,
    /// How numbers are stored.
    pub storage: Storage,
    /// Shape and variant: distinguishes the shader's pipelines by name.
    pub detail: String,
    /// Its storage buffers, in the order of the shader's bindings.
    pub bindings: &'static [Binding],
    constants: Vec<(&'static str, f64)>,
}

/// Identity of a pipeline: shader, storage, and the bits of its constants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PipelineKey {
    shader: &'static str,
    storage: Storage,
    constants: Vec<(&'static str, u64)>,
}

/// A storage buffer of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The shader's name for it.
    pub name: &'static str,
    /// What the kernel does with it.
    pub access: Access,
}

/// What a kernel may do with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Written, and perhaps read.
    Write,
}

/// The buffers of one kind of kernel, by name. `B` is a buffer on a device, or its place in the forward pass.
pub trait Buffers<B> {
    /// In the order of the shader's bindings.
    const BINDINGS: &'static [Binding];

    /// The buffers, in the same order.
    fn in_order(self) -> Vec<B>;
}

/// Declares a kernel's buffers: a struct with one field per buffer, in the order of the shader's bindings.
macro_rules! buffers {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $access:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name<B> {
            $($(#[$field_doc])* pub $field: B,)+
        }

        impl<B> $crate::gpu::op::Buffers<B> for $name<B> {
            const BINDINGS: &'static [$crate::gpu::op::Binding] = &[$($crate::gpu::op::Binding {
                name: stringify!($field),
                access: $crate::gpu::op::Access::$access,
            },)+];

            fn in_order(self) -> Vec<B> {
                vec![$(self.$field,)+]
            }
        }
    };
}
pub(crate) use buffers;

/// One dispatch: its sizes, its grid and its cost by formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    immediates: [u32; MAX_IMMEDIATES],
    immediate_words: usize,
    /// Workgroups in x, y and z.
    pub workgroups: [u32; 3],
    /// Useful floating-point operations, a multiply-add as two; elementwise work is left out.
    pub flops: u64,
    /// Bytes read and written, each array once.
    pub bytes: u64,
}

/// Most words of immediates per dispatch.
const MAX_IMMEDIATES: usize = 8;

/// The part of a batch that an op computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Rows of the matrices: tokens, or rows of the batch after the last layer's keys and values.
    pub rows: u32,
    /// Entries in the attention's list of query tiles.
    pub query_tiles: u32,
    /// Query-key pairs: Σ queries · keys over the tiles.
    pub query_keys: u64,
}

impl PipelineSpec {
    /// The pipeline of `shader` with these constants.
    ///
    /// # Panics
    /// The constants differ from those of the shader's row.
    #[must_use]
    pub fn new(
        shader: &'static Shader,
        storage: Storage,
        bindings: &'static [Binding],
        constants: Vec<(&'static str, f64)>,
    ) -> Self {
        let named = |name: &&str| constants.iter().any(|(constant, _)| constant == name);
        let complete = shader.sizes.iter().chain(shader.overrides).all(named);
        let count = shader.sizes.len() + shader.overrides.len();
        assert!(complete && constants.len() == count, "{} takes other constants than {constants:?}", shader.name);
        Self { shader, storage, detail: String::new(), bindings, constants }
    }

    /// Adds a detail to the name.
    #[must_use]
    pub fn named(self, detail: String) -> Self {
        Self { detail, ..self }
    }

    /// Shader, storage and detail.
    #[must_use]
    pub fn name(&self) -> String {
        let space = if self.detail.is_empty() { "" } else { " " };
        format!("{} {}{space}{}", self.shader.name, self.storage.name(), self.detail)
    }

    /// The whole WGSL source.
    #[must_use]
    pub fn source(&self) -> String {
        self.shader.source(self.storage, &self.of(self.shader.sizes))
    }

    /// Override constants, with their values.
    #[must_use]
    pub fn overrides(&self) -> Vec<(&'static str, f64)> {
        self.of(self.shader.overrides)
    }

    pub(crate) fn key(&self) -> PipelineKey {
        let constants = self.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        PipelineKey { shader: self.shader.name, storage: self.storage, constants }
    }

    fn of(&self, names: &[&str]) -> Vec<(&'static str, f64)> {
        self.constants.iter().copied().filter(|(name, _)| names.contains(name)).collect()
    }
}

impl Work {
    /// `immediates` has at most 8 words.
    pub(crate) fn new(immediates: &[u32], workgroups: [u32; 3], flops: u64, bytes: u64) -> Self {
        let mut words = [0; MAX_IMMEDIATES];
        words[..immediates.len()].copy_from_slice(immediates);
        Self { immediates: words, immediate_words: immediates.len(), workgroups, flops, bytes }
    }

    /// The immediates, one word each.
    pub(crate) fn immediates(&self) -> &[u32] {
        &self.immediates[..self.immediate_words]
    }
}
