//! Buffers that grow as needed and never shrink.

/// Makes a buffer at least `len` long. Growing drops the old contents first, so two buffers never exist at once.
pub(super) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        *buffer = Vec::new();
        *buffer = vec![T::default(); len];
    }
}
