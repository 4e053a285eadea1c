//! A batch as it is uploaded: in the processor's memory, in buffers that all batches of an engine use in turn.

use super::layout::WordTable;
use super::op::Extent;
use super::ops::attention::{self, QueryTile};
use super::ops::embed::Token;
use super::step::Extents;
use crate::architecture::{Architecture, Positions};
use crate::batch::PackedBatch;

/// What one batch uploads.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) tokens: Vec<Token>,
    pub(super) query_tiles: Vec<QueryTile>,
    pub(super) rows: Vec<QueryTile>,
}

impl Scratch {
    /// Prepares a batch for upload.
    pub(super) fn fill(
        &mut self,
        architecture: &Architecture,
        word_table: WordTable,
        batch: &PackedBatch,
        queries_per_tile: u32,
    ) {
        let embeddings = &architecture.embeddings;
        self.tokens.clear();
        self.rows.clear();
        let mut key_start = 0;
        for (index, row) in (0..).zip(batch.iter()) {
            let keys = row.ids.len() as u32;
            self.rows.push(QueryTile { query_start: index, queries: 1, key_start, keys });
            let positions = embeddings.positions.indices(row.ids);
            self.tokens.extend(row.ids.iter().zip(positions).enumerate().map(|(place, (&id, position))| {
                // Rotary positions are places in the row.
                let position = if embeddings.positions == Positions::None { place } else { position };
                let word = match word_table {
                    WordTable::OnDevice => id,
                    // The rows that a batch brings are in its tokens' order.
                    WordTable::OnHost => key_start + place as u32,
                };
                Token::new(word, position, embeddings.token_types.index(place, row.second_segment))
            }));
            key_start += keys;
        }
        attention::query_tiles(batch.offsets(), queries_per_tile, &mut self.query_tiles);
    }

    /// The extents of the batch prepared last.
    pub(super) fn extents(&self, batch: &PackedBatch) -> Extents {
        let squares = batch.iter().map(|row| (row.ids.len() as u64).pow(2)).sum();
        let (tokens, rows) = (batch.tokens() as u32, batch.rows() as u32);
        let query_tiles = self.query_tiles.len() as u32;
        Extents {
            tokens: Extent { rows: tokens, query_tiles, query_keys: squares },
            rows: Extent { rows, query_tiles: rows, query_keys: u64::from(tokens) },
        }
    }
}
