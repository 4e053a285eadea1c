// Packed attention with online softmax, for GPUs: context = softmax(q · kᵀ) · v within each row, for each head.
//
//   q            [queries, q_stride]   head h in columns h · HEAD_DIM …; its weights hold the scale log2(e) / √HEAD_DIM
//   kv           [tokens, kv_stride]   keys from column `key_column`, values from `value_column`, heads side by side
//   query_tiles  [tiles]               made by the host: which queries of which row
//   context      [queries, context_stride]
//
// Algorithm: one thread owns one query of one head. Keys and values pass through workgroup memory KEYS at a time, read
// as broadcasts from constant addresses. Scores of a whole key tile are taken first, the running maximum moves once per
// tile, and the sums are rescaled once per tile: per key, HEAD_DIM multiply-adds for the score, OUTPUT_DIM for the sums
// and one exp2. A query is read anew for each key tile (one load per key), so that wide heads fit in registers. Above
// 64 a head's output is split over two workgroups (OUTPUT_DIM = HEAD_DIM / 2), which both take the scores.
// One workgroup owns THREADS queries of query tile `group.x`, outputs OUTPUT_DIM · group.y … of the heads side by side.
//
// Keys outside a query's window or past the row's end weigh exp2(−1e30) = 0, so a row's bits depend on no neighbour.
// Blocks of KEYS keys that no query of the tile attends to are not read.
//
// Bindings and constants: `attention_query.wgsl`. Features: immediates. Bounds: none checked; see
// `gpu::ops::attention`.
// Rust caller: `gpu::ops::attention`.

const KEYS: u32 = 16u;

/// `[KEYS, KEY_RUNS]` and `[KEYS, VALUE_RUNS]`.
var<workgroup> key_tile: array<Run, KEYS * KEY_RUNS>;
var<workgroup> value_tile: array<Run, KEYS * VALUE_RUNS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = query_tiles[group.x];
    let head = group.y / SPLITS;
    let q_index = query_index(tile, lane, head);
    let key_index = sizes.key_column + head * KEY_RUNS;
    let value_index = sizes.value_column + group.y * VALUE_RUNS;

    var sums: array<vec4<f32>, OUTPUT_DIM / 4u>;
    var total = 0.0;
    var maximum = MASKED;
    let all = blocks_of(tile);
    let own = keys_of(tile, lane, lane);
    for (var first = all.start; first < all.end; first += KEYS) {
        workgroupBarrier();
        for (var i = 0u; i < KEYS * KEY_RUNS; i += THREADS) {
            let slot = i + lane;
            if slot < KEYS * KEY_RUNS {
                let key = clamped_key(tile, first + slot / KEY_RUNS);
                key_tile[slot] = kv[key * sizes.kv_stride + key_index + slot % KEY_RUNS];
            }
        }
        for (var i = 0u; i < KEYS * VALUE_RUNS; i += THREADS) {
            let slot = i + lane;
            if slot < KEYS * VALUE_RUNS {
                let key = clamped_key(tile, first + slot / VALUE_RUNS);
                value_tile[slot] = kv[key * sizes.kv_stride + value_index + slot % VALUE_RUNS];
            }
        }
        workgroupBarrier();

        var scores: array<f32, KEYS>;
        for (var c = 0u; c < KEY_RUNS; c++) { // unrolled
            let query = q[q_index + c];
            for (var j = 0u; j < KEYS; j++) { // unrolled
                scores[j] = dot_run(scores[j], query, key_tile[j * KEY_RUNS + c]);
            }
        }
        maximum = move_maximum(maximum, &scores, &total, &sums, first, own);
        weigh(&scores, maximum, &total);
        for (var c = 0u; c < VALUE_RUNS; c++) { // unrolled
            var block: array<vec4<f32>, RUN4>;
            for (var j = 0u; j < KEYS; j++) { // unrolled
                let value = value_tile[j * VALUE_RUNS + c];
                for (var part = 0u; part < RUN4; part++) { // unrolled
                    block[part] += scores[j] * run_part(value, part);
                }
            }
            for (var part = 0u; part < RUN4; part++) { // unrolled
                sums[c * RUN4 + part] += block[part];
            }
        }
    }
    store_context(tile, lane, group.y, &sums, total);
}
