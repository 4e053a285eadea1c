// The product of the register-tiled GEMMs: 16 rows × 4 columns of a · w to a thread. Prefixed to `gemm_tile.wgsl`,
// whose header has the algorithm, and to `gemm_tile_norm.wgsl`.
//
// Bindings: 0 a, 1 w, 5 w again, from its second row on. Constants: THREADS (a multiple of 32), K (a multiple of 32),
// N. Every thread of the workgroup must call it.

@group(0) @binding(0) var<storage, read> a: array<Run>;
@group(0) @binding(1) var<storage, read> w: array<Packed4>;
/// Row k is row k + 1 of w: two rows then share an index, which saves an addition for the second.
@group(0) @binding(5) var<storage, read> w_next: array<Packed4>;

override THREADS: u32 = 96u;
override K: u32 = 384u;
override N: u32 = 384u;

const ROWS: u32 = 16u;
/// Steps between two barriers: 32 numbers of K.
const STEPS: u32 = 32u / RUN;

/// The staged part of a: `[STEPS, ROWS]`.
var<workgroup> tile: array<Run, STEPS * ROWS>;

/// Adds rows `row` to `row + 15` of a times columns `4 · column4` to `4 · column4 + 3` of w.
fn tile_product(sums: ptr<function, array<vec4<f32>, ROWS>>, row: u32, column4: u32, lane: u32) {
    // THREADS is a multiple of STEPS: a thread stages the same step of every THREADS / STEPS-th row.
    let staged = lane % STEPS * ROWS + lane / STEPS;
    var a_index = (row + lane / STEPS) * (K / RUN) + lane % STEPS;
    var w_index = column4;
    for (var k = 0u; k < K / RUN; k += STEPS) {
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r += THREADS / STEPS) {
            // The first condition is constant: false only if THREADS does not divide the tile.
            if r + THREADS / STEPS <= ROWS || r + lane / STEPS < ROWS {
                tile[staged + r] = a[a_index + r * (K / RUN)];
            }
        }
        a_index += STEPS;
        workgroupBarrier();
        // Unrolled by hand: compilers do not unroll a loop of this size and then compute every address in it.
        step(sums, 0u, w_index);
        step(sums, 1u, w_index + RUN * (N / 4u));
        step(sums, 2u, w_index + 2u * RUN * (N / 4u));
        step(sums, 3u, w_index + 3u * RUN * (N / 4u));
        if STEPS == 8u {
            step(sums, 4u, w_index + 4u * RUN * (N / 4u));
            step(sums, 5u, w_index + 5u * RUN * (N / 4u));
            step(sums, 6u, w_index + 6u * RUN * (N / 4u));
            step(sums, 7u, w_index + 7u * RUN * (N / 4u));
        }
        w_index += STEPS * RUN * (N / 4u);
    }
}

/// One run of K for all rows: `w_index` is that of its first row of w.
fn step(sums: ptr<function, array<vec4<f32>, ROWS>>, index: u32, w_index: u32) {
    var b: array<Packed4, RUN>;
    for (var k = 0u; k < RUN; k += 2u) {
        b[k] = w[w_index + k * (N / 4u)];
        if RUN == 4u {
            b[k + 1u] = w_next[w_index + k * (N / 4u)];
        } else {
            // In f16 this would save as much, but cost an M1 64 of 576 threads in flight.
            b[k + 1u] = w[w_index + (k + 1u) * (N / 4u)];
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        (*sums)[r] = multiply_run((*sums)[r], tile[index * ROWS + r], b);
    }
}
