// The host's description of queries and their row: prefixed to attention and to the kernels that process whole rows.
// Rust: `gpu::ops::attention::QueryTile`.

struct QueryTile {
    /// Row of `q` and `context` of the first query.
    query_start: u32,
    /// Queries: 1 to THREADS; 1 in the list of rows.
    queries: u32,
    /// Row of `kv` (token of the batch) of the first key.
    key_start: u32,
    /// Keys: tokens of the row, at least 1.
    keys: u32,
}
