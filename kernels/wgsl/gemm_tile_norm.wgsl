// GEMM with residual and LayerNorm, where one workgroup holds whole rows: y = norm(a · w + bias + residual).
//
//   a         [m, K]   row-major, K a multiple of 32; rows up to the next multiple of 16 may be read
//   w         [K, N]   row-major, N = 4 · THREADS: the padded hidden size
//   params    [3, N]   f32: the GEMM's bias, the norm's weight, the norm's bias; zeros past HIDDEN
//   residual  [m, N]
//   y         [m, N]   rows up to the next multiple of 16 are written; not the buffer of residual
//
// Algorithm: the product of `gemm_tile.wgsl`. Each thread then has four columns of all 16 rows, so a row's sum is one
// partial sum from each thread, through workgroup memory: six threads' worth of additions a row where THREADS is 96.
// The mean comes first, then the variance of what is left of it. It saves a LayerNorm's read, write and dispatch.
// One workgroup owns rows 16 · group.y … + 15.
//
// Bindings: 0 a, 1 w and 5 w_next in `tile_product.wgsl`; 2 params, 3 residual, 4 y. Constants: THREADS, K, N, HIDDEN
// (columns without padding: a multiple of 4), EPS. Rust caller: `gpu::ops::gemm_norm`.

@group(0) @binding(2) var<storage, read> params: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<Packed4>;
@group(0) @binding(4) var<storage, read_write> y: array<Packed4>;

override HIDDEN: u32 = 384u;
override EPS: f32 = 1e-12;

/// A partial sum of each row from each thread.
var<workgroup> partial: array<f32, ROWS * THREADS>;
/// The sum of each row.
var<workgroup> totals: array<f32, ROWS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * ROWS;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        sums[r] = params[lane];
    }
    tile_product(&sums, row, lane, lane);
    for (var r = 0u; r < ROWS; r++) {
        sums[r] += unpack4(residual[(row + r) * (N / 4u) + lane]);
        partial[r * THREADS + lane] = dot(sums[r], vec4(1.0));
    }
    row_totals(lane);
    let kept = lane < HIDDEN / 4u;
    for (var r = 0u; r < ROWS; r++) {
        sums[r] -= totals[r] / f32(HIDDEN);
        partial[r * THREADS + lane] = select(0.0, dot(sums[r], sums[r]), kept);
    }
    row_totals(lane);
    let weight = params[N / 4u + lane];
    let norm_bias = params[N / 2u + lane];
    for (var r = 0u; r < ROWS; r++) {
        let scale = inverseSqrt(totals[r] / f32(HIDDEN) + EPS);
        y[(row + r) * (N / 4u) + lane] = pack4(sums[r] * scale * weight + norm_bias);
    }
}

/// Sums `partial` over the threads of each row: each of the first 16 threads sums one row.
fn row_totals(lane: u32) {
    workgroupBarrier();
    if lane < ROWS {
        var total = 0.0;
        for (var thread = 0u; thread < THREADS; thread++) {
            total += partial[lane * THREADS + thread];
        }
        totals[lane] = total;
    }
    workgroupBarrier();
}
