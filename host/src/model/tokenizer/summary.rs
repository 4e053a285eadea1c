//! A tokenizer in words: each part of `tokenizer.json` with its settings, without its vocabulary.

use serde::Serialize;
use serde_json::Value;

/// Longest text of a setting that is shown: a compiled character map has hundreds of kilobytes.
const MAX_SETTING_CHARS: usize = 60;

/// Longest description of a part: sequences may have any number of steps.
const MAX_PART_CHARS: usize = 600;

/// The parts of a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizerSummary {
    /// How words become tokens.
    pub model: String,
    /// How a text is changed first.
    pub normalizer: String,
    /// How a text is cut into words.
    pub pre_tokenizer: String,
    /// What is put around the texts of a row.
    pub post_processor: String,
    /// Tokens that are found in a text before it is cut into words.
    pub added_tokens: usize,
}

impl TokenizerSummary {
    pub(in crate::model) fn of(tokenizer: &Value) -> Self {
        let part = |name: &str| cut(&part(&tokenizer[name]), MAX_PART_CHARS);
        Self {
            model: part("model"),
            normalizer: part("normalizer"),
            pre_tokenizer: part("pre_tokenizer"),
            post_processor: part("post_processor"),
            added_tokens: tokenizer["added_tokens"].as_array().map_or(0, Vec::len),
        }
    }
}

/// A part's type and settings; for a sequence, those of its steps.
fn part(value: &Value) -> String {
    let Some(object) = value.as_object() else { return "none".to_owned() };
    let kind = object.get("type").and_then(Value::as_str).unwrap_or("of no type");
    let steps = ["normalizers", "pretokenizers", "processors"].iter().find_map(|name| object.get(*name)?.as_array());
    if let Some(steps) = steps {
        return steps.iter().map(part).collect::<Vec<_>>().join(", then ");
    }
    if let Some(pair) = object.get("pair").and_then(Value::as_array) {
        return format!("{kind}: {}", pair.iter().map(piece).collect::<Vec<_>>().join(" "));
    }
    let settings: Vec<_> =
        object.iter().filter(|(name, _)| *name != "type").filter_map(|(name, value)| setting(name, value)).collect();
    match settings[..] {
        [] => kind.to_owned(),
        _ => format!("{kind} ({})", settings.join(", ")),
    }
}

/// A setting's name and value. None for what is not set and for tables.
fn setting(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Bool(_) | Value::Number(_) => Some(format!("{name} {value}")),
        Value::String(text) => Some(format!("{name} {:?}", cut(text, MAX_SETTING_CHARS))),
        // A pattern, as {"Regex": "…"} or {"String": "…"}.
        Value::Object(object) if object.len() == 1 => {
            let (_, text) = object.iter().next()?;
            Some(format!("{name} {:?}", cut(text.as_str()?, MAX_SETTING_CHARS)))
        }
        _ => None,
    }
}

/// A piece of a pair's template: `[CLS]`, `$A`, or `$B:1` with its token type.
fn piece(piece: &Value) -> String {
    let (sign, of) = match &piece["Sequence"] {
        Value::Null => ("", &piece["SpecialToken"]),
        sequence => ("$", sequence),
    };
    let id = cut(of["id"].as_str().unwrap_or("?"), MAX_SETTING_CHARS);
    match of["type_id"].as_u64() {
        None | Some(0) => format!("{sign}{id}"),
        Some(token_type) => format!("{sign}{id}:{token_type}"),
    }
}

/// A text without its control characters, and no longer than a number of characters.
fn cut(text: &str, most: usize) -> String {
    let mut chars = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut cut: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_part_is_shown_with_its_settings_and_without_tables() {
        let summary = TokenizerSummary::of(&json!({
            "added_tokens": [{"id": 0, "content": "<s>"}],
            "model": {"type": "BPE", "unk_token": null, "ignore_merges": true, "vocab": {"a": 0, "b": 1}, "merges": []},
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"}, {"type": "Precompiled", "precompiled_charsmap": "A".repeat(1_000)}]},
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+"}, "invert": false},
            "post_processor": {"type": "TemplateProcessing", "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}}]},
        }));
        assert_eq!(summary.model, "BPE (ignore_merges true)");
        assert_eq!(summary.normalizer, format!("NFC, then Precompiled (precompiled_charsmap \"{}…\")", "A".repeat(60)));
        assert_eq!(summary.pre_tokenizer, r#"Split (invert false, pattern "\\s+")"#);
        assert_eq!(summary.post_processor, "TemplateProcessing: <s> $A $B:1");
        assert_eq!(summary.added_tokens, 1);
    }

    #[test]
    fn what_is_missing_or_odd_is_said() {
        let summary = TokenizerSummary::of(&json!({"model": {}, "normalizer": 3}));
        assert_eq!((summary.model.as_str(), summary.normalizer.as_str()), ("of no type", "none"));
    }
}
