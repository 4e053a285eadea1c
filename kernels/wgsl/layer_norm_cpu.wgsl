// LayerNorm, for software adapters: y = (x − mean) / sqrt(variance + EPS) · weight + bias over each row, with the biased variance.
//
//   x, y          [rows, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//   weight, bias  [HIDDEN4 · 4]         f32
//
// Algorithm: one lane to a row, no barriers and no workgroup memory; mean first, then the variance of what is left of it.
// One workgroup owns THREADS rows.
//
// Bindings: 0 x, 1 weight, 2 bias, 3 y.
// Constants: HIDDEN4 and STRIDE4 in units of four, EPS, THREADS. Features: immediates.
// Rust caller: `gpu::ops::layer_norm`.

struct Sizes {
    rows: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Packed4>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Packed4>;
var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override EPS: f32 = 1e-12;
override THREADS: u32 = 8u;

fn value(row: u32, column4: u32) -> vec4<f32> {
    return unpack4(x[row * STRIDE4 + column4]);
}
@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let row = invocation.x;
    if row >= sizes.rows {
        return;
    }
    var sum = vec4(0.0);
    for (var c = 0u; c < HIDDEN4; c++) {
        sum += value(row, c);
    }
    let mean = dot(sum, vec4(1.0)) / f32(HIDDEN4 * 4u);
    var squares = vec4(0.0);
    for (var c = 0u; c < HIDDEN4; c++) {
        let centred = value(row, c) - mean;
        squares += centred * centred;
    }
    let variance = dot(squares, vec4(1.0)) / f32(HIDDEN4 * 4u);
    let scale = inverseSqrt(variance + EPS);
    for (var c = 0u; c < HIDDEN4; c++) {
        y[row * STRIDE4 + c] = pack4((value(row, c) - mean) * scale * weight[c] + bias[c]);
    }
}
