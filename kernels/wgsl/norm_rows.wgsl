// LayerNorm over rows, for GPUs: the entry point of `layer_norm.wgsl` and `embed.wgsl`, which say what a row is.
//
//   y = (x − mean) / sqrt(variance + EPS) · weight + bias, with the biased variance
//
// The kernel after this prefix declares
//   fn value(row, column4)   four numbers of x
//   norm  [2, STRIDE4 · 4]   f32: weight, bias
//   y     [rows, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//
// Algorithm: 32 threads to a row. The mean comes first, then the variance of the centred values, so that nothing
// cancels. Each pass calls `value` anew: the first reads memory, the other two the cache.
// One workgroup owns ROW_GROUPS rows.
//
// Constants: HIDDEN4 and STRIDE4 in units of four, EPS. Features: immediates.
// Rust callers: `gpu::ops::layer_norm`, `gpu::ops::embed`.

struct Sizes {
    rows: u32,
}

var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override EPS: f32 = 1e-12;

const ROW_THREADS: u32 = 32u;
const ROW_GROUPS: u32 = 4u;

var<workgroup> partial: array<f32, ROW_THREADS * ROW_GROUPS>;

@compute @workgroup_size(ROW_THREADS, ROW_GROUPS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    // Threads past the last row repeat it: every thread must reach the barriers.
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
        y[row * STRIDE4 + c] = pack4((value(row, c) - mean) * scale * norm[c] + norm[STRIDE4 + c]);
    }
}

/// The sum of a number over the 32 threads of a row, returned to each. Every thread of the workgroup must call it.
fn row_total(value: f32, thread: u32, row_group: u32) -> f32 {
    let slot = row_group * ROW_THREADS + thread;
    workgroupBarrier();
    partial[slot] = value;
    workgroupBarrier();
    for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            partial[slot] += partial[slot + half];
        }
        workgroupBarrier();
    }
    return partial[row_group * ROW_THREADS];
}
