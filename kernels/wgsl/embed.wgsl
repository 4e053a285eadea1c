// Embeddings and LayerNorm, for GPUs: y = norm(word[id] + position[place in row] + token_type[segment]).
//
//   tokens      [tokens]   id, and place in row · 2 + segment (0 or 1)
//   word        [vocabulary, HIDDEN4 · 4]
//   position    [longest row, HIDDEN4 · 4]
//   token_type  [types, HIDDEN4 · 4]
//   norm        [2, HIDDEN4 · 4]   f32: weight, bias
//   y           [tokens, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//
// Algorithm: 32 threads to a row; mean first, then the variance of what is left of it, so that nothing cancels; the tables are read thrice,
// from memory once and from the cache after that.
// One workgroup owns ROW_GROUPS tokens.
//
// Bindings: 0 tokens, 1 word, 2 position, 3 token_type, 4 norm, 5 y.
// Constants: HIDDEN4 and STRIDE4 in units of four, EPS. Features: immediates.
// Bounds: ids, places and segments are checked by the host before upload.
// Rust caller: `gpu::ops::embed`.

struct Sizes {
    rows: u32,
}

struct Token {
    id: u32,
    /// Place in row · 2 + segment.
    place: u32,
}

@group(0) @binding(0) var<storage, read> tokens: array<Token>;
@group(0) @binding(1) var<storage, read> word: array<Packed4>;
@group(0) @binding(2) var<storage, read> position: array<Packed4>;
@group(0) @binding(3) var<storage, read> token_type: array<Packed4>;
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<Packed4>;
var<immediate> sizes: Sizes;

override HIDDEN4: u32 = 96u;
override STRIDE4: u32 = 96u;
override EPS: f32 = 1e-12;

fn value(row: u32, column4: u32) -> vec4<f32> {
    let token = tokens[row];
    return unpack4(word[token.id * HIDDEN4 + column4]) + unpack4(position[(token.place >> 1u) * HIDDEN4 + column4])
        + unpack4(token_type[(token.place & 1u) * HIDDEN4 + column4]);
}

@compute @workgroup_size(ROW_THREADS, ROW_GROUPS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    // Threads past the last row compute it once more: every thread must meet the barriers.
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
        y[row * STRIDE4 + c] = pack4((value(row, c) - mean) * scale * norm[c] + norm[HIDDEN4 + c]);
    }
}
