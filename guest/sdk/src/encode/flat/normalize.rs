//! The normalisers of byte-level and Unigram tokenizers.
//!
//! Source: `normalizers/` of `tokenizers` 0.23, without the alignment that it keeps for each character.

use serde_json::Value;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::charsmap::Charsmap;

/// The pattern that Hub files name for runs of spaces.
const RUN_OF_SPACES: &str = " {2,}";

/// One normaliser.
#[derive(Debug)]
pub(super) enum Stage {
    /// Composes characters.
    Nfc,
    /// Maps characters.
    Charsmap(Box<Charsmap>),
    /// Drops white space at the ends.
    Strip {
        /// At the start.
        left: bool,
        /// At the end.
        right: bool,
    },
    /// Replaces each occurrence of a text, which is not empty.
    Replace(String, String),
    /// Replaces each run of two spaces or more.
    ReplaceRuns(String),
}

impl Stage {
    /// The stage that a normaliser of one kind describes, as `tokenizers` writes it.
    pub(super) fn read(normalizer: &Value) -> Option<Self> {
        match normalizer["type"].as_str()? {
            "NFC" => Some(Self::Nfc),
            "Precompiled" => {
                let map = normalizer["precompiled_charsmap"].as_str()?;
                let map = base64::decode(map).ok()?;
                Some(Self::Charsmap(Box::new(Charsmap::read(&map)?)))
            }
            "Strip" => {
                let side = |field: &str| normalizer[field].as_bool();
                Some(Self::Strip { left: side("strip_left")?, right: side("strip_right")? })
            }
            "Replace" => {
                let (pattern, content) = (&normalizer["pattern"], normalizer["content"].as_str()?.to_owned());
                match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
                    (Some(text), None) if !text.is_empty() => Some(Self::Replace(text.to_owned(), content)),
                    (None, Some(RUN_OF_SPACES)) => Some(Self::ReplaceRuns(content)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Normalises `text` in place; `scratch` is overwritten.
    fn apply(&self, text: &mut String, scratch: &mut String) {
        scratch.clear();
        match self {
            // Characters below U+0300 are composed, and their UTF-8 starts with a smaller byte.
            Self::Nfc if text.bytes().all(|byte| byte < 0xcc) => return,
            Self::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => return,
            Self::Nfc => scratch.extend(text.nfc().map(|(character, _)| character)),
            Self::Charsmap(map) => map.map(text, scratch),
            Self::Strip { left, right } => {
                if *right {
                    text.truncate(text.trim_end().len());
                }
                if *left {
                    text.drain(..text.len() - text.trim_start().len());
                }
                return;
            }
            Self::Replace(from, to) => {
                let mut rest = text.as_str();
                while let Some((before, after)) = rest.split_once(from.as_str()) {
                    scratch.push_str(before);
                    scratch.push_str(to);
                    rest = after;
                }
                scratch.push_str(rest);
            }
            Self::ReplaceRuns(to) => {
                let mut rest = text.as_str();
                while let Some((before, after)) = rest.split_once("  ") {
                    scratch.push_str(before);
                    scratch.push_str(to);
                    rest = after.trim_start_matches(' ');
                }
                scratch.push_str(rest);
            }
        }
        std::mem::swap(text, scratch);
    }
}

/// Writes the normalised text; `scratch` is overwritten.
pub(super) fn normalize(stages: &[Stage], text: &str, normal: &mut String, scratch: &mut String) {
    normal.clear();
    normal.push_str(text);
    for stage in stages {
        stage.apply(normal, scratch);
    }
}
