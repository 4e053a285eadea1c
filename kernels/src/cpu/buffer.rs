//! Buffers that grow to what they are used for and never shrink.

/// Makes a buffer at least `len` long. What it holds is lost, so that growing never takes the memory of both.
pub(super) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        *buffer = Vec::new();
        *buffer = vec![T::default(); len];
    }
}
