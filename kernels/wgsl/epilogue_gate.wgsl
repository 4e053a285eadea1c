// Gates and stores a GEMM's sums: y = activation(a · w₁ + bias₁) · (a · w₂ + bias₂). Prefixed to a GEMM kernel in place
// of `epilogue.wgsl`, whose names it has.
//
//   w, bias  of every four columns, the first two are activated and the last two are their gates, so that one thread has
//            both: `gpu::columns` packs them in this order
//   y        [m, N / 2], so two numbers of every four columns; rows past the batch are not written, because products of
//            what lies there would grow from batch to batch until they are no numbers
//
// Bindings: 2 bias, 4 y. Constants: EPILOGUE (the activation, `activations.wgsl`). Rust caller: `gpu::ops::gemm`.

struct Sizes {
    /// First column to compute, in units of four: a slice of w and bias, and half as far into y.
    column4: u32,
    /// Row stride of y, in units of four.
    y_stride4: u32,
    /// Rows of the batch.
    rows: u32,
}

@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<Packed2>;
var<immediate> sizes: Sizes;

override EPILOGUE: u32 = 1u;

/// Stores what four columns of a row become. Their sums hold the bias.
fn store(row: u32, column4: u32, sum: vec4<f32>) {
    if row < sizes.rows {
        // The activations of the gates are unused, so compilers leave them out.
        y[row * 2u * sizes.y_stride4 + column4] = pack2(activate(EPILOGUE, sum).xy * sum.zw);
    }
}
