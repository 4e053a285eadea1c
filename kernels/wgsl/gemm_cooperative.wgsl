// GEMM on cooperative matrices, for adapters that report 8×8×8: y = epilogue(a · w + bias).
//
// Shapes and layouts are those of `gemm_tile.wgsl`; rows up to the next multiple of 64 may be read and written.
//
// Algorithm: four subgroups own a quadrant of 32 × 32 outputs each, as 4 × 4 accumulators of 8 × 8 named by row and
// column (an array of them would be indexed at run time, which no backend keeps in registers). Fragments of a and w are
// loaded from memory row-major (`coopLoadT`); a fragment is used four times, and subgroups of one workgroup share
// theirs through the cache. Sums start as the bias, out of workgroup memory, and pass through it again at the end to
// meet the epilogue: cooperative matrices give no access to single elements.
// One workgroup owns rows 64 · group.y … + 63 and columns 64 · group.x … + 63.
//
// Multiplies in the storage format, f32 or f16, and sums in f32.
// Bindings: 0 a, 1 w; 2 bias, 3 residual and 4 y in `epilogue.wgsl`.
// Constants: SUBGROUP (the adapter's subgroup size), BARRIER (1: one in each step of K), K, N (64 divides it), EPILOGUE.
// Features: immediates, cooperative matrices, and SHADER_F16 for f16. Rust caller: `gpu::ops::gemm`.

@group(0) @binding(0) var<storage, read> a: array<Element>;
@group(0) @binding(1) var<storage, read> w: array<Element>;
override SUBGROUP: u32 = 32u;
override BARRIER: u32 = 0u;
override K: u32 = 384u;
override N: u32 = 384u;

const ROWS: u32 = 64u;
const COLUMNS: u32 = 64u;

/// The workgroup's outputs before the epilogue: `[ROWS, COLUMNS]`.
var<workgroup> sums: array<f32, ROWS * COLUMNS>;

@compute @workgroup_size(4u * SUBGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let subgroup = lane / SUBGROUP;
    let quadrant_row = subgroup / 2u * 32u;
    let quadrant_column = subgroup % 2u * 32u;
    let row = group.y * ROWS;
    let column = sizes.column4 * 4u + group.x * COLUMNS;
    let a_index = (row + quadrant_row) * K;
    let w_index = column + quadrant_column;
    // Every sum starts as its column's bias, loaded as any other matrix: what a constructor leaves in one is not written
    // down anywhere. Eight rows of the bias lie in workgroup memory for it.
    for (var i = lane; i < 8u * COLUMNS / 4u; i += 4u * SUBGROUP) {
        let c4 = i % (COLUMNS / 4u);
        let numbers = bias[column / 4u + c4];
        for (var part = 0u; part < 4u; part++) { // unrolled
            sums[i * 4u + part] = numbers[part];
        }
    }
    workgroupBarrier();
    var c00 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 0u * 8u], COLUMNS);
    var c01 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 1u * 8u], COLUMNS);
    var c02 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 2u * 8u], COLUMNS);
    var c03 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 3u * 8u], COLUMNS);
    var c10 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 0u * 8u], COLUMNS);
    var c11 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 1u * 8u], COLUMNS);
    var c12 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 2u * 8u], COLUMNS);
    var c13 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 3u * 8u], COLUMNS);
    var c20 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 0u * 8u], COLUMNS);
    var c21 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 1u * 8u], COLUMNS);
    var c22 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 2u * 8u], COLUMNS);
    var c23 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 3u * 8u], COLUMNS);
    var c30 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 0u * 8u], COLUMNS);
    var c31 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 1u * 8u], COLUMNS);
    var c32 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 2u * 8u], COLUMNS);
    var c33 = coopLoadT<coop_mat8x8<f32, C>>(&sums[quadrant_column + 3u * 8u], COLUMNS);
    workgroupBarrier();
    for (var k = 0u; k < K; k += 8u) {
        // No memory needs it: it keeps the subgroups together, so that they find each other's loads in the cache.
        if BARRIER == 1u {
            workgroupBarrier();
        }
        let a0 = coopLoadT<coop_mat8x8<Element, A>>(&a[a_index + 0u * 8u * K + k], K);
        let a1 = coopLoadT<coop_mat8x8<Element, A>>(&a[a_index + 1u * 8u * K + k], K);
        let a2 = coopLoadT<coop_mat8x8<Element, A>>(&a[a_index + 2u * 8u * K + k], K);
        let a3 = coopLoadT<coop_mat8x8<Element, A>>(&a[a_index + 3u * 8u * K + k], K);
        let b0 = coopLoadT<coop_mat8x8<Element, B>>(&w[w_index + k * N + 0u * 8u], N);
        let b1 = coopLoadT<coop_mat8x8<Element, B>>(&w[w_index + k * N + 1u * 8u], N);
        let b2 = coopLoadT<coop_mat8x8<Element, B>>(&w[w_index + k * N + 2u * 8u], N);
        let b3 = coopLoadT<coop_mat8x8<Element, B>>(&w[w_index + k * N + 3u * 8u], N);
        c00 = coopMultiplyAdd(a0, b0, c00);
        c01 = coopMultiplyAdd(a0, b1, c01);
        c02 = coopMultiplyAdd(a0, b2, c02);
        c03 = coopMultiplyAdd(a0, b3, c03);
        c10 = coopMultiplyAdd(a1, b0, c10);
        c11 = coopMultiplyAdd(a1, b1, c11);
        c12 = coopMultiplyAdd(a1, b2, c12);
        c13 = coopMultiplyAdd(a1, b3, c13);
        c20 = coopMultiplyAdd(a2, b0, c20);
        c21 = coopMultiplyAdd(a2, b1, c21);
        c22 = coopMultiplyAdd(a2, b2, c22);
        c23 = coopMultiplyAdd(a2, b3, c23);
        c30 = coopMultiplyAdd(a3, b0, c30);
        c31 = coopMultiplyAdd(a3, b1, c31);
        c32 = coopMultiplyAdd(a3, b2, c32);
        c33 = coopMultiplyAdd(a3, b3, c33);
    }
    let sums_index = quadrant_row * COLUMNS + quadrant_column;
    coopStoreT(c00, &sums[sums_index + 0u * 8u * COLUMNS + 0u * 8u], COLUMNS);
    coopStoreT(c01, &sums[sums_index + 0u * 8u * COLUMNS + 1u * 8u], COLUMNS);
    coopStoreT(c02, &sums[sums_index + 0u * 8u * COLUMNS + 2u * 8u], COLUMNS);
    coopStoreT(c03, &sums[sums_index + 0u * 8u * COLUMNS + 3u * 8u], COLUMNS);
    coopStoreT(c10, &sums[sums_index + 1u * 8u * COLUMNS + 0u * 8u], COLUMNS);
    coopStoreT(c11, &sums[sums_index + 1u * 8u * COLUMNS + 1u * 8u], COLUMNS);
    coopStoreT(c12, &sums[sums_index + 1u * 8u * COLUMNS + 2u * 8u], COLUMNS);
    coopStoreT(c13, &sums[sums_index + 1u * 8u * COLUMNS + 3u * 8u], COLUMNS);
    coopStoreT(c20, &sums[sums_index + 2u * 8u * COLUMNS + 0u * 8u], COLUMNS);
    coopStoreT(c21, &sums[sums_index + 2u * 8u * COLUMNS + 1u * 8u], COLUMNS);
    coopStoreT(c22, &sums[sums_index + 2u * 8u * COLUMNS + 2u * 8u], COLUMNS);
    coopStoreT(c23, &sums[sums_index + 2u * 8u * COLUMNS + 3u * 8u], COLUMNS);
    coopStoreT(c30, &sums[sums_index + 3u * 8u * COLUMNS + 0u * 8u], COLUMNS);
    coopStoreT(c31, &sums[sums_index + 3u * 8u * COLUMNS + 1u * 8u], COLUMNS);
    coopStoreT(c32, &sums[sums_index + 3u * 8u * COLUMNS + 2u * 8u], COLUMNS);
    coopStoreT(c33, &sums[sums_index + 3u * 8u * COLUMNS + 3u * 8u], COLUMNS);
    workgroupBarrier();
    for (var i = lane; i < ROWS * COLUMNS / 4u; i += 4u * SUBGROUP) {
        let r = i / (COLUMNS / 4u);
        let c4 = i % (COLUMNS / 4u);
        let first = i * 4u;
        let sum = vec4(sums[first], sums[first + 1u], sums[first + 2u], sums[first + 3u]);
        store(row + r, column / 4u + c4, sum);
    }
}
