// Packed attention with online softmax, for software adapters: context = softmax(q · kᵀ) · v within each row, per head.
//
// Formula, shapes, layouts, bindings and immediates are those of `attention.wgsl`.
//
// Algorithm: one lane owns one query of one head, as there, but keys and values are read straight from memory, at
// addresses that are the same for all lanes: no workgroup memory and no barriers, which a software adapter runs by saving
// and restoring every lane. KEYS keys share one move of the running maximum.
// One workgroup owns THREADS queries of row tile `group.x`, outputs OUTPUT_DIM · group.y … of the heads side by side.
//
// Keys past the row's end read its last key and weigh exp2(−1e30) = 0: nothing of another row is ever read.
//
// Constants: HEAD_DIM, OUTPUT_DIM (prefixed by the caller), THREADS (queries to a tile). Features: immediates.
// Rust caller: `gpu::ops::attention`.

struct Tile {
    /// Row of `q` and `context` of the first query.
    query_start: u32,
    /// Queries: 1 to THREADS.
    queries: u32,
    /// Row of `kv` of the first key.
    key_start: u32,
    /// Keys: at least 1.
    keys: u32,
}

struct Sizes {
    /// Row strides and first columns, in runs.
    q_stride: u32,
    kv_stride: u32,
    key_column: u32,
    value_column: u32,
    /// Row stride of `context`, in units of four.
    context_stride4: u32,
}

@group(0) @binding(0) var<storage, read> q: array<Run>;
@group(0) @binding(1) var<storage, read> kv: array<Run>;
@group(0) @binding(2) var<storage, read> tiles: array<Tile>;
@group(0) @binding(3) var<storage, read_write> context: array<Packed4>;
var<immediate> sizes: Sizes;

override THREADS: u32 = 8u;

/// Keys that share one move of the maximum: what Mesa still unrolls.
const KEYS: u32 = 32u / RUN;
const KEY_RUNS: u32 = HEAD_DIM / RUN;
const VALUE_RUNS: u32 = OUTPUT_DIM / RUN;
const SPLITS: u32 = HEAD_DIM / OUTPUT_DIM;
const MASKED: f32 = -1e30;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tiles[group.x];
    let head = group.y / SPLITS;
    let q_index = (tile.query_start + min(lane, tile.queries - 1u)) * sizes.q_stride + head * KEY_RUNS;
    let key_index = sizes.key_column + head * KEY_RUNS;
    let value_index = sizes.value_column + group.y * VALUE_RUNS;

    var sums: array<vec4<f32>, OUTPUT_DIM / 4u>;
    var total = 0.0;
    var maximum = MASKED;
    for (var first = 0u; first < tile.keys; first += KEYS) {
        var scores: array<f32, KEYS>;
        var query: array<Run, KEY_RUNS>;
        for (var c = 0u; c < KEY_RUNS; c++) {
            query[c] = q[q_index + c];
            for (var j = 0u; j < KEYS; j++) {
                let key = tile.key_start + min(first + j, tile.keys - 1u);
                scores[j] = dot_run(scores[j], query[c], kv[key * sizes.kv_stride + key_index + c]);
            }
        }
        var next = maximum;
        for (var j = 0u; j < KEYS; j++) {
            scores[j] = select(MASKED, scores[j], first + j < tile.keys);
            next = max(next, scores[j]);
        }
        let rescale = exp2(maximum - next);
        maximum = next;
        total *= rescale;
        for (var c = 0u; c < OUTPUT_DIM / 4u; c++) {
            sums[c] *= rescale;
        }
        for (var j = 0u; j < KEYS; j++) {
            scores[j] = exp2(scores[j] - maximum);
            total += scores[j];
        }
        // Column by column: a sum takes all keys before it goes back to memory.
        for (var c = 0u; c < VALUE_RUNS; c++) {
            for (var j = 0u; j < KEYS; j++) {
                let key = tile.key_start + min(first + j, tile.keys - 1u);
                let value = kv[key * sizes.kv_stride + value_index + c];
                for (var part = 0u; part < RUN4; part++) {
                    sums[c * RUN4 + part] += scores[j] * run_part(value, part);
                }
            }
        }
    }
    if lane < tile.queries {
        let index = (tile.query_start + lane) * sizes.context_stride4 + group.y * (OUTPUT_DIM / 4u);
        for (var c = 0u; c < OUTPUT_DIM / 4u; c++) {
            context[index + c] = pack4(sums[c] / total);
        }
    }
}
