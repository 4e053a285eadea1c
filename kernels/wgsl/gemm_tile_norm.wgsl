// GEMM with residual and LayerNorm, where one workgroup holds whole rows: y = norm(a · w + bias + residual).
//
//   a         [m, K]   row-major, K a multiple of 32; rows up to the next multiple of ROWS may be read
//   w         [K, N]   row-major, N = 4 · THREADS: the padded hidden size
//   params    [3, N]   f32: the GEMM's bias, the norm's weight, the norm's bias; zeros past HIDDEN
//   residual  [m, N]
//   y         [m, N]   rows up to the same multiple are written; not the buffer of residual
//
// Algorithm: the product of `gemm_tile.wgsl`. Each thread then has four columns of all ROWS rows, so a row's sum is one
// partial sum from each thread, through workgroup memory: six threads' worth of additions a row where THREADS is 96.
// The mean comes first, then the variance of what is left of it. It saves a LayerNorm's read, write and dispatch.
// One workgroup owns rows ROWS · group.y … + ROWS − 1.
//
// Bindings: 0 a, 1 w and 5 w_next in `tile_product.wgsl`; 2 params, 3 residual, 4 y. Constants: those of
// `tile_product.wgsl` (ROW_TILES is 1), HIDDEN (columns without padding: a multiple of 4), EPS. Rust caller:
// `gpu::ops::gemm_norm`.

@group(0) @binding(2) var<storage, read> params: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<Packed4>;
@group(0) @binding(4) var<storage, read_write> y: array<Packed4>;

override HIDDEN: u32 = 384u;
override EPS: f32 = 1e-12;

/// A partial sum of each row from each thread. A row has an odd stride, so that threads that each sum a row read
/// different banks.
var<workgroup> partial: array<f32, ROWS * (THREADS + 1u)>;
/// The sum of each row.
var<workgroup> totals: array<f32, ROWS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * ROWS;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unrolled
        sums[r] = params[lane];
    }
    tile_product(&sums, row, lane, lane, place_of(lane));
    for (var r = 0u; r < ROWS; r++) { // unrolled
        sums[r] += unpack4(residual[(row + r) * (N / 4u) + lane]);
        partial[r * (THREADS + 1u) + lane] = dot(sums[r], vec4(1.0));
    }
    row_totals(lane);
    let kept = lane < HIDDEN / 4u;
    for (var r = 0u; r < ROWS; r++) { // unrolled
        sums[r] -= totals[r] / f32(HIDDEN);
        partial[r * (THREADS + 1u) + lane] = select(0.0, dot(sums[r], sums[r]), kept);
    }
    row_totals(lane);
    let weight = params[N / 4u + lane];
    let norm_bias = params[N / 2u + lane];
    for (var r = 0u; r < ROWS; r++) { // unrolled
        let scale = inverseSqrt(totals[r] / f32(HIDDEN) + EPS);
        y[(row + r) * (N / 4u) + lane] = pack4(sums[r] * scale * weight + norm_bias);
    }
}

/// Sums `partial` over the threads of each row: each of the first ROWS threads sums one row.
fn row_totals(lane: u32) {
    workgroupBarrier();
    if lane < ROWS {
        var total = 0.0;
        for (var thread = 0u; thread < THREADS; thread++) {
            total += partial[lane * (THREADS + 1u) + thread];
        }
        totals[lane] = total;
    }
    workgroupBarrier();
}
