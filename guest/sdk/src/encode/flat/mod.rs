//! BPE, byte-level and with a fallback to bytes, and Unigram without the crate's model: flat tables that lie in the guest's snapshot, no strings and no
//! regular expressions while a text becomes ids.
//!
//! | part | what it does |
//! | --- | --- |
//! | `file` | what a `tokenizer.json` says, if all of it is known |
//! | `vocabulary` | its vocabulary, entry by entry |
//! | `added` | finds added tokens in a text |
//! | `normalize`, `charsmap` | normalise what is between them |
//! | `split`, `classes`, `bytes` | cut a text into the words of a byte-level tokenizer |
//! | `characters` | cuts it for one whose entries are of characters |
//! | `bpe` | the ids of both kinds' words |
//! | `metaspace`, `trie`, `unigram` | Unigram's words, and their ids |
//! | `strings` | strings and their numbers |
//!
//! A file that is known in full is handled here for every text; any other is the crate's. Property tests hold this
//! code to the crate over hostile texts.

mod added;
mod bpe;
mod bytes;
mod characters;
mod charsmap;
mod classes;
mod file;
mod metaspace;
mod normalize;
mod split;
mod strings;
mod trie;
mod unigram;
mod vocabulary;

use std::cell::RefCell;
use std::ops::ControlFlow;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::stages::Extent;
use added::{AddedTokens, Part};
use bpe::{Bpe, Units};
use characters::Cuts;
use metaspace::Metaspace;
use normalize::{Stage, normalize};
use split::{Pattern, Splitter};
use unigram::Unigram;
use vocabulary::Vocabulary;

/// A tokenizer whose file is known in full, before its tables are built.
#[derive(Debug)]
pub(super) struct Recognised {
    added: AddedTokens,
    normalized_added: AddedTokens,
    stages: Vec<Stage>,
    words: RecognisedWords,
    /// Has the file's post-processor and nothing else.
    pub(super) tokenizer: Tokenizer,
}

#[derive(Debug)]
enum RecognisedWords {
    Bytes(Splits, Box<Bpe>),
    Characters(Cuts, Box<Bpe>),
    Unigram(Metaspace, unigram::Vocabulary),
}

/// Reads a `tokenizer.json`. `None` if any of it is not known.
pub(super) fn read(json: &[u8]) -> Option<Recognised> {
    let file::Contents { added, normalized_added, stages, pre_tokenizers, vocabulary, tokenizer } = file::read(json)?;
    let words = match vocabulary {
        Vocabulary::Bpe { units: Units::Bytes, words, .. } => {
            RecognisedWords::Bytes(Splits::read(&pre_tokenizers)?, words)
        }
        Vocabulary::Bpe { units: Units::Characters, words, may_cut_at_marks, .. } => {
            RecognisedWords::Characters(Cuts::read(&pre_tokenizers, may_cut_at_marks)?, words)
        }
        Vocabulary::Unigram(vocabulary) => {
            let metaspace = Metaspace::read(&pre_tokenizers)?;
            // The crate asks where a part stood before it was normalised.
            if metaspace.needs_start() && !(stages.is_empty() && normalized_added.is_empty()) {
                return None;
            }
            RecognisedWords::Unigram(metaspace, vocabulary)
        }
    };
    Some(Recognised { added, normalized_added, stages, words, tokenizer })
}

/// How a byte-level tokenizer cuts texts.
#[derive(Debug)]
struct Splits {
    splitter: Splitter,
    /// Whether a text between added tokens gets a space before it unless it has one.
    adds_space: bool,
}

impl Splits {
    /// Reads pre-tokenizers as `tokenizers` writes them: `ByteLevel` with its own pattern, or `Split` and `ByteLevel`.
    fn read(pre_tokenizers: &[Value]) -> Option<Self> {
        let (pattern, byte_level) = match pre_tokenizers {
            [byte_level] => (Pattern::Gpt2, byte_level),
            [split, byte_level] => {
                let is_known = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
                let pattern = split["pattern"]["Regex"].as_str().filter(|_| is_known)?;
                (Pattern::read(pattern)?, byte_level)
            }
            _ => return None,
        };
        let adds_space = byte_level["add_prefix_space"].as_bool()?;
        let uses_pattern = byte_level["use_regex"].as_bool()?;
        let is_alone = pre_tokenizers.len() == 1;
        // After `Split`, each word would get its space, or be cut again.
        let is_known = byte_level["type"] == "ByteLevel" && uses_pattern == is_alone && (is_alone || !adds_space);
        Some(Self { splitter: is_known.then(|| Splitter::new(pattern))??, adds_space })
    }
}

impl Recognised {
    /// Builds the tables. The file's bytes are not needed any more.
    pub(super) fn build(self) -> FlatEncoder {
        let Self { added, normalized_added, stages, words, .. } = self;
        let words = match words {
            RecognisedWords::Bytes(splits, bpe) => Words::Bytes(splits, bpe),
            RecognisedWords::Characters(cuts, bpe) => Words::Characters(cuts, bpe),
            RecognisedWords::Unigram(metaspace, vocabulary) => {
                Words::Unigram(metaspace, Box::new(Unigram::new(vocabulary)))
            }
        };
        FlatEncoder { added, normalized_added, stages, words, scratch: RefCell::default() }
    }
}

/// A tokenizer in flat tables.
#[derive(Debug)]
pub(super) struct FlatEncoder {
    added: AddedTokens,
    normalized_added: AddedTokens,
    stages: Vec<Stage>,
    words: Words,
    scratch: RefCell<Scratch>,
}

#[derive(Debug)]
enum Words {
    Bytes(Splits, Box<Bpe>),
    Characters(Cuts, Box<Bpe>),
    Unigram(Metaspace, Box<Unigram>),
}

/// Buffers, reused so that a text costs no allocation.
#[derive(Debug, Default)]
struct Scratch {
    normal: String,
    other: String,
    /// A part with the space or the marks that the pre-tokenizer adds.
    marked: String,
}

/// There are enough ids.
struct Stop;

impl FlatEncoder {
    /// As [`TextEncoder::encode`](super::text::TextEncoder::encode).
    pub(super) fn encode(&self, text: &str, stop: usize, ids: &mut Vec<u32>) -> Extent {
        let Scratch { normal, other, marked } = &mut *self.scratch.borrow_mut();
        let stopped = self.added.split(text, |part| match part {
            Part::Token(id) => push_token(id, stop, ids),
            Part::Text(text, at) if self.stages.is_empty() => self.encode_normal(text, at == 0, marked, stop, ids),
            Part::Text(text, at) => {
                normalize(&self.stages, text, normal, other);
                self.encode_normal(normal, at == 0, marked, stop, ids)
            }
        });
        match stopped {
            ControlFlow::Continue(()) => Extent::Whole,
            ControlFlow::Break(Stop) => Extent::Stopped,
        }
    }

    fn encode_normal(
        &self,
        text: &str,
        is_first: bool,
        marked: &mut String,
        stop: usize,
        ids: &mut Vec<u32>,
    ) -> ControlFlow<Stop> {
        self.normalized_added.split(text, |part| match part {
            Part::Token(id) => push_token(id, stop, ids),
            Part::Text(text, _) => match &self.words {
                Words::Bytes(splits, bpe) => encode_bytes(splits, bpe, text, marked, stop, ids),
                Words::Characters(cuts, bpe) => cuts.split(text, |word| {
                    may_go_on(stop, ids)?;
                    bpe.encode(word.as_bytes(), ids);
                    ControlFlow::Continue(())
                }),
                Words::Unigram(metaspace, unigram) => metaspace.split(text, is_first, marked, |word| {
                    may_go_on(stop, ids)?;
                    unigram.encode(word, ids);
                    ControlFlow::Continue(())
                }),
            },
        })
    }
}

fn encode_bytes(
    splits: &Splits,
    bpe: &Bpe,
    text: &str,
    marked: &mut String,
    stop: usize,
    ids: &mut Vec<u32>,
) -> ControlFlow<Stop> {
    let text = if splits.adds_space && !text.starts_with(' ') {
        marked.clear();
        marked.push(' ');
        marked.push_str(text);
        marked.as_str()
    } else {
        text
    };
    let mut at = 0;
    while at < text.len() {
        may_go_on(stop, ids)?;
        let end = splits.splitter.end(text, at);
        bpe.encode(&text.as_bytes()[at..end], ids);
        at = end;
    }
    ControlFlow::Continue(())
}

fn push_token(id: u32, stop: usize, ids: &mut Vec<u32>) -> ControlFlow<Stop> {
    may_go_on(stop, ids)?;
    ids.push(id);
    ControlFlow::Continue(())
}

fn may_go_on(stop: usize, ids: &[u32]) -> ControlFlow<Stop> {
    if ids.len() >= stop { ControlFlow::Break(Stop) } else { ControlFlow::Continue(()) }
}
