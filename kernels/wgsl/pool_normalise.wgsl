// Embedding pooling, second half: y[i] = mean[i] / max(‖mean[i]‖, 1e-12).
//
//   mean  [rows, STRIDE4 · 4]   the first HIDDEN4 · 4 columns
//   y     [rows, HIDDEN4 · 4]   f32
//
// Algorithm: one thread scales four columns of one row and computes the norm of the whole row itself: there are few
// rows, and this needs no barrier. One workgroup owns THREADS of the rows · HIDDEN4 groups of four.
//
// Bindings: 0 mean, 1 y. Constants: HIDDEN4, STRIDE4, THREADS. Features: immediates.
// Rust caller: `gpu::ops::pool`.

struct Sizes {
    rows: u32,
}

@group(0) @binding(0) var<storage, read> mean: array<Packed4>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let row = invocation.x / HIDDEN4;
    if row >= sizes.rows {
        return;
    }
    var squares = vec4(0.0);
    for (var c = 0u; c < HIDDEN4; c++) {
        let part = unpack4(mean[row * STRIDE4 + c]);
        squares += part * part;
    }
    let mine = unpack4(mean[row * STRIDE4 + invocation.x % HIDDEN4]);
    y[invocation.x] = mine / max(sqrt(dot(squares, vec4(1.0))), 1e-12);
}
