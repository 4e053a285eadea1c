// Embedding pooling, first half: mean[i] = the mean of x over the tokens of row i.
//
//   rows  [rows]                  which tokens of the batch each row is: `query_tile.wgsl`
//   x     [tokens, STRIDE4 · 4]
//   mean  [rows, STRIDE4 · 4]     the first HIDDEN4 · 4 columns; the rest is padding, never written
//
// Algorithm: one thread sums four columns of one row, BLOCK tokens and then the blocks, so that long rows lose little. One
// workgroup owns THREADS of the rows · HIDDEN4 groups of four.
//
// Bindings: 0 rows, 1 x, 2 mean. Constants: HIDDEN4, STRIDE4, THREADS. Features: immediates.
// Rust caller: `gpu::ops::pool`.

struct Sizes {
    rows: u32,
}

@group(0) @binding(0) var<storage, read> rows: array<QueryTile>;
@group(0) @binding(1) var<storage, read> x: array<Packed4>;
@group(0) @binding(2) var<storage, read_write> mean: array<Packed4>;
var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override THREADS: u32 = 64u;

/// Tokens that are summed in one chain.
const BLOCK: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let index = invocation.x / HIDDEN4;
    if index >= sizes.rows {
        return;
    }
    let row = rows[index];
    let end = row.key_start + row.keys;
    var sum = vec4(0.0);
    for (var first = row.key_start; first < end; first += BLOCK) {
        var block = vec4(0.0);
        for (var token = first; token < min(first + BLOCK, end); token++) {
            block += unpack4(x[token * STRIDE4 + invocation.x % HIDDEN4]);
        }
        sum += block;
    }
    mean[index * STRIDE4 + invocation.x % HIDDEN4] = pack4(sum / f32(row.keys));
}
