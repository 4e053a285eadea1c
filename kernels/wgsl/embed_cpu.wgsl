// Embeddings and LayerNorm, for software adapters: y = norm(word[id] + position[place in row] + token_type[segment]).
//
//   tokens      [tokens]   id, and place in row · 2 + segment (0 or 1)
//   word        [vocabulary, HIDDEN4 · 4]
//   position    [longest row, HIDDEN4 · 4]
//   token_type  [types, HIDDEN4 · 4]
//   norm        [2, HIDDEN4 · 4]   f32: weight, bias
//   y           [tokens, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//
// Algorithm: one lane to a row, no barriers and no workgroup memory; mean first, then the variance of what is left of it.
// One workgroup owns THREADS tokens.
//
// Bindings: 0 tokens, 1 word, 2 position, 3 token_type, 4 norm, 5 y.
// Constants: HIDDEN4 and STRIDE4 in units of four, EPS, THREADS. Features: immediates.
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
override THREADS: u32 = 8u;

fn value(row: u32, column4: u32) -> vec4<f32> {
    let token = tokens[row];
    return unpack4(word[token.id * HIDDEN4 + column4]) + unpack4(position[(token.place >> 1u) * HIDDEN4 + column4])
        + unpack4(token_type[(token.place & 1u) * HIDDEN4 + column4]);
}
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
        y[row * STRIDE4 + c] = pack4((value(row, c) - mean) * scale * norm[c] + norm[HIDDEN4 + c]);
    }
}
