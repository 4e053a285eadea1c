// First tokens: y[i] = x[first token of row i]. The head reads only these, so the last layer computes only these.
//
//   rows  [rows]                which tokens of the batch each row is: `query_tile.wgsl`
//   x     [tokens, STRIDE4 · 4]
//   y     [rows, STRIDE4 · 4]
//
// Algorithm: one thread copies four numbers. One workgroup owns THREADS of the rows · STRIDE4 groups of four.
//
// Bindings: 0 rows, 1 x, 2 y. Constants: STRIDE4, THREADS. Features: immediates.
// Rust caller: `gpu::ops::gather`.

struct Sizes {
    rows: u32,
}

@group(0) @binding(0) var<storage, read> rows: array<QueryTile>;
@group(0) @binding(1) var<storage, read> x: array<Packed4>;
@group(0) @binding(2) var<storage, read_write> y: array<Packed4>;
var<immediate> sizes: Sizes;

override STRIDE4: u32 = 96u;
override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let row = invocation.x / STRIDE4;
    if row < sizes.rows {
        y[invocation.x] = x[rows[row].key_start * STRIDE4 + invocation.x % STRIDE4];
    }
}
