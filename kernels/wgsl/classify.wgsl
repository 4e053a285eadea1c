// Classifier: y = x · wᵀ + bias over the pooled first tokens. (The pooler itself is a GEMM with the TANH epilogue.)
//
//   x     [rows, STRIDE4 · 4]
//   w     [OUTPUTS, HIDDEN4 · 4]   f32, as in the checkpoint
//   bias  [OUTPUTS]                f32
//   y     [rows, OUTPUTS]          f32
//
// Algorithm: one thread computes one number. One workgroup owns THREADS of the rows · OUTPUTS numbers.
//
// Bindings: 0 x, 1 w, 2 bias, 3 y. Constants: HIDDEN4, STRIDE4, OUTPUTS, THREADS. Features: immediates.
// Rust caller: `gpu::ops::classify`.

struct Sizes {
    rows: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Packed4>;
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override OUTPUTS: u32 = 1u;
override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let row = invocation.x / OUTPUTS;
    let output = invocation.x % OUTPUTS;
    if row >= sizes.rows {
        return;
    }
    var sum = vec4(0.0);
    for (var c = 0u; c < HIDDEN4; c++) {
        sum += unpack4(x[row * STRIDE4 + c]) * w[output * HIDDEN4 + c];
    }
    y[invocation.x] = dot(sum, vec4(1.0)) + bias[output];
}
