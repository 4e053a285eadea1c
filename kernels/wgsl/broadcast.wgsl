// A ceiling: reading workgroup memory where all threads read the same place, as the GEMMs read their rows.
//
//   y [threads]   the sums, so that no compiler drops them
//
// Algorithm: a workgroup fills SLOTS vectors, then each thread reads 16 of them a trip, all threads the same. One
// workgroup owns THREADS numbers of y.
//
// Bindings: 0 y. Constants: THREADS, a multiple of SLOTS or a divisor of it. Features: immediates. Rust caller:
// `gpu::ops::broadcast`.

struct Sizes {
    trips: u32,
    /// Unknown to the compiler, so that it cannot compute what the memory holds.
    factor: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
var<immediate> sizes: Sizes;

override THREADS: u32 = 128u;

/// Vectors in workgroup memory: a power of two.
const SLOTS: u32 = 128u;
var<workgroup> slots: array<vec4<f32>, SLOTS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    for (var slot = lane; slot < SLOTS; slot += THREADS) {
        slots[slot] = vec4(f32(slot) * sizes.factor);
    }
    workgroupBarrier();
    var first = vec4(0.0);
    var second = vec4(0.0);
    var third = vec4(0.0);
    var fourth = vec4(0.0);
    for (var trip = 0u; trip < sizes.trips; trip++) {
        let at = trip * 16u % SLOTS;
        for (var i = 0u; i < 16u; i += 4u) { // unrolled
            first += slots[at + i];
            second += slots[at + i + 1u];
            third += slots[at + i + 2u];
            fourth += slots[at + i + 3u];
        }
    }
    y[group.x * THREADS + lane] = dot(first + second + third + fourth, vec4(1.0));
}
