// The ceiling that benches compare kernels with: only multiply-adds on registers.
//
//   y [threads]   the sums, so that no compiler drops them
//
// Algorithm: each thread runs 16 independent chains of four-wide multiply-adds, 64 multiply-adds per trip. One
// workgroup owns THREADS numbers.
//
// Bindings: 0 y. Constants: THREADS. Features: immediates. Rust caller: `gpu::ops::peak`.

struct Sizes {
    trips: u32,
    /// A factor unknown to the compiler; near 1, so that nothing overflows.
    factor: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
var<immediate> sizes: Sizes;

override THREADS: u32 = 64u;

const CHAINS: u32 = 16u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    var sums: array<vec4<f32>, CHAINS>;
    for (var chain = 0u; chain < CHAINS; chain++) { // unrolled
        sums[chain] = vec4(f32(invocation.x + chain));
    }
    for (var trip = 0u; trip < sizes.trips; trip++) {
        for (var chain = 0u; chain < CHAINS; chain++) { // unrolled
            sums[chain] = sums[chain] * sizes.factor + 0.5;
        }
    }
    var total = vec4(0.0);
    for (var chain = 0u; chain < CHAINS; chain++) { // unrolled
        total += sums[chain];
    }
    y[invocation.x] = dot(total, vec4(1.0));
}
