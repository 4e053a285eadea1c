// Rotary positions: turns the numbers i and i + HEAD_DIM / 2 of each head by the angle of pair i at the token's
// position.
//
//   tokens  [tokens]                   position · 2 + token type in the second word: `embed.wgsl`
//   table   [positions, HEAD_DIM]      f32: cosines of each pair, then sines
//   x       [tokens, STRIDE4 · 4]      heads side by side from column `column4` on; changed in place
//
// Algorithm: one thread turns four pairs of one head. Workgroup (g, t) owns THREADS fours of pairs of token t, from the
// g · THREADS-th of the `fours` on that each token has: HEAD_DIM / 8 a head. Heads of two parts, queries and keys, are
// `part4` columns of four apart and have `fours` / 2 each, or all are of one part.
//
// Bindings: 0 tokens, 1 table, 2 x. Constants: HEAD_DIM (a multiple of 8), STRIDE4, THREADS. Features: immediates.
// Rust caller: `gpu::ops::rotary`.

struct Token {
    id: u32,
    position_and_type: u32,
}

struct Sizes {
    /// First column of the first part, in units of four.
    column4: u32,
    /// Fours of pairs of one part of a token.
    part_fours: u32,
    /// From one part to the next, in columns of four.
    part4: u32,
    /// Fours of pairs of all parts.
    fours: u32,
}

@group(0) @binding(0) var<storage, read> tokens: array<Token>;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<Packed4>;
var<immediate> sizes: Sizes;

override HEAD_DIM: u32 = 64u;
override STRIDE4: u32 = 288u;
override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group.x * THREADS + lane;
    if index < sizes.fours {
        let half4 = HEAD_DIM / 8u;
        let part = index / sizes.part_fours;
        let of_part = index % sizes.part_fours;
        let pair4 = of_part % half4;
        let column4 = sizes.column4 + part * sizes.part4 + of_part / half4 * (2u * half4) + pair4;
        let first = group.y * STRIDE4 + column4;
        let angles = (tokens[group.y].position_and_type >> 1u) * (2u * half4) + pair4;
        let cosine = table[angles];
        let sine = table[angles + half4];
        let a = unpack4(x[first]);
        let b = unpack4(x[first + half4]);
        x[first] = pack4(a * cosine - b * sine);
        x[first + half4] = pack4(b * cosine + a * sine);
    }
}
