// Rotates and stores a GEMM's sums, of queries, keys and values side by side: queries and keys are turned by the angles
// of their token's position, values are stored as they are. Prefixed to a GEMM kernel in place of `epilogue.wgsl`, whose
// names it has.
//
//   w, bias  of every four columns of queries and keys, the first two are turned with the last two, so that one thread
//            has both: `gpu::columns` packs them in this order
//   tokens   [m]                    position · 2 + token type in the second word: `embed.wgsl`
//   table    [positions, HEAD_DIM]  f32: of every two pairs of a head, two cosines, then two sines
//   y        [m, N]                 in the columns' order; rows past the batch are not written
//
// Bindings: 2 bias, 3 tokens, 4 y, 6 table. Constants: HEAD_DIM (a multiple of 8), PART4 (columns of queries, as many of
// keys, in units of four). Rust caller: `gpu::ops::gemm_rotary`.

struct Token {
    id: u32,
    position_and_type: u32,
}

struct Sizes {
    /// First column to compute, in units of four: a slice of w, bias and y.
    column4: u32,
    /// Row stride of y, in units of four.
    y_stride4: u32,
    /// Rows of the batch.
    rows: u32,
}

@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> tokens: array<Token>;
@group(0) @binding(4) var<storage, read_write> y: array<Packed4>;
@group(0) @binding(6) var<storage, read> table: array<vec4<f32>>;
var<immediate> sizes: Sizes;

override HEAD_DIM: u32 = 64u;
override PART4: u32 = 96u;

/// Stores four columns of a row, whose sums hold the bias.
fn store(row: u32, column4: u32, sum: vec4<f32>) {
    if row >= sizes.rows {
        return;
    }
    var turned = sum;
    if column4 < 2u * PART4 {
        let position = tokens[row].position_and_type >> 1u;
        let angles = table[position * (HEAD_DIM / 4u) + column4 % PART4 % (HEAD_DIM / 4u)];
        let cosine = angles.xy;
        let sine = angles.zw;
        // Rounded as if stored first. On average f16 scores are as far off without it; one test model's are further.
        let a = unpack4(pack4(sum));
        turned = vec4(a.xy * cosine - a.zw * sine, a.zw * cosine + a.xy * sine);
    }
    y[row * sizes.y_stride4 + column4] = pack4(turned);
}
