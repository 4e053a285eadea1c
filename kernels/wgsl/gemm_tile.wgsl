// GEMM, register-tiled, for GPUs: y = epilogue(a · w + bias).
//
//   a    [m, K]   row-major, K a multiple of 32; rows up to the next multiple of ROWS · ROW_TILES may be read
//   w    [K, N]   row-major (transposed from the checkpoint at load)
//   bias [N]      f32
//   y    [m, N]   columns `column4 * 4` onwards of rows of `y_stride4 * 4`; rows up to the same multiple are written
//
// Algorithm: one thread owns a register tile of ROWS rows × 4 columns. All THREADS threads of a tile have the same rows
// and each its own columns, so
//   - a is staged in workgroup memory, DEPTH columns of K at a time, and read as a broadcast; the unrolled loop has
//     constant addresses, so no address arithmetic;
//   - w is read directly from memory, each element once per tile, four columns at a time: nothing to share;
//   - one step (a run of K: 4 in f32, 8 in f16) is RUN × ROWS × 4 multiply-adds to ROWS workgroup and RUN memory loads.
// ROWS is 16; fewer make more workgroups of a small batch. With two ROW_TILES, two tiles share what they read of w.
// One workgroup owns ROWS · ROW_TILES rows from group.y and 4 · THREADS columns from group.x.
//
// Bindings: 0 a, 1 w and 5 w_next in `tile_product.wgsl`; 2 bias, 3 residual and 4 y in `epilogue.wgsl`. Constants:
// those of `tile_product.wgsl` (4 · THREADS divides N), EPILOGUE. Features: immediates. Bounds: none checked;
// `gpu::ops::gemm` says why. Rust caller: `gpu::ops::gemm`.

@compute @workgroup_size(THREADS * ROW_TILES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = place_of(lane);
    let column4 = sizes.column4 + group.x * THREADS + place.column4;
    let row = group.y * (ROWS * ROW_TILES);
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unrolled
        sums[r] = bias[column4];
    }
    tile_product(&sums, row, column4, lane, place);
    for (var r = 0u; r < ROWS; r++) { // unrolled
        store(row + place.row + r, column4, sums[r]);
    }
}
