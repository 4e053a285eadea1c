// Shared by all attention kernels: `attention.wgsl`, whose header has the formula and shapes, `attention_cpu.wgsl` and
// `attention_relative.wgsl`.
//
// Bindings: 0 q, 1 kv, 2 query_tiles, 3 context.
// A kernel declares KEYS: how many keys share one move of the running maximum.
// Constants: HEAD_DIM (a multiple of 8) and OUTPUT_DIM size register arrays, which no override can: `gpu::shader`
// writes them in front. THREADS: most queries in a tile. Rust caller: `gpu::ops::attention`.

struct Sizes {
    /// Row strides and first columns, in runs.
    q_stride: u32,
    kv_stride: u32,
    key_column: u32,
    value_column: u32,
    /// Row stride of `context`, in units of four.
    context_stride4: u32,
    /// A query attends to the keys at most this far before and after it.
    radius: u32,
    /// 1 if queries are numbered as tokens are; 0 if each is the first token of its row.
    queries_are_tokens: u32,
}

@group(0) @binding(0) var<storage, read> q: array<Run>;
@group(0) @binding(1) var<storage, read> kv: array<Run>;
@group(0) @binding(2) var<storage, read> query_tiles: array<QueryTile>;
@group(0) @binding(3) var<storage, read_write> context: array<Packed4>;
var<immediate> sizes: Sizes;

override THREADS: u32 = 64u;

const KEY_RUNS: u32 = HEAD_DIM / RUN;
const VALUE_RUNS: u32 = OUTPUT_DIM / RUN;
const SPLITS: u32 = HEAD_DIM / OUTPUT_DIM;
/// Finite, because Metal's fast mathematics may not keep infinities.
const MASKED: f32 = -1e30;

/// First run of a lane's query in `q`. Lanes past a tile's queries repeat its last query.
fn query_index(tile: QueryTile, lane: u32, head: u32) -> u32 {
    return (tile.query_start + min(lane, tile.queries - 1u)) * sizes.q_stride + head * KEY_RUNS;
}

/// The keys of a row that some queries attend to: from `start` to before `end`.
struct Keys {
    start: u32,
    end: u32,
}

/// Keys of a tile's queries `first` to `last`; those of one query where they are the same.
fn keys_of(tile: QueryTile, first: u32, last: u32) -> Keys {
    let place = (tile.query_start - tile.key_start) * sizes.queries_are_tokens;
    let start = place + min(first, tile.queries - 1u);
    let end = place + min(last, tile.queries - 1u);
    return Keys(start - min(start, sizes.radius), min(tile.keys, end + min(sizes.radius, tile.keys) + 1u));
}

/// Keys that a tile's queries attend to, from the first of a block of KEYS. Blocks count from the row's first key, so a
/// query's sums are formed alike in tiles of any width.
fn blocks_of(tile: QueryTile) -> Keys {
    let keys = keys_of(tile, 0u, THREADS);
    return Keys(keys.start - keys.start % KEYS, keys.end);
}

/// The index of a key, clamped to the row's last, so no neighbour's key is ever read.
fn clamped_key(tile: QueryTile, key: u32) -> u32 {
    return tile.key_start + min(key, tile.keys - 1u);
}

/// Masks the scores of keys from `first` on that are not the query's `own`. Moves the running maximum over the others,
/// rescales what was summed under the old one, and returns the new one. What was summed before the first key that is
/// the query's own vanishes with the first rescaling.
fn move_maximum(
    maximum: f32,
    scores: ptr<function, array<f32, KEYS>>,
    total: ptr<function, f32>,
    sums: ptr<function, array<vec4<f32>, OUTPUT_DIM / 4u>>,
    first: u32,
    own: Keys,
) -> f32 {
    var next = maximum;
    for (var j = 0u; j < KEYS; j++) { // unrolled
        (*scores)[j] = select(MASKED, (*scores)[j], first + j >= own.start && first + j < own.end);
        next = max(next, (*scores)[j]);
    }
    let rescale = exp2(maximum - next);
    *total *= rescale;
    for (var c = 0u; c < OUTPUT_DIM / 4u; c++) { // unrolled
        (*sums)[c] *= rescale;
    }
    return next;
}

/// Turns a block's scores into weights under the maximum, and adds those to the total. All sums add up a block first and
/// then the block: one chain over a long row would lose more, and most of all where its tokens are alike.
fn weigh(scores: ptr<function, array<f32, KEYS>>, maximum: f32, total: ptr<function, f32>) {
    var block = 0.0;
    for (var j = 0u; j < KEYS; j++) { // unrolled
        (*scores)[j] = exp2((*scores)[j] - maximum);
        block += (*scores)[j];
    }
    *total += block;
}

/// Adds the values of keys from `first` on, straight from memory, each by its weight. Column by column: a sum adds all
/// keys before it is stored.
fn add_values(
    tile: QueryTile,
    first: u32,
    value_index: u32,
    weights: ptr<function, array<f32, KEYS>>,
    sums: ptr<function, array<vec4<f32>, OUTPUT_DIM / 4u>>,
) {
    for (var c = 0u; c < VALUE_RUNS; c++) { // unrolled
        var block: array<vec4<f32>, RUN4>;
        for (var j = 0u; j < KEYS; j++) { // unrolled
            let value = kv[clamped_key(tile, first + j) * sizes.kv_stride + value_index + c];
            for (var part = 0u; part < RUN4; part++) { // unrolled
                block[part] += (*weights)[j] * run_part(value, part);
            }
        }
        for (var part = 0u; part < RUN4; part++) { // unrolled
            (*sums)[c * RUN4 + part] += block[part];
        }
    }
}

/// Stores a lane's output, columns OUTPUT_DIM · split … of the heads side by side; nothing for lanes past the queries.
fn store_context(
    tile: QueryTile,
    lane: u32,
    split: u32,
    sums: ptr<function, array<vec4<f32>, OUTPUT_DIM / 4u>>,
    total: f32,
) {
    if lane < tile.queries {
        let index = (tile.query_start + lane) * sizes.context_stride4 + split * (OUTPUT_DIM / 4u);
        for (var c = 0u; c < OUTPUT_DIM / 4u; c++) { // unrolled
            context[index + c] = pack4((*sums)[c] / total);
        }
    }
}
