// GEMM on cooperative matrices, for adapters that report 8×8×8: y = epilogue(a · w + bias).
//
// Shapes and layouts are those of `gemm_tile.wgsl`; rows up to the next multiple of 64 may be read and written.
//
// Algorithm: four subgroups own a quadrant of 32 × 32 outputs each, as 4 × 4 accumulators of 8 × 8, named by row and
// column (no backend keeps an array that is indexed at run time in registers). Fragments of a and w are loaded from
// memory row-major (`coopLoadT`); each is used four times, and subgroups of a workgroup share them through the cache.
// At the end, sums pass through workgroup memory once for the bias and the epilogue, because cooperative matrices give
// no access to single elements. One workgroup owns rows 64 · group.y … + 63 and columns 64 · group.x … + 63.
//
// Multiplies in the storage format, f32 or f16, and sums in f32.
// Bindings: 0 a, 1 w; 2 bias, 3 residual and 4 y in `epilogue.wgsl`.
// Constants: SUBGROUP (the adapter's subgroup size, which must be fixed; never a workgroup of 32 threads on Apple GPUs,
// whose compiler breaks such kernels), K, N (64 divides it), EPILOGUE.
// Features: immediates, cooperative matrices, and SHADER_F16 for f16. Rust caller: `gpu::ops::gemm`.

@group(0) @binding(0) var<storage, read> a: array<Element>;
@group(0) @binding(1) var<storage, read> w: array<Element>;
override SUBGROUP: u32 = 32u;
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
    var c00 = coop_mat8x8<f32, C>();
    var c01 = coop_mat8x8<f32, C>();
    var c02 = coop_mat8x8<f32, C>();
    var c03 = coop_mat8x8<f32, C>();
    var c10 = coop_mat8x8<f32, C>();
    var c11 = coop_mat8x8<f32, C>();
    var c12 = coop_mat8x8<f32, C>();
    var c13 = coop_mat8x8<f32, C>();
    var c20 = coop_mat8x8<f32, C>();
    var c21 = coop_mat8x8<f32, C>();
    var c22 = coop_mat8x8<f32, C>();
    var c23 = coop_mat8x8<f32, C>();
    var c30 = coop_mat8x8<f32, C>();
    var c31 = coop_mat8x8<f32, C>();
    var c32 = coop_mat8x8<f32, C>();
    var c33 = coop_mat8x8<f32, C>();
    for (var k = 0u; k < K; k += 8u) {
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
        store(row + r, column / 4u + c4, sum + bias[column / 4u + c4]);
    }
}
