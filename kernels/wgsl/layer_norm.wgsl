// LayerNorm, for GPUs: y = (x − mean) / sqrt(variance + EPS) · weight + bias over each row, with the biased variance.
//
//   x, y          [rows, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//   weight, bias  [HIDDEN4 · 4]         f32
//
// Algorithm: 32 threads to a row; mean first, then the variance of what is left of it, so that nothing cancels; the row is read thrice,
// from memory once and from the cache after that.
// One workgroup owns ROW_GROUPS rows.
//
// Bindings: 0 x, 1 weight, 2 bias, 3 y.
// Constants: HIDDEN4 and STRIDE4 in units of four, EPS. Features: immediates.
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

fn value(row: u32, column4: u32) -> vec4<f32> {
    return unpack4(x[row * STRIDE4 + column4]);
}

@compute @workgroup_size(ROW_THREADS, ROW_GROUPS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    // Threads past the last row compute it once more: every thread must meet the barriers.
    let row = min(group.x * ROW_GROUPS + thread.y, sizes.rows - 1u);
    var sum = 0.0;
    for (var c = thread.x; c < HIDDEN4; c += ROW_THREADS) {
        sum += dot(value(row, c), vec4(1.0));
    }
    let mean = row_total(sum, thread.x, thread.y) / f32(HIDDEN4 * 4u);
    var squares = 0.0;
    for (var c = thread.x; c < HIDDEN4; c += ROW_THREADS) {
        let centred = value(row, c) - mean;
        squares += dot(centred, centred);
    }
    let variance = row_total(squares, thread.x, thread.y) / f32(HIDDEN4 * 4u);
    let scale = inverseSqrt(variance + EPS);
    for (var c = thread.x; c < HIDDEN4; c += ROW_THREADS) {
        y[row * STRIDE4 + c] = pack4((value(row, c) - mean) * scale * weight[c] + bias[c]);
    }
}
