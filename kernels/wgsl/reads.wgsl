// A ceiling: reading memory, and the caches in front of it.
//
//   x [numbers]   what is read: a power of two of four-wide vectors, MASK + 1
//   y [threads]   the sums, so that no compiler drops them
//
// Algorithm: each thread reads four vectors a trip, its workgroup one block of 4 · THREADS side by side; the next trip
// reads the next block. Workgroups start one after the other's blocks, and all begin again at the end of x. One workgroup
// owns THREADS numbers of y.
//
// Bindings: 0 x, 1 y. Constants: THREADS. Features: immediates. Rust caller: `gpu::ops::reads`.

struct Sizes {
    trips: u32,
    /// Vectors of x less one, so that every index is one of x.
    mask: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<immediate> sizes: Sizes;

override THREADS: u32 = 128u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var first = vec4(0.0);
    var second = vec4(0.0);
    var third = vec4(0.0);
    var fourth = vec4(0.0);
    var at = group.x * sizes.trips * (4u * THREADS) + lane;
    for (var trip = 0u; trip < sizes.trips; trip++) {
        first += x[at & sizes.mask];
        second += x[(at + THREADS) & sizes.mask];
        third += x[(at + 2u * THREADS) & sizes.mask];
        fourth += x[(at + 3u * THREADS) & sizes.mask];
        at += 4u * THREADS;
    }
    y[group.x * THREADS + lane] = dot(first + second + third + fourth, vec4(1.0));
}
