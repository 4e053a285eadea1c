//! Tokens that `transformers` adds over the vocabulary when it loads a tokenizer: a text is cut out around them before
//! it is split into words, so one that is missing changes the tokens of every text that has it.
//!
//! They stand in `tokenizer.json`, in `added_tokens_decoder` of `tokenizer_config.json`, or else in the older files
//! `special_tokens_map.json` and `added_tokens.json`; every special token that a file names is added too.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Class, Rewrite};
use crate::model::error::ModelError;
use crate::model::hugging_face::{self, ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE};

/// The special tokens that have a role.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Special tokens without a role, by their name now and before.
const EXTRA: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// The flags of an added token.
const FLAGS: [&str; 5] = ["single_word", "lstrip", "rstrip", "normalized", "special"];

/// Most changes of tokens that are told one by one.
const TOLD: usize = 5;

/// What the older files say. They count only if `tokenizer_config.json` has no `added_tokens_decoder`: then each
/// field of `special_tokens_map.json` takes the place of its own field of that name.
#[derive(Debug, Default)]
pub(super) struct OlderFiles {
    special: Value,
    added: Value,
}

impl OlderFiles {
    pub(super) fn read(dir: &Path, config: &Value) -> Result<Self, ModelError> {
        if config["added_tokens_decoder"].is_object() {
            return Ok(Self::default());
        }
        let read = |file| Ok::<_, ModelError>(hugging_face::read(dir, file)?.unwrap_or_default());
        Ok(Self { special: read(SPECIAL_TOKENS_FILE)?, added: read(ADDED_TOKENS_FILE)? })
    }

    /// The configuration with the fields of `special_tokens_map.json` over its own.
    pub(super) fn over(&self, mut config: Value) -> Value {
        for (field, value) in self.special.as_object().into_iter().flatten() {
            let mut value = value.clone();
            if value.is_object() && value.get("content").is_some() {
                value["special"] = Value::Bool(true);
                value["__type"] = json!("AddedToken");
            }
            if let (Some(own), Some(more)) = (config[field].as_array(), value.as_array())
                && field == EXTRA[0]
            {
                value = own.iter().chain(more).cloned().collect();
            }
            config[field] = value;
        }
        config
    }

    /// The file that has a field.
    fn file_of(&self, field: &str) -> &'static str {
        if self.special.get(field).is_some() { SPECIAL_TOKENS_FILE } else { TOKENIZER_CONFIG_FILE }
    }
}

/// A token that a file names.
struct Named {
    content: String,
    /// Those that the file has.
    flags: Map<String, Value>,
    is_special: bool,
    /// Whether the class has it, and no file.
    is_default: bool,
    /// The file and field.
    named_by: String,
}

impl Named {
    fn of(value: &Value, is_special: bool, named_by: &str) -> Option<Self> {
        let content = value.as_str().or_else(|| value["content"].as_str()).filter(|content| !content.is_empty())?;
        let flags = FLAGS.iter().filter_map(|&flag| Some((flag.to_owned(), value.get(flag)?.clone())));
        let is_special = is_special || value["special"] == true;
        let (content, named_by) = (content.to_owned(), named_by.to_owned());
        Some(Self { content, flags: flags.collect(), is_special, is_default: false, named_by })
    }
}

impl Rewrite<'_> {
    /// Adds the tokens that the files name and `tokenizer.json` has only in its vocabulary, with their flags.
    ///
    /// # Errors
    /// A token is in no vocabulary and would get an id of the model, or two files contradict each other.
    pub(super) fn add_named_tokens(&mut self, older: &OlderFiles, class: Class) -> Result<(), String> {
        self.check_fields(class)?;
        let decoder = self.config["added_tokens_decoder"].as_object();
        let by_decoder = decoder.into_iter().flat_map(|tokens| tokens.values());
        let by_decoder: Vec<Named> =
            by_decoder.filter_map(|token| Named::of(token, false, "added_tokens_decoder")).collect();
        if let Some(lacking) = by_decoder.iter().find(|token| self.id(&token.content).is_none()) {
            let text = &lacking.content;
            return Err(format!("added_tokens_decoder has the token {text:.40}, which tokenizer.json lacks"));
        }
        if decoder.is_some() && class.is_rebuilt() {
            self.check_decoder_is_whole(&by_decoder, class)?;
        }
        let is_exact = decoder.is_some();
        let mut added = Vec::new();
        let by_class = self.default_tokens(class);
        for token in by_decoder.into_iter().chain(self.named_tokens(older)).chain(by_class) {
            if self.add(&token, is_exact && token.named_by == "added_tokens_decoder")? {
                added.push(format!("{:.40} of {}", token.content, token.named_by));
            }
        }
        if !added.is_empty() {
            let more = added.len().saturating_sub(TOLD);
            added.truncate(TOLD);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.changes.push(format!("tokens that texts are cut out around: {}{more}", added.join(", ")));
        }
        Ok(())
    }

    /// A class that is built anew takes its tokens from `added_tokens_decoder`, and those of `tokenizer.json` not.
    fn check_decoder_is_whole(&self, decoder: &[Named], class: Class) -> Result<(), String> {
        let (by_file, by_class) = (self.named_tokens(&OlderFiles::default()), self.default_tokens(class));
        let is_named =
            |content: &str| decoder.iter().chain(&by_file).chain(&by_class).any(|token| token.content == content);
        let listed = self.tokenizer["added_tokens"].as_array().into_iter().flatten();
        match listed.filter_map(|entry| entry["content"].as_str()).find(|content| !is_named(content)) {
            Some(text) => Err(format!("added_tokens_decoder lacks the token {text:.40}, which tokenizer.json adds")),
            None => Ok(()),
        }
    }

    /// Refuses fields about tokens that contradict each other, or turn off what a class has.
    fn check_fields(&self, class: Class) -> Result<(), String> {
        let [now, before] = EXTRA.map(|extra| &self.config[extra]);
        let is_set = |value: &Value| value.as_array().is_some_and(|tokens| !tokens.is_empty()) || value.is_object();
        if is_set(now) && is_set(before) && now != before {
            return Err(format!("{} and {} name other tokens: keep the first", EXTRA[0], EXTRA[1]));
        }
        let null = self.default_tokens_of(class).find(|(role, _)| self.config.get(role).is_some_and(Value::is_null));
        match null {
            Some((role, token)) => Err(format!(
                "{role} is null, and tokenizers of this class have {token}: remove the field, or give the token"
            )),
            None => Ok(()),
        }
    }

    /// The special tokens of a class by their roles.
    fn default_tokens_of(&self, class: Class) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let defaults = match class {
            Class::Plain | Class::DebertaV2 => [""; ROLES.len()],
            Class::Bert { .. } => ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"],
            Class::Roberta | Class::XlmRoberta => ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"],
        };
        ROLES.into_iter().zip(defaults).filter(|(_, token)| !token.is_empty())
    }

    /// The special tokens of a class in roles that the configuration leaves open.
    fn default_tokens(&self, class: Class) -> Vec<Named> {
        let open = self.default_tokens_of(class).filter(|(role, _)| self.config.get(role).is_none());
        let named = |(role, token)| {
            Named::of(&json!(token), true, &format!("the default {role}"))
                .map(|token| Named { is_default: true, ..token })
        };
        open.filter_map(named).collect()
    }

    /// Special tokens that the configuration and the older files name, and the tokens of `added_tokens.json`.
    fn named_tokens(&self, older: &OlderFiles) -> Vec<Named> {
        let mut named = Vec::new();
        for (field, value) in self.config.as_object().into_iter().flatten() {
            let by = format!("{field:.60} in {}", older.file_of(field));
            if EXTRA.contains(&field.as_str()) {
                let listed = value.as_array().into_iter().flatten();
                let by_name = value.as_object().into_iter().flat_map(|tokens| tokens.values());
                named.extend(listed.chain(by_name).filter_map(|token| Named::of(token, true, &by)));
            // Of roles that no class has, only what is a token for sure.
            } else if ROLES.contains(&field.as_str())
                || (field.ends_with("_token") && (value.is_string() || value["__type"] == "AddedToken"))
            {
                named.extend(Named::of(value, true, &by));
            }
        }
        let by_older = older.added.as_object().into_iter().flat_map(|tokens| tokens.keys());
        named.extend(by_older.filter_map(|token| Named::of(&json!(token), false, ADDED_TOKENS_FILE)));
        named
    }

    /// Adds a token, or sets the flags of one that is there if they count. Returns whether anything changed.
    fn add(&mut self, token: &Named, flags_count: bool) -> Result<bool, String> {
        let mut entries = self.tokenizer["added_tokens"].as_array().cloned().unwrap_or_default();
        if let Some(entry) = entries.iter_mut().find(|entry| entry["content"] == token.content.as_str()) {
            let differs = |flag: &&&str| token.flags.get(**flag).is_some_and(|value| entry[**flag] != *value);
            let changed: Vec<&str> = FLAGS.iter().filter(differs).copied().collect();
            if !flags_count || changed.is_empty() {
                return Ok(false);
            }
            for flag in changed {
                entry[flag] = token.flags[flag].clone();
            }
            self.tokenizer["added_tokens"] = entries.into();
            return Ok(true);
        }
        let id = match self.id(&token.content) {
            Some(id) => id,
            // Beyond the model's vocabulary `transformers` fails for a text with the token; within it the token works.
            None if self.next_id() >= self.vocab_size as u64 => return Ok(false),
            None if token.is_default => self.next_id(),
            None => {
                let (text, named_by) = (&token.content, &token.named_by);
                return Err(format!(
                    "{named_by} has the token {text:.40}, which tokenizer.json lacks: load and save the tokenizer with \
                     transformers, which gives it an id"
                ));
            }
        };
        let flag = |name: &str, default: bool| token.flags.get(name).and_then(Value::as_bool).unwrap_or(default);
        entries.push(json!({
            "id": id, "content": token.content, "single_word": flag("single_word", false),
            "lstrip": flag("lstrip", false), "rstrip": flag("rstrip", false),
            "normalized": flag("normalized", !token.is_special), "special": token.is_special,
        }));
        entries.sort_by_key(|entry| entry["id"].as_u64());
        self.tokenizer["added_tokens"] = entries.into();
        Ok(true)
    }

    /// The id that a new token would get.
    fn next_id(&self) -> u64 {
        let vocabulary = &self.tokenizer["model"]["vocab"];
        let size = vocabulary.as_object().map_or_else(|| vocabulary.as_array().map_or(0, Vec::len), Map::len) as u64;
        let added = self.tokenizer["added_tokens"].as_array().into_iter().flatten();
        added.filter_map(|entry| entry["id"].as_u64()).map(|id| id + 1).max().unwrap_or(0).max(size)
    }
}
