// GEMM, register-tiled, for GPUs: y = epilogue(a · w + bias).
//
//   a    [m, K]   row-major, K a multiple of 32; rows up to the next multiple of 16 may be read
//   w    [K, N]   row-major (transposed from the checkpoint at load)
//   bias [N]      f32
//   y    [m, N]   columns `column4 * 4` onwards of rows of `y_stride4 * 4`; rows up to the next multiple of 16 are written
//
// Algorithm: one thread owns a register tile of 16 rows × 4 columns. Every thread of a workgroup has the same rows and
// its own columns, so
//   - a is staged in workgroup memory, 32 columns of K at a time, and read as a broadcast; the unrolled loop has
//     constant addresses, so no address arithmetic;
//   - w is read directly from memory, each element once per workgroup, four columns at a time: nothing to share;
//   - one step (a run of K: 4 in f32, 8 in f16) is RUN × 64 multiply-adds to 16 workgroup and RUN memory loads.
// One workgroup owns rows 16 · group.y … + 15 and columns 4 · THREADS · group.x … + 4 · THREADS − 1.
//
// Bindings: 0 a, 1 w and 5 w_next in `tile_product.wgsl`; 2 bias, 3 residual and 4 y in `epilogue.wgsl`. Constants:
// THREADS (a multiple of 32; 4 · THREADS divides N), K, N, EPILOGUE. Features: immediates. Bounds: none checked;
// `gpu::ops::gemm` says why. Rust caller: `gpu::ops::gemm`.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column4 = sizes.column4 + group.x * THREADS + lane;
    let row = group.y * ROWS;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        sums[r] = bias[column4];
    }
    tile_product(&sums, row, column4, lane);
    for (var r = 0u; r < ROWS; r++) {
        store(row + r, column4, sums[r]);
    }
}
