// GEMM for software adapters: y = epilogue(a · w + bias).
//
// Shapes and layouts are those of `gemm_tile.wgsl`.
//
// Algorithm: the same register tile of 16 rows × 4 columns to an invocation, without workgroup memory or barriers,
// which a software adapter runs by saving and restoring every lane. One lane is one group of four columns; the rows
// come from the workgroup's number, so that loads of a are one scalar load for all lanes. The sums have names, and
// their statements are written out: Mesa leaves a loop of this size alone, and an array that a loop indexes is not kept
// in registers, which costs half the speed.
// One workgroup owns rows 16 · group.y … + 15 and columns 4 · THREADS · group.x … + 4 · THREADS − 1.
//
// Bindings: 0 a, 1 w; 2 bias, 3 residual and 4 y in `epilogue.wgsl`.
// Constants: THREADS (4 · THREADS divides N), K, N, EPILOGUE. Features: immediates.
// Rust caller: `gpu::ops::gemm`.

@group(0) @binding(0) var<storage, read> a: array<Packed4>;
@group(0) @binding(1) var<storage, read> w: array<Packed4>;
override THREADS: u32 = 32u;
override K: u32 = 384u;
override N: u32 = 384u;

const ROWS: u32 = 16u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column4 = sizes.column4 + group.x * THREADS + lane;
    let row = group.y * ROWS;
    var c0 = bias[column4];
    var c1 = bias[column4];
    var c2 = bias[column4];
    var c3 = bias[column4];
    var c4 = bias[column4];
    var c5 = bias[column4];
    var c6 = bias[column4];
    var c7 = bias[column4];
    var c8 = bias[column4];
    var c9 = bias[column4];
    var c10 = bias[column4];
    var c11 = bias[column4];
    var c12 = bias[column4];
    var c13 = bias[column4];
    var c14 = bias[column4];
    var c15 = bias[column4];
    for (var k = 0u; k < K / 4u; k++) {
        let w_first = k * N + column4;
        let b0 = unpack4(w[w_first]);
        let b1 = unpack4(w[w_first + N / 4u]);
        let b2 = unpack4(w[w_first + 2u * (N / 4u)]);
        let b3 = unpack4(w[w_first + 3u * (N / 4u)]);
        let first = row * (K / 4u) + k;
        c0 = multiply(c0, unpack4(a[first]), b0, b1, b2, b3);
        c1 = multiply(c1, unpack4(a[first + K / 4u]), b0, b1, b2, b3);
        c2 = multiply(c2, unpack4(a[first + 2u * (K / 4u)]), b0, b1, b2, b3);
        c3 = multiply(c3, unpack4(a[first + 3u * (K / 4u)]), b0, b1, b2, b3);
        c4 = multiply(c4, unpack4(a[first + 4u * (K / 4u)]), b0, b1, b2, b3);
        c5 = multiply(c5, unpack4(a[first + 5u * (K / 4u)]), b0, b1, b2, b3);
        c6 = multiply(c6, unpack4(a[first + 6u * (K / 4u)]), b0, b1, b2, b3);
        c7 = multiply(c7, unpack4(a[first + 7u * (K / 4u)]), b0, b1, b2, b3);
        c8 = multiply(c8, unpack4(a[first + 8u * (K / 4u)]), b0, b1, b2, b3);
        c9 = multiply(c9, unpack4(a[first + 9u * (K / 4u)]), b0, b1, b2, b3);
        c10 = multiply(c10, unpack4(a[first + 10u * (K / 4u)]), b0, b1, b2, b3);
        c11 = multiply(c11, unpack4(a[first + 11u * (K / 4u)]), b0, b1, b2, b3);
        c12 = multiply(c12, unpack4(a[first + 12u * (K / 4u)]), b0, b1, b2, b3);
        c13 = multiply(c13, unpack4(a[first + 13u * (K / 4u)]), b0, b1, b2, b3);
        c14 = multiply(c14, unpack4(a[first + 14u * (K / 4u)]), b0, b1, b2, b3);
        c15 = multiply(c15, unpack4(a[first + 15u * (K / 4u)]), b0, b1, b2, b3);
    }
    store(row, column4, c0);
    store(row + 1u, column4, c1);
    store(row + 2u, column4, c2);
    store(row + 3u, column4, c3);
    store(row + 4u, column4, c4);
    store(row + 5u, column4, c5);
    store(row + 6u, column4, c6);
    store(row + 7u, column4, c7);
    store(row + 8u, column4, c8);
    store(row + 9u, column4, c9);
    store(row + 10u, column4, c10);
    store(row + 11u, column4, c11);
    store(row + 12u, column4, c12);
    store(row + 13u, column4, c13);
    store(row + 14u, column4, c14);
    store(row + 15u, column4, c15);
}

/// `sum + a · b`: four numbers of K of one row, times four columns.
fn multiply(
    sum: vec4<f32>,
    a_row: vec4<f32>,
    b0: vec4<f32>,
    b1: vec4<f32>,
    b2: vec4<f32>,
    b3: vec4<f32>,
) -> vec4<f32> {
    // Added to the sum last, so that a sum kept in memory is loaded late: a third faster.
    return sum + (a_row.x * b0 + a_row.y * b1 + a_row.z * b2 + a_row.w * b3);
}
