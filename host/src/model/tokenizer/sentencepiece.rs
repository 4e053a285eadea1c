//! The classes of `transformers` that keep the vocabulary of `tokenizer.json` and replace the rest by what RoBERTa's or
//! XLM-RoBERTa's tokenizer has, and DeBERTa's, whose file is kept.

use serde_json::{Value, json};

use super::pair_template::PairTemplate;
use super::{Rewrite, steps, token};

impl Rewrite<'_> {
    /// `RobertaTokenizer`: byte-level BPE without a normalizer.
    pub(super) fn as_roberta(&mut self, name: &str) -> Result<(), String> {
        self.check_model(name, "BPE")?;
        let model = &mut self.tokenizer["model"];
        for (field, value) in [
            ("dropout", json!(null)),
            ("unk_token", json!(null)),
            ("continuing_subword_prefix", json!("")),
            ("end_of_word_suffix", json!("")),
            ("fuse_unk", json!(false)),
            ("byte_fallback", json!(false)),
            ("ignore_merges", json!(false)),
        ] {
            let own = &model[field];
            // Absent, null, empty and false mean the same.
            let is_off = own.is_null() || *own == "" || *own == false || own.as_f64() == Some(0.0);
            if !is_off {
                self.changes.push(format!("{field} is {value}, as {name} has it, in place of {own:.40}"));
                model[field] = value;
            }
        }
        self.set_part("normalizer", json!(null), &format!("texts are not normalized, as {name} has no normalizer"));
        let prefix = self.config["add_prefix_space"].as_bool().unwrap_or(false);
        let own = &self.tokenizer["pre_tokenizer"];
        let is_same = own["type"] == "ByteLevel"
            && own["add_prefix_space"].as_bool().unwrap_or(true) == prefix
            && own["use_regex"].as_bool().unwrap_or(true);
        if !is_same {
            let begins = if prefix { "with" } else { "without" };
            self.changes.push(format!(
                "texts are split by bytes and begin {begins} a space, as add_prefix_space or the default of {name} says"
            ));
            self.tokenizer["pre_tokenizer"] =
                json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
        }
        self.set_pair(name, ["cls_token", "sep_token"])
    }

    /// `XLMRobertaTokenizer` and `CamembertTokenizer`: a Unigram model over words that begin with a mark.
    pub(super) fn as_xlm_roberta(&mut self, name: &str) -> Result<(), String> {
        self.check_model(name, "Unigram")?;
        let unknown = match name {
            "CamembertTokenizer" => self.place(&token(self.config, "unk_token", "<unk>")).unwrap_or(0),
            _ => 3,
        };
        let model = &mut self.tokenizer["model"];
        for (field, value) in [("unk_id", json!(unknown)), ("byte_fallback", json!(false))] {
            let own = &model[field];
            if *own != value && !(own.is_null() && value == false) {
                self.changes.push(format!("{field} is {value}, as {name} has it, in place of {own:.40}"));
                model[field] = value;
            }
        }
        let normalizer = charsmap(&self.tokenizer["normalizer"]);
        self.set_part("normalizer", normalizer, &format!("texts are normalized as {name} does, by its map alone"));
        let scheme = if self.config["add_prefix_space"].as_bool().unwrap_or(true) { "always" } else { "never" };
        let wanted = json!({ "type": "Sequence", "pretokenizers": [
            { "type": "WhitespaceSplit" },
            { "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true },
        ]});
        if !is_words_with_mark(&self.tokenizer["pre_tokenizer"], scheme) {
            self.set_part("pre_tokenizer", wanted, &format!("texts are split at white space, as {name} does"));
        }
        self.set_pair(name, ["bos_token", "eos_token"])
    }

    /// `DebertaV2Tokenizer`: `tokenizer.json` is used as it is, as transformers 4 did when these models were trained.
    /// What transformers 5 would build otherwise is told, and what a file's settings ask for must be in it.
    pub(super) fn check_deberta(&mut self, name: &str) -> Result<(), String> {
        let normalizers = steps(&self.tokenizer["normalizer"], "normalizers").to_vec();
        let splits = steps(&self.tokenizer["pre_tokenizer"], "pretokenizers").to_vec();
        let mut wanted_normalizers = vec![
            json!({ "type": "Replace", "pattern": { "Regex": r"\s{2,}|[\n\r\t]" }, "content": " " }),
            json!({ "type": "NFC" }),
            json!({ "type": "Strip", "strip_left": false, "strip_right": true }),
        ];
        let scheme = if self.config["add_prefix_space"].as_bool().unwrap_or(true) { "always" } else { "first" };
        let mut wanted_splits =
            vec![json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true })];
        let lowercase = json!({ "type": "Lowercase" });
        let punctuation = json!({ "type": "Punctuation", "behavior": "Isolated" });
        for (field, part, own, wanted) in [
            ("do_lower_case", lowercase, &normalizers, &mut wanted_normalizers),
            ("split_by_punct", punctuation, &splits, &mut wanted_splits),
        ] {
            if self.config[field] != true {
                continue;
            }
            if !own.iter().any(|own| own["type"] == part["type"]) {
                return Err(format!(
                    "{field} is true, and tokenizer.json has no {}: save the tokenizer with transformers 5, which writes \
                     it there, or set {field} to false",
                    part["type"]
                ));
            }
            wanted.insert(0, part);
        }
        let id = |text: String| Some((self.id(&text).and_then(|id| u32::try_from(id).ok())?, text));
        let first = id(token(self.config, "cls_token", "[CLS]"));
        let pair = first.zip(id(token(self.config, "sep_token", "[SEP]")));
        let pair = pair.map(|((first_id, first), (id, last))| PairTemplate::bert((&first, first_id), (&last, id)));
        let others: Vec<&str> = [
            (normalizers != wanted_normalizers, "normalizer"),
            (splits != wanted_splits, "pre-tokenizer"),
            (PairTemplate::read(&self.tokenizer["post_processor"]) != pair, "order of a pair's tokens"),
        ]
        .into_iter()
        .filter_map(|(is_other, part)| is_other.then_some(part))
        .collect();
        if !others.is_empty() {
            self.notes.push(format!(
                "tokenizer.json is used as it is, as transformers 4 did; transformers 5 builds another {} for {name}, so its \
                 scores may differ: save the tokenizer with transformers 5 to have those",
                others.join(" and another ")
            ));
        }
        Ok(())
    }

    fn check_model(&self, name: &str, wanted: &str) -> Result<(), String> {
        let model = &self.tokenizer["model"];
        let is_it = match wanted {
            "BPE" => model["merges"].is_array() && model["vocab"].is_object(),
            _ => model["vocab"].is_array(),
        };
        let kind = model["type"].as_str();
        if is_it && kind.is_none_or(|kind| kind == wanted) {
            return Ok(());
        }
        Err(format!(
            "tokenizer_class is {name}, and tokenizer.json has a model of the type {:.40}: set tokenizer_class to \
             PreTrainedTokenizerFast to tokenise as the file says",
            kind.unwrap_or("unknown")
        ))
    }

    fn place(&self, token: &str) -> Option<usize> {
        self.tokenizer["model"]["vocab"].as_array()?.iter().position(|entry| entry[0] == token)
    }

    fn set_part(&mut self, part: &str, wanted: Value, told: &str) {
        if self.tokenizer[part] != wanted {
            self.changes.push(told.to_owned());
            self.tokenizer[part] = wanted;
        }
    }

    /// `<s> query </s></s> document </s>`, all of type 0, with the tokens in two roles.
    fn set_pair(&mut self, name: &str, [first, separator]: [&str; 2]) -> Result<(), String> {
        let (first, separator) = (token(self.config, first, "<s>"), token(self.config, separator, "</s>"));
        let id = |text: &str| {
            let id = self.id(text).and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| format!("the vocabulary in tokenizer.json has no {text:.40}, which {name} needs"))
        };
        let wanted = PairTemplate::roberta((&first, id(&first)?), (&separator, id(&separator)?));
        if PairTemplate::read(&self.tokenizer["post_processor"]).as_ref() != Some(&wanted) {
            self.changes.push(format!(
                "a pair is {first} query {separator} {separator} document {separator}, as {name} has it"
            ));
            self.tokenizer["post_processor"] = wanted.to_json();
        }
        Ok(())
    }
}

/// The map of characters in a normalizer, which is all that the classes keep of it.
fn charsmap(normalizer: &Value) -> Value {
    steps(normalizer, "normalizers").iter().find(|part| part["type"] == "Precompiled").cloned().unwrap_or_default()
}

fn is_words_with_mark(pre_tokenizer: &Value, scheme: &str) -> bool {
    let Some([words, mark]) = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) else { return false };
    // Before tokenizers 0.15 a flag said whether the mark is added.
    let own_scheme = match (mark["prepend_scheme"].as_str(), mark["add_prefix_space"].as_bool()) {
        (Some(scheme), _) => scheme,
        (None, Some(false)) => "never",
        (None, _) => "always",
    };
    words["type"] == "WhitespaceSplit"
        && mark["type"] == "Metaspace"
        && mark["replacement"] == "▁"
        && mark["split"].as_bool().unwrap_or(true)
        && own_scheme == scheme
}
