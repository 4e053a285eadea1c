// LayerNorm: y = (x − mean) / sqrt(variance + EPS) · weight + bias over each row.
//
//   x, y  [rows, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//   norm  [2, STRIDE4 · 4]      f32: weight, bias
//
// Algorithm and entry point: `norm_rows.wgsl` for GPUs, `norm_rows_cpu.wgsl` for software adapters.
//
// Bindings: 0 x, 1 norm, 2 y. Rust caller: `gpu::ops::layer_norm`.

@group(0) @binding(0) var<storage, read> x: array<Packed4>;
@group(0) @binding(1) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<Packed4>;

fn value(row: u32, column4: u32) -> vec4<f32> {
    return unpack4(x[row * STRIDE4 + column4]);
}
