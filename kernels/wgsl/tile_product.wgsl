// The product of the register-tiled GEMMs: ROWS rows × 4 columns of a · w to a thread. Prefixed to `gemm_tile.wgsl`,
// whose header has the algorithm, and to `gemm_tile_norm.wgsl`.
//
// A workgroup has ROW_TILES tiles of ROWS rows, one below the other, of THREADS threads each, side by side. Threads
// below each other have the same columns, so that they share what they read of w.
//
// Bindings: 0 a, 1 w, 5 w again, from its second row on. Constants: THREADS and K (multiples of 32), N. ROWS, DEPTH (16
// or 32 numbers of K between two barriers) and ROW_TILES size arrays and loops over registers: `gpu::shader` writes them
// in front. Every thread of the workgroup must call `tile_product`.

@group(0) @binding(0) var<storage, read> a: array<Run>;
@group(0) @binding(1) var<storage, read> w: array<Packed4>;
/// Row k is row k + 1 of w: two rows then share an index, which saves an addition for the second.
@group(0) @binding(5) var<storage, read> w_next: array<Packed4>;

override THREADS: u32 = 96u;
override K: u32 = 384u;
override N: u32 = 384u;

/// Steps between two barriers, of one run of K each.
const STEPS: u32 = DEPTH / RUN;

/// The staged part of a: `[STEPS, ROW_TILES * ROWS]`.
var<workgroup> tile: array<Run, STEPS * ROW_TILES * ROWS>;

/// A thread's place in its workgroup: first row, and column of four. With one tile both are known when the pipeline is
/// made, or are the lane itself.
struct Place {
    row: u32,
    column4: u32,
}

fn place_of(lane: u32) -> Place {
    if ROW_TILES == 1u {
        return Place(0u, lane);
    }
    return Place(lane / THREADS * ROWS, lane % THREADS);
}

/// Adds to the sums: ROWS rows of a, from `place.row` rows after the workgroup's `row`, times columns `4 · column4` to
/// `4 · column4 + 3` of w.
fn tile_product(sums: ptr<function, array<vec4<f32>, ROWS>>, row: u32, column4: u32, lane: u32, place: Place) {
    // The threads are a multiple of STEPS: each stages the same step of every `staged_rows`-th row.
    let staged_rows = THREADS * ROW_TILES / STEPS;
    let staged = lane % STEPS * (ROW_TILES * ROWS) + lane / STEPS;
    var a_index = (row + lane / STEPS) * (K / RUN) + lane % STEPS;
    var w_index = column4;
    for (var k = 0u; k < K / RUN; k += STEPS) {
        workgroupBarrier();
        for (var r = 0u; r < ROW_TILES * ROWS; r += staged_rows) {
            // The first condition is constant: false only if `staged_rows` does not divide the tile.
            if r + staged_rows <= ROW_TILES * ROWS || r + lane / STEPS < ROW_TILES * ROWS {
                tile[staged + r] = a[a_index + r * (K / RUN)];
            }
        }
        a_index += STEPS;
        workgroupBarrier();
        // Written out, addresses are constants. One step is one run of K for all rows.
        for (var s = 0u; s < STEPS; s++) { // unrolled
            let w_first = w_index + s * RUN * (N / 4u);
            var b: array<Packed4, RUN>;
            for (var i = 0u; i < RUN; i += 2u) { // unrolled
                b[i] = w[w_first + i * (N / 4u)];
                if RUN == 4u {
                    b[i + 1u] = w_next[w_first + i * (N / 4u)];
                } else {
                    // In f16 this would save as much, but cost an M1 64 of 576 threads in flight.
                    b[i + 1u] = w[w_first + (i + 1u) * (N / 4u)];
                }
            }
            for (var r = 0u; r < ROWS; r++) { // unrolled
                (*sums)[r] = multiply_run((*sums)[r], tile[s * (ROW_TILES * ROWS) + r + place.row], b);
            }
        }
        w_index += STEPS * RUN * (N / 4u);
    }
}
