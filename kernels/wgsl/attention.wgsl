// Packed attention with online softmax, for GPUs: context = softmax(q · kᵀ) · v within each row, for each head.
//
//   q       [queries, q_stride]   head h in columns h · HEAD_DIM …; scaled by log2(e) / √HEAD_DIM in its weights at load
//   kv      [tokens, kv_stride]   keys from column `key_column`, values from column `value_column`, heads side by side
//   tiles   [tiles]               host-built: which queries of which row (see `Tile`)
//   context [queries, context_stride]
//
// Algorithm: one thread owns one query of one head. Keys and values pass through workgroup memory KEYS at a time, read
// as broadcasts from constant addresses. Scores of a whole key tile are taken first, the running maximum moves once per
// tile, and the sums are rescaled once per tile: per key, HEAD_DIM multiply-adds for the score, OUTPUT_DIM for the sums
// and one exp2. A query is read anew for each key tile (one load per key), so that wide heads fit in registers. Above 64
// a head's output is split over two workgroups (OUTPUT_DIM = HEAD_DIM / 2), which both take the scores.
// One workgroup owns THREADS queries of row tile `group.x`, outputs OUTPUT_DIM · group.y … of the heads side by side.
//
// Keys past the row's end read its last key and weigh exp2(−1e30) = 0: nothing of another row is ever read, so a row's
// bits depend on no neighbour. No infinities: Metal's fast mathematics may not keep them.
//
// Bindings: 0 q, 1 kv, 2 tiles, 3 context.
// Constants: HEAD_DIM (a multiple of 8, prefixed by the caller with OUTPUT_DIM: they size register arrays, which no
// override can), THREADS (queries to a tile). Features: immediates. Bounds: none checked; see `gpu::ops::attention`.
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

override THREADS: u32 = 64u;

const KEYS: u32 = 16u;
const KEY_RUNS: u32 = HEAD_DIM / RUN;
const VALUE_RUNS: u32 = OUTPUT_DIM / RUN;
const SPLITS: u32 = HEAD_DIM / OUTPUT_DIM;
const MASKED: f32 = -1e30;

/// `[KEYS, KEY_RUNS]` and `[KEYS, VALUE_RUNS]`.
var<workgroup> key_tile: array<Run, KEYS * KEY_RUNS>;
var<workgroup> value_tile: array<Run, KEYS * VALUE_RUNS>;

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
        workgroupBarrier();
        for (var i = 0u; i < KEYS * KEY_RUNS; i += THREADS) {
            let slot = i + lane;
            if slot < KEYS * KEY_RUNS {
                let key = tile.key_start + min(first + slot / KEY_RUNS, tile.keys - 1u);
                key_tile[slot] = kv[key * sizes.kv_stride + key_index + slot % KEY_RUNS];
            }
        }
        for (var i = 0u; i < KEYS * VALUE_RUNS; i += THREADS) {
            let slot = i + lane;
            if slot < KEYS * VALUE_RUNS {
                let key = tile.key_start + min(first + slot / VALUE_RUNS, tile.keys - 1u);
                value_tile[slot] = kv[key * sizes.kv_stride + value_index + slot % VALUE_RUNS];
            }
        }
        workgroupBarrier();

        var scores: array<f32, KEYS>;
        var query: array<Run, KEY_RUNS>;
        for (var c = 0u; c < KEY_RUNS; c++) {
            query[c] = q[q_index + c];
            for (var j = 0u; j < KEYS; j++) {
                scores[j] = dot_run(scores[j], query[c], key_tile[j * KEY_RUNS + c]);
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
            let weight = exp2(scores[j] - maximum);
            total += weight;
            for (var c = 0u; c < VALUE_RUNS; c++) {
                let value = value_tile[j * VALUE_RUNS + c];
                for (var part = 0u; part < RUN4; part++) {
                    sums[c * RUN4 + part] += weight * run_part(value, part);
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
