// Gate of a feed-forward part: y = activation(x[first half]) · x[second half].
//
//   x  [rows, 2 · STRIDE4 · 4]   what is activated, then the gate
//   y  [rows, STRIDE4 · 4]       padding included: zeros stay zeros
//
// Algorithm: one thread computes four columns of one row. Workgroup (g, r) owns columns 4 · THREADS · g … of row r.
//
// Bindings: 0 x, 1 y. Constants: STRIDE4, ACTIVATION (`activations.wgsl`), THREADS. Rust caller: `gpu::ops::gate`.

@group(0) @binding(0) var<storage, read> x: array<Packed4>;
@group(0) @binding(1) var<storage, read_write> y: array<Packed4>;

override STRIDE4: u32 = 96u;
override ACTIVATION: u32 = 1u;
override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column4 = group.x * THREADS + lane;
    if column4 < STRIDE4 {
        let first = 2u * group.y * STRIDE4 + column4;
        let activated = activate(ACTIVATION, unpack4(x[first]));
        y[group.y * STRIDE4 + column4] = pack4(activated * unpack4(x[first + STRIDE4]));
    }
}
