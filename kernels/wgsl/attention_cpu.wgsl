// Packed attention with online softmax, for software adapters: context = softmax(q · kᵀ) · v within each row, per head.
//
// Formula, shapes, layouts, bindings and immediates are those of `attention.wgsl`.
//
// Algorithm: one lane owns one query of one head, as there, but keys and values are read straight from memory, at
// addresses that are the same for all lanes: no workgroup memory and no barriers, which a software adapter runs by
// saving and restoring every lane. KEYS keys share one move of the running maximum.
// One workgroup owns THREADS queries of query tile `group.x`, outputs OUTPUT_DIM · group.y … of the heads side by side.
//
// Keys outside a query's window or past the row's end weigh exp2(−1e30) = 0, so a row's bits depend on no neighbour.
// Blocks of KEYS keys that no query of the tile attends to are not read.
//
// Bindings and constants: `attention_query.wgsl`. Features: immediates. Rust caller: `gpu::ops::attention`.

/// Keys that share one update of the maximum: the most that Mesa unrolls.
const KEYS: u32 = 32u / RUN;

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
        var scores: array<f32, KEYS>;
        for (var c = 0u; c < KEY_RUNS; c++) { // unrolled
            let query = q[q_index + c];
            for (var j = 0u; j < KEYS; j++) { // unrolled
                let key = clamped_key(tile, first + j);
                scores[j] = dot_run(scores[j], query, kv[key * sizes.kv_stride + key_index + c]);
            }
        }
        maximum = move_maximum(maximum, &scores, &total, &sums, first, own);
        weigh(&scores, maximum, &total);
        add_values(tile, first, value_index, &scores, &sums);
    }
    store_context(tile, lane, group.y, &sums, total);
}
