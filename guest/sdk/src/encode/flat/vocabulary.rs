//! Reads the vocabulary of a `tokenizer.json` entry by entry into flat tables.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bpe::Units;
use super::strings::{Index, Strings};
use super::{bpe, characters, unigram};

/// The object `model` of a file.
#[derive(Deserialize)]
pub(super) struct Model<'json> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    vocab: &'json RawValue,
    #[serde(borrow, default)]
    merges: Option<&'json RawValue>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    unk_id: Option<usize>,
    #[serde(default)]
    byte_fallback: Option<bool>,
}

impl Model<'_> {
    /// Whether the model is of a known kind.
    pub(super) fn is_known(&self) -> bool {
        let is_absent = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        match self.kind.as_str() {
            // Where every byte has an entry, no token is unknown.
            "BPE" => {
                self.merges.is_some()
                    && self.dropout.unwrap_or_default() == 0.0
                    && is_absent(&self.continuing_subword_prefix)
                    && is_absent(&self.end_of_word_suffix)
            }
            "Unigram" => self.unk_id.is_some(),
            _ => false,
        }
    }
}

/// A vocabulary of a known kind.
#[derive(Debug)]
pub(super) enum Vocabulary {
    /// Of a BPE tokenizer.
    Bpe {
        /// What its words are made of.
        units: Units,
        /// The tables for words.
        words: Box<bpe::Bpe>,
        /// Finds any entry that stands for a text.
        all: Index,
        /// The number of entries.
        entries: usize,
        /// Entries that stand for no text, with their ids: they may be added tokens.
        others: Vec<(String, u32)>,
        /// Whether a text has the ids of its parts if it is cut before each mark that follows another character.
        may_cut_at_marks: bool,
    },
    /// Of a Unigram tokenizer.
    Unigram(unigram::Vocabulary),
}

impl Vocabulary {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bpe { entries, .. } => *entries,
            Self::Unigram(vocabulary) => vocabulary.pieces.len(),
        }
    }

    /// The id of an entry.
    pub(super) fn id(&self, entry: &str) -> Option<u32> {
        match self {
            Self::Bpe { units, words, all, others, .. } => {
                let mut buffer = Vec::new();
                match units.of_entry(entry, &mut buffer) {
                    true => words.id(all, &buffer),
                    false => others.iter().find(|(other, _)| other == entry).map(|&(_, id)| id),
                }
            }
            Self::Unigram(unigram::Vocabulary { pieces, .. }) => {
                (0..pieces.len()).rposition(|number| pieces.get(number) == entry.as_bytes()).map(|number| number as u32)
            }
        }
    }
}

/// Reads the vocabulary of a known model, whose words are made of `units` if it is BPE.
pub(super) fn read(model: &Model<'_>, units: Units) -> Option<Vocabulary> {
    match model.kind.as_str() {
        "BPE" => read_bpe(model, units),
        _ => read_unigram(model).map(Vocabulary::Unigram),
    }
}

fn read_bpe(model: &Model<'_>, units: Units) -> Option<Vocabulary> {
    // Without the bytes' entries, a character that has none is unknown.
    if units == Units::Characters && !model.byte_fallback.unwrap_or_default() {
        return None;
    }
    let mut read = BpeEntries { units, ..BpeEntries::default() };
    read_into(&mut read, model.vocab)?;
    let BpeEntries { mut known, mut others, entries, .. } = read;
    // Of equal entries, the crate keeps the last one.
    others.sort_unstable();
    if others.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    let mut ids = known.ids.clone();
    ids.extend(others.iter().map(|&(_, id)| id));
    ids.sort_unstable();
    // The crate has a map from ids to entries, and another from merged entries to ids.
    if ids.windows(2).any(|pair| pair[0] == pair[1]) || ids.last() == Some(&u32::MAX) {
        return None;
    }
    drop(ids);
    known.entries.shrink();
    let all = Index::of(&known.entries, |_| true)?;
    let mut merges = ReadMerges {
        units,
        known: &known,
        all: &all,
        merges: bpe::Merges::with_capacity(count(model.merges?)?),
        buffers: Default::default(),
        rank: 0,
        crosses_marks: false,
    };
    read_into(&mut merges, model.merges?)?;
    let ReadMerges { merges, crosses_marks, .. } = merges;
    let ignore_merges = model.ignore_merges.unwrap_or_default();
    // With it, the whole text may be an entry.
    let may_cut_at_marks = !crosses_marks && !ignore_merges;
    let words = Box::new(bpe::Bpe::new(units, known, &all, merges, ignore_merges)?);
    Some(Vocabulary::Bpe { units, words, all, entries, others, may_cut_at_marks })
}

fn read_unigram(model: &Model<'_>) -> Option<unigram::Vocabulary> {
    let unknown_id = model.unk_id?;
    let byte_fallback = model.byte_fallback.unwrap_or_default();
    let mut read = UnigramPieces { pieces: Strings::default(), scores: Vec::new() };
    read_into(&mut read, model.vocab)?;
    let UnigramPieces { mut pieces, mut scores } = read;
    pieces.shrink();
    scores.shrink_to_fit();
    let unknown_id = (unknown_id < pieces.len()).then_some(unknown_id as u32)?;
    Some(unigram::Vocabulary { pieces, scores, unknown_id, byte_fallback })
}

/// Reads a part of a file into tables.
fn read_into<'json, S: DeserializeSeed<'json>>(seed: S, part: &'json RawValue) -> Option<S::Value> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(part.get())).ok()
}

/// The number of elements of a list.
fn count(list: &RawValue) -> Option<usize> {
    struct Count;
    impl<'json> Visitor<'json> for Count {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'json>>(self, mut list: A) -> Result<usize, A::Error> {
            let mut count = 0;
            while list.next_element::<IgnoredAny>()?.is_some() {
                count += 1;
            }
            Ok(count)
        }
    }
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Count).ok()
}

/// Hands a string of a file to a function, without an allocation for it.
struct Text<F>(F);

impl<'json, T, F: FnOnce(&str) -> Option<T>> DeserializeSeed<'json> for Text<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry that is known")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).ok_or_else(|| E::custom("not an entry that is known"))
    }
}

/// Reads `{"entry": id, …}`.
#[derive(Default)]
struct BpeEntries {
    units: Units,
    known: bpe::Vocabulary,
    others: Vec<(String, u32)>,
    entries: usize,
    buffer: Vec<u8>,
}

impl<'json> DeserializeSeed<'json> for &mut BpeEntries {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'json> Visitor<'json> for &mut BpeEntries {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'json>>(self, mut map: A) -> Result<(), A::Error> {
        let BpeEntries { units, known, others, entries, buffer } = self;
        loop {
            let key = Text(|text: &str| match units.of_entry(text, buffer) {
                true => known.entries.push(buffer).map(|()| None),
                false => Some(Some(text.to_owned())),
            });
            match map.next_key_seed(key)? {
                None => return Ok(()),
                Some(None) => known.ids.push(map.next_value()?),
                Some(Some(other)) => others.push((other, map.next_value()?)),
            }
            *entries += 1;
        }
    }
}

/// Reads `["left right", …]` or `[["left", "right"], …]`.
struct ReadMerges<'v> {
    units: Units,
    known: &'v bpe::Vocabulary,
    all: &'v Index,
    merges: bpe::Merges,
    /// The text of a left part, of a right part and of both.
    buffers: [Vec<u8>; 3],
    rank: u32,
    /// Whether a merge joins a mark to another character before it.
    crosses_marks: bool,
}

impl<'json> DeserializeSeed<'json> for &mut ReadMerges<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'json> Visitor<'json> for &mut ReadMerges<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("merges")
    }

    fn visit_seq<A: SeqAccess<'json>>(self, mut list: A) -> Result<(), A::Error> {
        let mut form = None;
        while let Some(this) = list.next_element_seed(OneMerge(&mut *self))? {
            if *form.get_or_insert(this) != this {
                return Err(A::Error::custom("merges in two forms"));
            }
        }
        Ok(())
    }
}

/// How a merge is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Pair,
}

struct OneMerge<'m, 'v>(&'m mut ReadMerges<'v>);

impl<'json> DeserializeSeed<'json> for OneMerge<'_, '_> {
    type Value = Form;

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<Form, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'json> Visitor<'json> for OneMerge<'_, '_> {
    type Value = Form;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Form, E> {
        // The crate skips such lines, which older files have.
        if !text.starts_with("#version") {
            let parts = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
            let is_known = parts.and_then(|(left, right)| {
                self.0.part(0, left)?;
                self.0.part(1, right)?;
                self.0.insert()
            });
            is_known.ok_or_else(|| E::custom("not a merge of entries"))?;
        }
        Ok(Form::Text)
    }

    fn visit_seq<A: SeqAccess<'json>>(self, mut pair: A) -> Result<Form, A::Error> {
        for place in [0, 1] {
            let part = pair.next_element_seed(Text(|text: &str| self.0.part(place, text)))?;
            part.ok_or_else(|| A::Error::custom("half a merge"))?;
        }
        if pair.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("a merge of three"));
        }
        self.0.insert().ok_or_else(|| A::Error::custom("not a merge of entries"))?;
        Ok(Form::Pair)
    }
}

impl ReadMerges<'_> {
    fn part(&mut self, place: usize, text: &str) -> Option<()> {
        self.units.of_entry(text, &mut self.buffers[place]).then_some(())
    }

    fn insert(&mut self) -> Option<()> {
        let [left, right, both] = &mut self.buffers;
        both.clear();
        both.extend_from_slice(left);
        both.extend_from_slice(right);
        self.crosses_marks |= characters::crosses_mark(left, right);
        let id = |entry: &[u8]| Some(self.known.ids[self.all.get(&self.known.entries, entry)?]);
        self.merges.insert(id(left)?, id(right)?, self.rank, id(both)?);
        self.rank += 1;
        Some(())
    }
}

/// Reads `[["piece", score], …]`.
struct UnigramPieces {
    pieces: Strings,
    scores: Vec<f64>,
}

impl<'json> DeserializeSeed<'json> for &mut UnigramPieces {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'json> Visitor<'json> for &mut UnigramPieces {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pieces with scores")
    }

    fn visit_seq<A: SeqAccess<'json>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(OnePiece(&mut *self))?.is_some() {}
        Ok(())
    }
}

struct OnePiece<'m>(&'m mut UnigramPieces);

impl<'json> DeserializeSeed<'json> for OnePiece<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'json> Visitor<'json> for OnePiece<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a piece with its score")
    }

    fn visit_seq<A: SeqAccess<'json>>(self, mut piece: A) -> Result<(), A::Error> {
        let text = piece.next_element_seed(Text(|text: &str| self.0.pieces.push(text.as_bytes())))?;
        let score = piece.next_element::<f64>()?;
        let (Some(()), Some(score), None) = (text, score, piece.next_element::<IgnoredAny>()?) else {
            return Err(A::Error::custom("not a piece with its score"));
        };
        self.0.scores.push(score);
        Ok(())
    }
}
