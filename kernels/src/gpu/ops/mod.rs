//! One op of the forward pass to a file: its pipeline, its buffers, its grid and its cost by formula.

pub mod attention;
pub mod classify;
pub mod embed;
pub mod gather;
pub mod gemm;
pub mod gemm_norm;
pub mod layer_norm;
pub mod peak;
pub mod pool;
