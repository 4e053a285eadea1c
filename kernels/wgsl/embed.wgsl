// Embeddings and LayerNorm: y = norm(word[id] + position[position of the token] + token_type[its type]).
//
//   tokens      [tokens]   id, and position · 2 + token type (0 or 1)
//   word        [vocabulary, HIDDEN4 · 4]
//   position    [positions, HIDDEN4 · 4]   a model without has one row of zeros for all
//   token_type  [types, HIDDEN4 · 4]
//   norm        [2, STRIDE4 · 4]        f32: weight, bias
//   y           [tokens, STRIDE4 · 4]   the first HIDDEN4 · 4 columns are the row; the rest is padding, never written
//
// Algorithm and entry point: `norm_rows.wgsl` for GPUs, `norm_rows_cpu.wgsl` for software adapters.
//
// Bindings: 0 tokens, 1 word, 2 position, 3 token_type, 4 norm, 5 y. Constants: POSITIONED, 0 if there is only that
// row. Bounds: the host checks ids, positions and types before upload. Rust caller: `gpu::ops::embed`.

struct Token {
    id: u32,
    /// Position · 2 + token type.
    position_and_type: u32,
}

@group(0) @binding(0) var<storage, read> tokens: array<Token>;
@group(0) @binding(1) var<storage, read> word: array<Packed4>;
@group(0) @binding(2) var<storage, read> position: array<Packed4>;
@group(0) @binding(3) var<storage, read> token_type: array<Packed4>;
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<Packed4>;

override POSITIONED: u32 = 1u;

fn value(row: u32, column4: u32) -> vec4<f32> {
    let token = tokens[row];
    return unpack4(word[token.id * HIDDEN4 + column4])
        + unpack4(position[(token.position_and_type >> 1u) * (POSITIONED * HIDDEN4) + column4])
        + unpack4(token_type[(token.position_and_type & 1u) * HIDDEN4 + column4]);
}
