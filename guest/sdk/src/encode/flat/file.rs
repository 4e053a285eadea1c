//! Reads a `tokenizer.json` without the crate's model, whose maps of strings take ten times the file's size.
//!
//! The small parts are read by the crate and looked at as it writes them, so that all spellings and defaults are its
//! own. Anything that is not known in full means `None`: the crate reads the file, and refuses it or tokenises.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PaddingParams, PostProcessorWrapper,
    PreTokenizerWrapper, Tokenizer, TruncationParams,
};

use super::added::AddedTokens;
use super::bpe::Units;
use super::normalize::Stage;
use super::vocabulary::{self, Model, Vocabulary};

/// The only version of the format.
const VERSION: &str = "1.0";

#[derive(Deserialize)]
struct File<'json> {
    version: String,
    #[serde(borrow, default)]
    truncation: Option<&'json RawValue>,
    #[serde(borrow, default)]
    padding: Option<&'json RawValue>,
    #[serde(default)]
    added_tokens: Vec<NumberedToken>,
    #[serde(borrow, default)]
    normalizer: Option<&'json RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'json RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'json RawValue>,
    #[serde(borrow, default)]
    decoder: Option<&'json RawValue>,
    #[serde(borrow)]
    model: &'json RawValue,
}

#[derive(Deserialize)]
struct NumberedToken {
    #[serde(rename = "id")]
    _id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// What a file says, if all of it is known.
#[derive(Debug)]
pub(super) struct Contents {
    /// Tokens that are found in the text as it is.
    pub(super) added: AddedTokens,
    /// Tokens that are found in the normalised text.
    pub(super) normalized_added: AddedTokens,
    pub(super) stages: Vec<Stage>,
    pub(super) pre_tokenizers: Vec<Value>,
    pub(super) vocabulary: Vocabulary,
    /// A tokenizer with this file's post-processor and an empty model.
    pub(super) tokenizer: Tokenizer,
}

/// Reads a file.
pub(super) fn read(json: &[u8]) -> Option<Contents> {
    let file: File<'_> = serde_json::from_slice(json).ok()?;
    let model: Model<'_> = serde_json::from_str(file.model.get()).ok()?;
    if file.version != VERSION || !model.is_known() {
        return None;
    }
    // Both are dropped, but a file in which they are wrong is refused.
    parse::<TruncationParams>(file.truncation)?;
    parse::<PaddingParams>(file.padding)?;
    parse::<DecoderWrapper>(file.decoder)?;
    let normalizer = parse::<NormalizerWrapper>(file.normalizer)?;
    let pre_tokenizer = parse::<PreTokenizerWrapper>(file.pre_tokenizer)?;
    let post_processor = parse::<PostProcessorWrapper>(file.post_processor)?;
    let stages = flattened(serde_json::to_value(&normalizer).ok()?, "normalizers")?;
    let stages = stages.iter().map(Stage::read).collect::<Option<Vec<_>>>()?;
    let pre_tokenizers = flattened(serde_json::to_value(&pre_tokenizer).ok()?, "pretokenizers")?;
    let is_byte_level = pre_tokenizers.iter().any(|part| part["type"] == "ByteLevel");
    let vocabulary = vocabulary::read(&model, if is_byte_level { Units::Bytes } else { Units::Characters })?;
    let (added, normalized_added) = added_tokens(file.added_tokens, normalizer.as_ref(), &vocabulary)?;
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_post_processor(post_processor);
    Some(Contents { added, normalized_added, stages, pre_tokenizers, vocabulary, tokenizer })
}

/// A part of a file that may be absent: `None` if it is there and the crate cannot read it.
fn parse<T: DeserializeOwned>(part: Option<&RawValue>) -> Option<Option<T>> {
    part.map(|part| serde_json::from_str(part.get())).transpose().ok()
}

/// The parts of a sequence, which may be nested, or the one part.
fn flattened(value: Value, field: &str) -> Option<Vec<Value>> {
    if value.is_null() {
        return Some(Vec::new());
    }
    if value["type"] != "Sequence" {
        return Some(vec![value]);
    }
    let parts = value[field].as_array()?.iter().map(|part| flattened(part.clone(), field));
    Some(parts.collect::<Option<Vec<_>>>()?.concat())
}

/// The added tokens that are found in the text as it is, and in the normalised text. Their ids are those of the
/// vocabulary, or the next ones after it; the ids in the file do not count.
fn added_tokens(
    tokens: Vec<NumberedToken>,
    normalizer: Option<&NormalizerWrapper>,
    vocabulary: &Vocabulary,
) -> Option<(AddedTokens, AddedTokens)> {
    let mut next_id = u32::try_from(vocabulary.len()).ok()?;
    let (mut plain, mut normalized) = (Vec::new(), Vec::new());
    let mut ids = Vec::new();
    for token in tokens.into_iter().map(|numbered| numbered.token).filter(|token| !token.content.is_empty()) {
        let id = vocabulary.id(&token.content).unwrap_or_else(|| {
            next_id += 1;
            next_id - 1
        });
        ids.push(id);
        if token.normalized {
            let mut pattern = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut pattern).ok()?;
            }
            normalized.push((pattern.get().to_owned(), id, token));
        } else {
            plain.push((token.content.clone(), id, token));
        }
    }
    // Of two tokens with one id, the crate keeps one.
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return None;
    }
    Some((AddedTokens::new(plain)?, AddedTokens::new(normalized)?))
}
