// GEMM for software adapters: y = epilogue(a · w + bias).
//
// Shapes, layouts, bindings and immediates are those of `gemm_tile.wgsl`.
//
// Algorithm: a register tile of 8 rows × 4 columns to an invocation, without workgroup memory or barriers, which
// a software adapter runs by saving and restoring every lane. One lane is one group of four columns; the rows come from
// the workgroup's number, so that loads of a are one scalar load for all lanes. More rows would share each load of w
// further, but their sums no longer stay in the processor's registers: 16 rows are a third slower.
// One workgroup owns rows 8 · group.y … + 7 and columns 4 · THREADS · group.x … + 4 · THREADS − 1.
//
// Constants: THREADS (4 · THREADS divides N), K, N, EPILOGUE. Features: immediates.
// Rust caller: `gpu::ops::gemm`.

struct Sizes {
    /// First column to compute, in units of four: a slice of w, bias and y.
    column4: u32,
    /// Row stride of y and residual, in units of four.
    y_stride4: u32,
}

@group(0) @binding(0) var<storage, read> a: array<Run>;
@group(0) @binding(1) var<storage, read> w: array<Packed4>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<Packed4>;
@group(0) @binding(4) var<storage, read_write> y: array<Packed4>;
var<immediate> sizes: Sizes;

override THREADS: u32 = 32u;
override K: u32 = 384u;
override N: u32 = 384u;

const ROWS: u32 = 8u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column4 = sizes.column4 + group.x * THREADS + lane;
    let row = group.y * ROWS;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        sums[r] = bias[column4];
    }
    for (var k = 0u; k < K / RUN; k++) {
        var b: array<Packed4, RUN>;
        for (var j = 0u; j < RUN; j++) {
            b[j] = w[(k * RUN + j) * (N / 4u) + column4];
        }
        for (var r = 0u; r < ROWS; r++) {
            sums[r] = multiply_run(sums[r], a[(row + r) * (K / RUN) + k], b);
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        let index = (row + r) * sizes.y_stride4 + column4;
        var added = vec4(0.0);
        if EPILOGUE == EPILOGUE_RESIDUAL {
            added = unpack4(residual[index]);
        }
        y[index] = pack4(epilogue(sums[r], added));
    }
}
