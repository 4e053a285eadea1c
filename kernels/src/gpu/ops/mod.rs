//! The ops of the forward pass, one per file: pipeline, buffers, grid and cost by formula. `broadcast`, `peak` and `reads`
//! only measure a device.

pub mod attention;
pub mod attention_relative;
pub mod broadcast;
pub mod classify;
pub mod embed;
pub mod gather;
pub mod gemm;
pub mod gemm_norm;
pub mod gemm_rotary;
pub mod layer_norm;
pub mod peak;
pub mod pool;
pub mod reads;
