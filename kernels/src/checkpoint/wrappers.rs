//! What training code leaves before the names of all tensors of a file.

/// Prefixes that training code leaves before all names: `torch.compile`, `DataParallel`, and an attribute `model`.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "model."];

/// What training code may leave before a tensor's name: nothing, a wrapper, or two.
pub(super) fn wrappers() -> impl Iterator<Item = String> {
    let singles = WRAPPERS.iter().map(|&wrapper| wrapper.to_owned());
    let pairs = WRAPPERS.iter().flat_map(|outer| WRAPPERS.iter().map(move |inner| format!("{outer}{inner}")));
    std::iter::once(String::new()).chain(singles).chain(pairs)
}
