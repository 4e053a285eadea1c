// Packed attention with scores by distance and online softmax, for all adapters: context = softmax(score) · v within
// each row, for each head, where score = q · k + q · key(r) + query(r) · k for the row r of a table that belongs to the
// distance from the query to the key.
//
// Formula, shapes, layouts and immediates are those of `attention.wgsl`, and
//
//   distance_rows  [2 · MAX_TOKENS − 1]   f32: r by the query's place minus the key's, plus MAX_TOKENS − 1
//   relative       [table, ROW_RUNS]      key(r) from column 0, query(r) from the middle, heads side by side; query(r)
//                                         holds the scale that q holds
//
// Algorithm: that of `attention_cpu.wgsl`: one lane owns one query of one head and reads everything straight from
// memory. A score is three dot products of HEAD_DIM in place of one; the table's rows of adjacent queries are adjacent.
// One workgroup owns THREADS queries of query tile `group.x`, outputs OUTPUT_DIM · group.y … of the heads side by side.
//
// Keys past the row's end weigh exp2(−1e30) = 0, so a row's bits depend on no neighbour.
//
// Bindings: those of `attention_query.wgsl`, 4 distance_rows, 5 relative. Constants: also MAX_TOKENS, and ROW_RUNS, the
// row stride of `relative` in runs. Features: immediates. Rust caller: `gpu::ops::attention_relative`.

/// Keys that share one update of the maximum.
const KEYS: u32 = 16u / RUN;

@group(0) @binding(4) var<storage, read> distance_rows: array<f32>;
@group(0) @binding(5) var<storage, read> relative: array<Run>;

override MAX_TOKENS: u32 = 512u;
override ROW_RUNS: u32 = 192u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = query_tiles[group.x];
    let head = group.y / SPLITS;
    let q_index = query_index(tile, lane, head);
    let key_index = sizes.key_column + head * KEY_RUNS;
    let value_index = sizes.value_column + group.y * VALUE_RUNS;
    let first_place = (tile.query_start - tile.key_start) * sizes.queries_are_tokens;
    let place = first_place + min(lane, tile.queries - 1u);

    let all = blocks_of(tile);
    let own = keys_of(tile, lane, lane);
    var sums: array<vec4<f32>, OUTPUT_DIM / 4u>;
    var total = 0.0;
    var maximum = MASKED;
    for (var first = all.start; first < all.end; first += KEYS) {
        var scores: array<f32, KEYS>;
        for (var j = 0u; j < KEYS; j++) { // unrolled
            let of_row = min(first + j, tile.keys - 1u);
            let key = (tile.key_start + of_row) * sizes.kv_stride + key_index;
            let row = u32(distance_rows[place + (MAX_TOKENS - 1u) - of_row]) * ROW_RUNS + head * KEY_RUNS;
            var score = 0.0;
            for (var c = 0u; c < KEY_RUNS; c++) {
                score = dot_run(score, q[q_index + c], kv[key + c]);
                score = dot_run(score, q[q_index + c], relative[row + c]);
                score = dot_run(score, relative[row + ROW_RUNS / 2u + c], kv[key + c]);
            }
            scores[j] = score;
        }
        maximum = move_maximum(maximum, &scores, &total, &sums, first, own);
        weigh(&scores, maximum, &total);
        add_values(tile, first, value_index, &scores, &sums);
    }
    store_context(tile, lane, group.y, &sums, total);
}
