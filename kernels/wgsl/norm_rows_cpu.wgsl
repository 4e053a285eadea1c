// LayerNorm over rows, for software adapters: the entry point of `layer_norm_cpu` and `embed_cpu`.
//
// Formula, shapes and what a kernel declares are those of `norm_rows.wgsl`.
//
// Algorithm: one lane per row, without workgroup memory or barriers: a software adapter runs a barrier by saving and
// restoring every lane. The mean comes first, then the variance of the centred values. One workgroup owns THREADS rows.
//
// Constants: HIDDEN4 and STRIDE4 in units of four, EPS, THREADS. Features: immediates.
// Rust callers: `gpu::ops::layer_norm`, `gpu::ops::embed`.

struct Sizes {
    rows: u32,
}

var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override EPS: f32 = 1e-12;
override THREADS: u32 = 8u;

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
        y[row * STRIDE4 + c] = pack4((value(row, c) - mean) * scale * norm[c] + norm[STRIDE4 + c]);
    }
}
