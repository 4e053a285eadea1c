// GEMM for software adapters: y = epilogue(a · w + bias).
//
// Shapes and layouts are those of `gemm_tile.wgsl`.
//
// Algorithm: the same register tile of 16 rows × 4 columns to an invocation, without workgroup memory or barriers,
// which a software adapter runs by saving and restoring every lane. One lane is one group of four columns; the rows
// come from the workgroup's number, so that loads of a are one scalar load for all lanes. Loops over sums are written
// out: Mesa leaves a loop of this size alone, and an array that a loop indexes is not kept in registers, which costs
// half the speed.
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
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unrolled
        sums[r] = bias[column4];
    }
    for (var k = 0u; k < K / 4u; k++) {
        let w_first = k * N + column4;
        let b0 = unpack4(w[w_first]);
        let b1 = unpack4(w[w_first + N / 4u]);
        let b2 = unpack4(w[w_first + 2u * (N / 4u)]);
        let b3 = unpack4(w[w_first + 3u * (N / 4u)]);
        let first = row * (K / 4u) + k;
        for (var r = 0u; r < ROWS; r++) { // unrolled
            sums[r] = multiply(sums[r], unpack4(a[first + r * (K / 4u)]), b0, b1, b2, b3);
        }
    }
    for (var r = 0u; r < ROWS; r++) { // unrolled
        store(row + r, column4, sums[r]);
    }
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
