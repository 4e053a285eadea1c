//! The command `assay-bench`.

fn main() {}
