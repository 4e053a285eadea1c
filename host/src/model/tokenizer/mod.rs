//! The tokenizer of a model: `tokenizer.json`, as `transformers` uses it.
//!
//! `transformers` 5 takes `tokenizer.json` as it is only for some classes. The classes of BERT, RoBERTa and XLM-RoBERTa
//! keep the vocabulary and build the rest anew from `tokenizer_config.json`; every class may add tokens and leave token
//! types out. What that changes is written into the `tokenizer.json` that the store keeps, so guests need no code for it.
//! A file that is right already is kept byte for byte.

mod added_tokens;
mod bounds;
mod pair_template;
mod sentencepiece;
mod summary;
mod trial;

use std::path::Path;

use assay_kernels::architecture::TokenTypes;
use assay_kernels::{Architecture, Task};
use serde_json::{Value, json};

use super::error::{ModelError, TokenizerFault};
use super::hugging_face::{self, Described, TOKENIZER_CONFIG_FILE};
use added_tokens::OlderFiles;
use pair_template::PairTemplate;
pub use summary::TokenizerSummary;

/// The tokenizer's file in a model directory.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Largest `tokenizer.json`: those of the largest vocabularies in use have 20 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// The classes that are known, for messages.
const CLASSES: [&str; 7] = [
    "BertTokenizer",
    "DistilBertTokenizer",
    "RobertaTokenizer",
    "XLMRobertaTokenizer",
    "CamembertTokenizer",
    "DebertaV2Tokenizer",
    "PreTrainedTokenizerFast",
];

/// Templates of a conversation, beside the configuration.
const CHAT_TEMPLATES: [&str; 3] = ["chat_template.jinja", "chat_template.json", "additional_chat_templates"];

/// From here on, `model_max_length` means that there is no limit.
const NO_LIMIT: f64 = 1e9;

/// What was decided about a tokenizer.
#[derive(Debug)]
pub(super) struct Decided {
    /// The file to keep, if not the directory's own.
    pub(super) file: Option<Vec<u8>>,
    /// How it differs from the directory's own.
    pub(super) changes: Vec<String>,
    /// Longest row in tokens.
    pub(super) max_tokens: Option<u32>,
    /// Whether texts that are too long lose their beginning.
    pub(super) is_cut_left: bool,
    /// Special tokens of a pair.
    pub(super) special_tokens: usize,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// How a class of `transformers` treats `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Keeps the vocabulary; the rest is BERT's, by the configuration.
    Bert {
        /// Whether it gives token types unless the configuration says.
        has_token_types: bool,
    },
    /// Keeps the vocabulary; the rest is RoBERTa's.
    Roberta,
    /// Keeps the vocabulary and the map of characters; the rest is XLM-RoBERTa's.
    XlmRoberta,
    /// Keeps what Assay reads; settings that the file does not follow are refused.
    DebertaV2,
    /// Keeps what Assay reads; tokenises without token types unless the configuration says.
    Plain,
}

impl Class {
    /// Whether it builds anew what is around the vocabulary.
    fn is_rebuilt(self) -> bool {
        !matches!(self, Self::Plain | Self::DebertaV2)
    }
}

/// Decides how a model's texts are tokenised, and tries it.
///
/// # Errors
/// The tokenizer cannot be used, or its configuration asks for what cannot be done.
pub(super) fn decide(dir: &Path, described: &Described, architecture: &Architecture) -> Result<Decided, ModelError> {
    let path = dir.join(TOKENIZER_FILE);
    let refused = |fault| ModelError::Tokenizer { path: path.clone(), fault };
    let bytes = read_tokenizer(&path)?;
    let original: Value = serde_json::from_slice(&bytes).map_err(|error| refused(TokenizerFault::NotJson(error)))?;
    bounds::check(&original).map_err(refused)?;
    check_vocabulary(&original, architecture.vocab_size).map_err(refused)?;
    if !original["model"].is_object() {
        return Err(refused(TokenizerFault::Unreadable("it has no object `model`".to_owned())));
    }
    let config = hugging_face::read(dir, TOKENIZER_CONFIG_FILE)?.unwrap_or_default();
    let older = OlderFiles::read(dir, &config)?;
    let config = older.over(config);
    check_files(dir, &config, described, architecture.task())?;
    let (tokenizer, vocab_size) = (original.clone(), architecture.vocab_size);
    let mut rewrite = Rewrite { tokenizer, config: &config, changes: Vec::new(), notes: Vec::new(), vocab_size };
    let has_token_types = architecture.embeddings.token_types == TokenTypes::Two;
    rewrite.apply(described, &older, has_token_types).map_err(|message| ModelError::Described {
        path: dir.join(if config.is_null() { TOKENIZER_FILE } else { TOKENIZER_CONFIG_FILE }),
        message,
    })?;
    let Rewrite { tokenizer, changes, mut notes, .. } = rewrite;
    bounds::check_dropout(&tokenizer).map_err(refused)?;
    let file = (tokenizer != original).then(|| tokenizer.to_string().into_bytes());
    let special_tokens =
        trial::try_pairs(file.as_deref().unwrap_or(&bytes), architecture.vocab_size).map_err(refused)?;
    if special_tokens == 0 {
        notes
            .push("its tokenizer puts no special tokens around a pair: check that the model was trained so".to_owned());
    }
    if side(&config, "padding_side", &original["padding"]) == Some("left") {
        notes.push(
            "its padding_side is left: scores of sentence-transformers then depend on a batch's longest row, and those \
             of a row alone are computed here"
                .to_owned(),
        );
    }
    // `max_len` is an older spelling.
    let limit = if config["model_max_length"].is_null() { &config["max_len"] } else { &config["model_max_length"] };
    let limit = limit.as_f64().filter(|&limit| (1.0..NO_LIMIT).contains(&limit));
    Ok(Decided {
        file,
        changes,
        max_tokens: limit.map(|limit| limit as u32),
        is_cut_left: side(&config, "truncation_side", &original["truncation"]) == Some("left"),
        special_tokens,
        notes,
    })
}

/// Refuses what makes `transformers` read another file, or rank another text than the pair.
fn check_files(dir: &Path, config: &Value, described: &Described, task: Task) -> Result<(), ModelError> {
    let refused = |file: &str, message: String| Err(ModelError::Described { path: dir.join(file), message });
    let by_version = config["fast_tokenizer_files"].as_array();
    if by_version.is_some_and(|files| files.iter().any(|file| file != TOKENIZER_FILE)) {
        return refused(
            TOKENIZER_CONFIG_FILE,
            "fast_tokenizer_files names other files for some versions of transformers: keep the one that the model \
             needs as tokenizer.json, and remove the field"
                .to_owned(),
        );
    }
    // Files that a CrossEncoder saved say how a pair is put together; for others it asks the tokenizer.
    if described.is_saved || task == Task::Embedding {
        return Ok(());
    }
    let advice = "CrossEncoder puts the pair into it, which is not done here: remove it if the model was trained with \
                  plain pairs";
    if !config["chat_template"].is_null() {
        return refused(TOKENIZER_CONFIG_FILE, format!("it has a chat_template: {advice}"));
    }
    match CHAT_TEMPLATES.iter().find(|file| dir.join(file).symlink_metadata().is_ok()) {
        Some(file) => refused(file, format!("it is there: {advice}")),
        None => Ok(()),
    }
}

/// Tries the tokenizer of a revision in the store.
pub(super) fn check(dir: &Path, vocab_size: usize) -> Result<(), ModelError> {
    let path = dir.join(TOKENIZER_FILE);
    let bytes = read_tokenizer(&path)?;
    trial::try_pairs(&bytes, vocab_size).map(drop).map_err(|fault| ModelError::Tokenizer { path, fault })
}

/// Reads a `tokenizer.json`.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Vec<u8>, ModelError> {
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if bytes > MAX_TOKENIZER_BYTES {
        let fault = TokenizerFault::TooLarge { bytes, max_bytes: MAX_TOKENIZER_BYTES };
        return Err(ModelError::Tokenizer { path: path.to_owned(), fault });
    }
    Ok(assay_kernels::checkpoint::read_file(path, MAX_TOKENIZER_BYTES)?)
}

/// Refuses a vocabulary that is larger than the model's.
fn check_vocabulary(tokenizer: &Value, vocab_size: usize) -> Result<(), TokenizerFault> {
    let vocabulary = &tokenizer["model"]["vocab"];
    let ids = vocabulary.as_object().into_iter().flat_map(|entries| entries.values()).filter_map(Value::as_u64);
    // A Unigram model's ids are places in its list.
    let places = vocabulary.as_array().and_then(|entries| entries.len().checked_sub(1)).map(|last| last as u64);
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten().filter_map(|token| token["id"].as_u64());
    match ids.chain(places).chain(added).max() {
        None => Err(TokenizerFault::NoVocabulary),
        Some(largest) if largest >= vocab_size as u64 => Err(TokenizerFault::OtherVocabulary { largest, vocab_size }),
        Some(_) => Ok(()),
    }
}

/// The side that the configuration names, or `tokenizer.json` in its settings for truncation or padding.
fn side<'v>(config: &'v Value, field: &str, own: &'v Value) -> Option<&'v str> {
    let of_file = || own["direction"].as_str().map(|side| if side == "Left" { "left" } else { "right" });
    config[field].as_str().or_else(of_file)
}

/// A token of the configuration, which has it as a text or as an object.
fn token(config: &Value, field: &str, default: &str) -> String {
    let value = &config[field];
    value.as_str().or_else(|| value["content"].as_str()).unwrap_or(default).to_owned()
}

/// The steps of a part of `tokenizer.json`: those in its list, or itself; none where it is null.
fn steps<'v>(part: &'v Value, list: &str) -> &'v [Value] {
    match part[list].as_array() {
        Some(steps) => steps,
        None if part.is_null() => &[],
        None => std::slice::from_ref(part),
    }
}

struct Rewrite<'c> {
    tokenizer: Value,
    config: &'c Value,
    changes: Vec<String>,
    notes: Vec<String>,
    /// Of the model.
    vocab_size: usize,
}

impl Rewrite<'_> {
    fn apply(&mut self, described: &Described, older: &OlderFiles, has_token_types: bool) -> Result<(), String> {
        if !self.config["auto_map"]["AutoTokenizer"].is_null() {
            return Err("auto_map names a tokenizer with its own code, which may tokenise in another way".to_owned());
        }
        if self.config["split_special_tokens"] == true {
            return Err("split_special_tokens is true, which is not supported".to_owned());
        }
        let (class, name) = self.class(described);
        if name == "BertJapaneseTokenizer" {
            return Err(format!(
                "tokenizer_class is {name}, whose own code splits words: tokenizer.json cannot do that"
            ));
        }
        match class {
            None => {
                return Err(format!(
                    "tokenizer_class is {name:.60}, which may tokenise otherwise than tokenizer.json says; supported are \
                     {}: set it to PreTrainedTokenizerFast if the model was trained with the tokens of tokenizer.json",
                    CLASSES.join(", ")
                ));
            }
            Some(Class::Bert { .. }) => self.as_bert(&name)?,
            Some(Class::Roberta) => self.as_roberta(&name)?,
            Some(Class::XlmRoberta) => self.as_xlm_roberta(&name)?,
            Some(Class::DebertaV2) => self.check_deberta(&name)?,
            Some(Class::Plain) => {}
        }
        let class = class.unwrap_or(Class::Plain);
        self.add_named_tokens(older, class)?;
        if described.is_lowercased {
            self.lowercase();
        }
        let gives_types = match self.config["model_input_names"].as_array() {
            Some(names) => names.iter().any(|name| name == "token_type_ids"),
            None => matches!(class, Class::Bert { has_token_types: true } | Class::DebertaV2),
        };
        if has_token_types && !gives_types {
            self.drop_token_types(&name)?;
        }
        Ok(())
    }

    /// The class that `AutoTokenizer` takes, if it is known, and its name.
    fn class(&self, described: &Described) -> (Option<Class>, String) {
        let own = match described.model_type.as_str() {
            "bert" | "distilbert" | "electra" => "BertTokenizer",
            "roberta" => "RobertaTokenizer",
            "xlm-roberta" => "XLMRobertaTokenizer",
            "camembert" => "CamembertTokenizer",
            "gte" => "XLMRobertaTokenizer",
            "deberta-v2" => "DebertaV2Tokenizer",
            // Those files name all sorts of classes; `transformers` takes none of them.
            "modernbert" => return (Some(Class::Plain), "PreTrainedTokenizerFast".to_owned()),
            _ => "PreTrainedTokenizerFast",
        };
        let named = self.config["tokenizer_class"].as_str().or(described.tokenizer_class.as_deref()).unwrap_or(own);
        let name = named.strip_suffix("Fast").filter(|name| *name != "PreTrainedTokenizer").unwrap_or(named);
        let class = match name {
            "BertTokenizer"
            | "ElectraTokenizer"
            | "LayoutLMTokenizer"
            | "LxmertTokenizer"
            | "MobileBertTokenizer"
            | "SqueezeBertTokenizer" => Some(Class::Bert { has_token_types: true }),
            "DistilBertTokenizer" => Some(Class::Bert { has_token_types: false }),
            "RobertaTokenizer" => Some(Class::Roberta),
            "XLMRobertaTokenizer" | "CamembertTokenizer" => Some(Class::XlmRoberta),
            "DebertaV2Tokenizer" => Some(Class::DebertaV2),
            "PreTrainedTokenizerFast" | "TokenizersBackend" => Some(Class::Plain),
            _ => None,
        };
        (class, name.to_owned())
    }

    /// The id of a token.
    fn id(&self, token: &str) -> Option<u64> {
        let added = self.tokenizer["added_tokens"].as_array().into_iter().flatten();
        let mut added = added.filter(|entry| entry["content"] == token).filter_map(|entry| entry["id"].as_u64());
        let vocabulary = &self.tokenizer["model"]["vocab"];
        let place = || vocabulary.as_array()?.iter().position(|entry| entry[0] == token).map(|place| place as u64);
        added.next().or_else(|| vocabulary[token].as_u64()).or_else(place)
    }

    /// Builds what BERT's tokenizer has around the vocabulary.
    fn as_bert(&mut self, name: &str) -> Result<(), String> {
        let model = &self.tokenizer["model"];
        if !(model["type"] == "WordPiece" || (model["type"].is_null() && model["merges"].is_null())) {
            let kind = model["type"].as_str().unwrap_or("unknown").to_owned();
            return Err(format!(
                "tokenizer_class is {name}, and tokenizer.json has a model of the type {kind:.40}: set tokenizer_class \
                 to PreTrainedTokenizerFast to tokenise as the file says"
            ));
        }
        let unknown = token(self.config, "unk_token", "[UNK]");
        let wanted = [
            ("type", json!("WordPiece")),
            ("unk_token", json!(unknown)),
            ("continuing_subword_prefix", json!("##")),
            ("max_input_chars_per_word", json!(100)),
        ];
        for (field, value) in wanted {
            let own = &mut self.tokenizer["model"][field];
            if *own != value {
                // Absent fields have these values anyway.
                if !own.is_null() {
                    self.changes.push(format!("{field} is {value}, as {name} has it, in place of {own}"));
                }
                *own = value;
            }
        }
        self.set_normalizer(name);
        if self.tokenizer["pre_tokenizer"]["type"] != "BertPreTokenizer" {
            self.changes.push(format!("texts are split as {name} does, at spaces and punctuation"));
            self.tokenizer["pre_tokenizer"] = json!({ "type": "BertPreTokenizer" });
        }
        self.add_special_tokens();
        let id = |text: &str| {
            let id = self.id(text).and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| format!("the vocabulary in tokenizer.json has no {text:.40}, which {name} needs"))
        };
        let (first, separator) = (token(self.config, "cls_token", "[CLS]"), token(self.config, "sep_token", "[SEP]"));
        id(&unknown)?;
        let wanted = PairTemplate::bert((&first, id(&first)?), (&separator, id(&separator)?));
        if PairTemplate::read(&self.tokenizer["post_processor"]).as_ref() != Some(&wanted) {
            self.changes.push(format!("a pair is {first} query {separator} document {separator}, as {name} has it"));
            self.tokenizer["post_processor"] = wanted.to_json();
        }
        Ok(())
    }

    fn set_normalizer(&mut self, name: &str) {
        let flag = |field: &str, default| self.config[field].as_bool().unwrap_or(default);
        let (lowercase, chinese) = (flag("do_lower_case", true), flag("tokenize_chinese_chars", true));
        let strip = self.config["strip_accents"].as_bool();
        let own = &self.tokenizer["normalizer"];
        let same = own["type"] == "BertNormalizer"
            && own["clean_text"].as_bool().unwrap_or(true)
            && own["handle_chinese_chars"].as_bool().unwrap_or(true) == chinese
            && own["lowercase"].as_bool().unwrap_or(true) == lowercase
            && own["strip_accents"].as_bool().unwrap_or(own["lowercase"].as_bool().unwrap_or(true))
                == strip.unwrap_or(lowercase);
        if !same {
            let yes = |is_so: bool, words: &'static str| if is_so { words } else { "" };
            self.changes.push(format!(
                "texts are {}{}{}, as {TOKENIZER_CONFIG_FILE} or the defaults of {name} say",
                if lowercase { "lower-cased" } else { "not lower-cased" },
                if strip.unwrap_or(lowercase) { ", accents are removed" } else { ", accents stay" },
                yes(!chinese, ", Chinese characters are not set apart"),
            ));
            self.tokenizer["normalizer"] = json!({
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": chinese, "strip_accents": strip,
                "lowercase": lowercase,
            });
        }
    }

    /// Special tokens of the vocabulary that the file does not list are special for the class all the same.
    fn add_special_tokens(&mut self) {
        let names = [
            ("pad_token", "[PAD]"),
            ("unk_token", "[UNK]"),
            ("cls_token", "[CLS]"),
            ("sep_token", "[SEP]"),
            ("mask_token", "[MASK]"),
        ];
        let mut missing = Vec::new();
        for (field, default) in names {
            let text = token(self.config, field, default);
            let vocabulary = self.tokenizer["model"]["vocab"][&text].as_u64();
            let listed = self.tokenizer["added_tokens"].as_array().into_iter().flatten();
            if let Some(id) = vocabulary.filter(|_| !listed.into_iter().any(|entry| entry["content"] == text.as_str()))
            {
                missing.push(json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                }));
            }
        }
        if missing.is_empty() {
            return;
        }
        let mut added = self.tokenizer["added_tokens"].as_array().cloned().unwrap_or_default();
        added.append(&mut missing);
        added.sort_by_key(|entry| entry["id"].as_u64());
        self.tokenizer["added_tokens"] = added.into();
    }

    /// Puts lower-casing before the normalizer, unless it has that.
    fn lowercase(&mut self) {
        let own = self.tokenizer["normalizer"].take();
        let parts = steps(&own, "normalizers").to_vec();
        if parts.iter().any(|part| part["type"] == "Lowercase" || part["lowercase"] == true) {
            self.tokenizer["normalizer"] = own;
            return;
        }
        let parts: Vec<Value> = std::iter::once(json!({ "type": "Lowercase" })).chain(parts).collect();
        self.tokenizer["normalizer"] = json!({ "type": "Sequence", "normalizers": parts });
        self.changes.push("texts are lower-cased, as do_lower_case of sentence-transformers says".to_owned());
    }

    /// Gives every token the type 0.
    fn drop_token_types(&mut self, name: &str) -> Result<(), String> {
        let processor = &mut self.tokenizer["post_processor"];
        match pair_template::without_types(processor) {
            Some(false) => {}
            Some(true) => self.changes.push(format!(
                "tokens of the document have no type of their own: model_input_names of {name} has no token_type_ids"
            )),
            None => {
                let kind = processor["type"].as_str().unwrap_or("unknown");
                return Err(format!(
                    "model_input_names has no token_type_ids, which is not supported with a post-processor {kind:.40}"
                ));
            }
        }
        Ok(())
    }
}
