//! Unigram: of all ways to cut a word into pieces, the one with the best sum of scores.
//!
//! Source: `encode_optimized` in `models/unigram/model.rs` of `tokenizers` 0.23. Of equal sums, the first that is found
//! stays: the one whose last piece starts first. A character that is no piece by itself is unknown. Unknown characters
//! beside each other are one token, which is looked up once more.

use std::cell::RefCell;

use super::characters;
use super::strings::Strings;
use super::trie::Trie;

/// What an unknown character scores below the worst piece.
const UNKNOWN_PENALTY: f64 = 10.0;

/// In place of a start: none.
const NOWHERE: u32 = u32::MAX;

/// A vocabulary as a file has it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) pieces: Strings,
    pub(super) scores: Vec<f64>,
    pub(super) unknown_id: u32,
    /// Whether a token that is not known becomes the pieces of its bytes, if there are pieces for all of them.
    pub(super) byte_fallback: bool,
}

/// The pieces of a Unigram tokenizer and their scores.
#[derive(Debug)]
pub(super) struct Unigram {
    trie: Trie,
    scores: Vec<f64>,
    unknown_id: u32,
    unknown_score: f64,
    /// The id of each byte's piece; empty without `byte_fallback`.
    byte_ids: Vec<Option<u32>>,
    scratch: RefCell<Vec<Node>>,
}

/// The best way to a place in a word.
#[derive(Clone, Copy, Debug)]
struct Node {
    score: f64,
    /// Where the last piece starts.
    start: u32,
    id: u32,
}

const UNREACHED: Node = Node { score: 0.0, start: NOWHERE, id: 0 };

impl Unigram {
    pub(super) fn new(vocabulary: Vocabulary) -> Self {
        let Vocabulary { pieces, scores, unknown_id, byte_fallback } = vocabulary;
        let trie = Trie::of(&pieces);
        let lowest =
            scores.iter().copied().fold(f64::INFINITY, |lowest, score| if score < lowest { score } else { lowest });
        let byte_id = |byte: u8| trie.get(&characters::entry_of(byte));
        let byte_ids = if byte_fallback { (0..=u8::MAX).map(byte_id).collect() } else { Vec::new() };
        let unknown_score = lowest - UNKNOWN_PENALTY;
        Self { trie, scores, unknown_id, unknown_score, byte_ids, scratch: RefCell::default() }
    }

    /// Appends the ids of a word.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        let nodes = &mut *self.scratch.borrow_mut();
        let text = word.as_bytes();
        nodes.clear();
        nodes.resize(text.len() + 1, UNREACHED);
        let mut start = 0;
        while start < text.len() {
            let character = characters::length(text[start]);
            let before = nodes[start].score;
            let mut is_piece = false;
            let mut reach = |end: usize, score: f64, id: u32| {
                let node = &mut nodes[end];
                let score = score + before;
                if node.start == NOWHERE || score > node.score {
                    *node = Node { score, start: start as u32, id };
                }
            };
            self.trie.prefixes(&text[start..], |length, id| {
                is_piece |= length == character;
                reach(start + length, self.scores[id as usize], id);
            });
            if !is_piece {
                reach(start + character, self.unknown_score, self.unknown_id);
            }
            start += character;
        }
        self.collect(text, nodes, ids);
    }

    /// Appends the ids on the best way to the word's end.
    fn collect(&self, text: &[u8], nodes: &[Node], ids: &mut Vec<u32>) {
        let first = ids.len();
        let mut end = text.len();
        while end > 0 {
            let Node { start, id, .. } = nodes[end];
            let mut start = start as usize;
            if id == self.unknown_id {
                while start > 0 && nodes[start].id == self.unknown_id {
                    start = nodes[start].start as usize;
                }
                self.push_unknown(&text[start..end], ids);
            } else {
                ids.push(id);
            }
            end = start;
        }
        ids[first..].reverse();
    }

    /// Appends the ids of unknown text, the last one first.
    #[inline(never)]
    fn push_unknown(&self, text: &[u8], ids: &mut Vec<u32>) {
        if let Some(id) = self.trie.get(text) {
            ids.push(id);
            return;
        }
        let before = ids.len();
        for &byte in text.iter().rev() {
            match self.byte_ids.get(usize::from(byte)) {
                Some(&Some(id)) => ids.push(id),
                _ => {
                    ids.truncate(before);
                    ids.push(self.unknown_id);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Model;
    use tokenizers::models::unigram::Unigram as Reference;

    proptest! {
        /// Few distinct scores, so that sums are often equal, and good ones, so that unknown characters may pay.
        #[test]
        fn any_word_becomes_the_ids_of_tokenizers(
            pieces in proptest::collection::vec(
                ("[abé東]{0,4}", prop_oneof![(-4..0_i8).prop_map(f64::from), -30.0..30.0_f64]), 1..40
            ),
            bytes in proptest::collection::vec(any::<u8>(), 0..20),
            unknown in 0..41_usize, byte_fallback: bool, word in "[abcé東京]{1,12}"
        ) {
            let bytes = bytes.iter().chain("c京".as_bytes()).map(|byte| (format!("<0x{byte:02X}>"), -3.0));
            let pieces: Vec<(String, f64)> = pieces.into_iter().chain(bytes).collect();
            let unknown = unknown % pieces.len();
            let mut vocabulary = Vocabulary {
                pieces: Strings::default(), scores: Vec::new(), unknown_id: unknown as u32, byte_fallback,
            };
            for (piece, score) in &pieces {
                vocabulary.pieces.push(piece.as_bytes()).unwrap();
                vocabulary.scores.push(*score);
            }
            let reference = Reference::from(pieces, Some(unknown), byte_fallback).unwrap();
            let expected: Vec<u32> = reference.tokenize(&word).unwrap().iter().map(|token| token.id).collect();
            let mut ids = vec![7];
            Unigram::new(vocabulary).encode(&word, &mut ids);
            prop_assert_eq!(&ids[1..], expected);
        }
    }
}
