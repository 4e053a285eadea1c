//! What a `tokenizer.json` may ask for, before it is tried: a file of a few lines can make a text of any length out of a
//! word, have a number that guests, which count in 32 bits, cannot read, or a pattern that their engine for patterns
//! reads otherwise than that of transformers.

use serde_json::Value;

use crate::model::error::TokenizerFault;

/// Most times that the normalizers together may lengthen a text. Those in use replace a character by one or two.
const MAX_GROWTH: f64 = 4096.0;

/// Most characters that the normalizers together may put before a text.
const MAX_PREPENDED: usize = 1024;

/// Deepest nesting of normalizers that is looked into.
const MAX_DEPTH: usize = 16;

/// Letters that a pattern for any case may fold into one character, as ß is ss in Oniguruma.
const FOLDED: [&str; 5] = ["ff", "fi", "fl", "ss", "st"];

/// A part of a pattern that guests, whose engine is written in Rust, read otherwise than transformers' Oniguruma.
struct Odd {
    part: &'static str,
    means: &'static str,
    instead: &'static str,
}

/// Letters and digits, or their border: joiners (as in 👩‍👧) and some other signs are none of them in Oniguruma.
const WORDS: Odd =
    Odd { part: r"\w or \b", means: "other characters", instead: r"name them instead, as in [\p{L}\p{M}\p{N}_]" };

/// Classes of ASCII in Rust, and of Unicode in Oniguruma.
const POSIX: Odd =
    Odd { part: "[:…:]", means: "other characters", instead: r"name them instead, as in [\p{L}] for [[:alpha:]]" };

/// The ends of a text in Rust, and of each of its lines in Oniguruma.
const LINES: Odd =
    Odd { part: "^ or $", means: "the ends of every line", instead: r"write \A or \z for those of a text" };

/// One character for one in Rust.
const FOLDING: Odd =
    Odd { part: "(?i)", means: "several letters for one, such as ss for ß", instead: "name both cases, as in [Ss]" };

/// Refuses a tokenizer that asks for more.
pub(super) fn check(tokenizer: &Value) -> Result<(), TokenizerFault> {
    // The vocabulary's ids are checked with it.
    let is_small = |part: &str| !["model", "added_tokens", "vocab", "merges"].contains(&part);
    let fields = [tokenizer, &tokenizer["model"]].into_iter().filter_map(Value::as_object).flatten();
    let numbers = fields.filter(|(part, _)| is_small(part)).map(|(_, value)| largest_number(value));
    let largest = numbers.max().unwrap_or(0);
    if largest > u64::from(u32::MAX) {
        let message = format!("it has the number {largest}, and guests count to {}", u32::MAX);
        return Err(TokenizerFault::Unreadable(message));
    }
    for part in ["normalizer", "pre_tokenizer"] {
        if let Some((pattern, Odd { part: odd, means, instead })) = odd_pattern(&tokenizer[part], MAX_DEPTH) {
            return Err(TokenizerFault::Unreadable(format!(
                "its {part} has the pattern {pattern:.60?}: {odd} means {means} in transformers; {instead}"
            )));
        }
    }
    let mut growth = Growth { times: 1.0, prepended: 0 };
    growth.add(&tokenizer["normalizer"], MAX_DEPTH);
    match growth {
        Growth { times, .. } if times > MAX_GROWTH => {
            Err(TokenizerFault::Unreadable(format!("its normalizers may lengthen a text more than {MAX_GROWTH} times")))
        }
        Growth { prepended, .. } if prepended > MAX_PREPENDED => Err(TokenizerFault::Unreadable(format!(
            "its normalizers put {prepended} characters before a text, the most is {MAX_PREPENDED}"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a tokenizer, as it is used, whose ids are drawn by lot.
pub(super) fn check_dropout(tokenizer: &Value) -> Result<(), TokenizerFault> {
    match tokenizer["model"]["dropout"].as_f64().unwrap_or_default() {
        0.0 => Ok(()),
        dropout => Err(TokenizerFault::Unreadable(format!(
            "its model has the dropout {dropout}, so that a text has other ids each time: set it to null"
        ))),
    }
}

fn largest_number(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::Array(values) => values.iter().map(largest_number).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(largest_number).max().unwrap_or(0),
        _ => 0,
    }
}

/// A pattern that is read otherwise, and why.
fn odd_pattern(part: &Value, depth: usize) -> Option<(&str, Odd)> {
    match part {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| match (name.as_str(), value.as_str()) {
            ("Regex", Some(pattern)) => odd(pattern).map(|odd| (pattern, odd)),
            _ => odd_pattern(value, depth.checked_sub(1)?),
        }),
        Value::Array(values) => values.iter().find_map(|value| odd_pattern(value, depth.checked_sub(1)?)),
        _ => None,
    }
}

fn odd(pattern: &str) -> Option<Odd> {
    let (mut depth, mut starts_class, mut rest) = (0, false, pattern);
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        let begins_class = std::mem::take(&mut starts_class);
        match character {
            '\\' => {
                let escaped = after.chars().next();
                if let Some('w' | 'W' | 'b' | 'B') = escaped {
                    return Some(WORDS);
                }
                rest = &after[escaped.map_or(0, char::len_utf8)..];
                continue;
            }
            '[' if depth > 0 && after.starts_with(':') && after.contains(":]") => return Some(POSIX),
            '[' => (depth, starts_class) = (depth + 1, true),
            // At the start of a class it stands for itself.
            ']' if depth > 0 && !begins_class => depth -= 1,
            '^' if begins_class => starts_class = true,
            '^' | '$' if depth == 0 => return Some(LINES),
            '(' if depth == 0 && folds(after) => {
                let lower = pattern.to_lowercase();
                if !pattern.is_ascii() || FOLDED.iter().any(|letters| lower.contains(letters)) {
                    return Some(FOLDING);
                }
            }
            _ => {}
        }
        rest = after;
    }
    None
}

/// Whether a group's flags ask for any case.
fn folds(group: &str) -> bool {
    let flags = group.strip_prefix('?').unwrap_or_default();
    flags.chars().take_while(char::is_ascii_lowercase).any(|flag| flag == 'i')
}

/// The most that normalizers make of a text.
struct Growth {
    times: f64,
    prepended: usize,
}

impl Growth {
    fn add(&mut self, normalizer: &Value, depth: usize) {
        let chars = |value: &Value| value.as_str().map_or(0, |text| text.chars().count());
        match normalizer["type"].as_str() {
            Some("Sequence") if depth == 0 => self.times = f64::INFINITY,
            Some("Sequence") => {
                let parts = normalizer["normalizers"].as_array().into_iter().flatten();
                parts.for_each(|part| self.add(part, depth - 1));
            }
            Some("Prepend") => self.prepended += chars(&normalizer["prepend"]),
            Some("Replace") => {
                let content = chars(&normalizer["content"]) as f64;
                let pattern = &normalizer["pattern"];
                let regex = pattern["Regex"].as_str().unwrap_or_default();
                let times = match chars(&pattern["String"]) {
                    0 if matches_nothing(regex) => content + 1.0,
                    0 => content,
                    length => content / length as f64,
                };
                self.times *= times.max(1.0);
            }
            _ => {}
        }
    }
}

/// Whether a pattern may match the empty text, and so between any two characters. It may if it cannot be read here.
fn matches_nothing(pattern: &str) -> bool {
    !regex_syntax::parse(pattern).is_ok_and(|hir| hir.properties().minimum_len() != Some(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_normalizers(normalizers: &[Value]) -> Result<(), TokenizerFault> {
        check(&json!({ "normalizer": { "type": "Sequence", "normalizers": normalizers } }))
    }

    #[test]
    fn normalizers_that_make_a_text_very_long_are_refused() {
        let replace =
            |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
        let longer = replace(json!({ "String": "a" }), &"a".repeat(40));
        assert!(check_normalizers(&vec![longer.clone(); 2]).is_ok());
        assert!(check_normalizers(&vec![longer; 3]).unwrap_err().to_string().contains("lengthen a text"));
        for pattern in ["x*", "()", r"\B", r"\b", "", "^", "(?=x)", "(?:x|)"] {
            let empty = replace(json!({ "Regex": pattern }), "y");
            assert!(check_normalizers(&vec![empty; 13]).is_err(), "{pattern:?}");
        }
        let mark = [replace(json!({ "Regex": " {2,}" }), "▁"), replace(json!({ "String": "``" }), "\"")];
        assert!(check_normalizers(&mark.iter().cycle().take(100).cloned().collect::<Vec<_>>()).is_ok());
        let prepend = json!({ "type": "Prepend", "prepend": "▁".repeat(600) });
        assert!(check_normalizers(std::slice::from_ref(&prepend)).is_ok());
        assert!(check_normalizers(&vec![prepend; 2]).unwrap_err().to_string().contains("1200 characters before"));
    }

    #[test]
    fn patterns_that_another_engine_reads_otherwise_are_refused() {
        let split = |pattern: &str| {
            let part =
                json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
            check(&json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": [part] } }))
        };
        for pattern in [
            r"\w+|[^\w\s]+",
            r"\b",
            r"\\\w",
            "[[:word:]]+",
            "[[:alpha:]]+|.",
            "[^[:^punct:]]",
            "[]a[:digit:]]",
            ".$",
            "^.",
            "(?m)^.",
            "a|^ ",
            "(?i)ss",
            "(?i:FI|x)",
            "x(?si)é",
        ] {
            let error = split(pattern).unwrap_err().to_string();
            assert!(error.contains(" in transformers; "), "{error}");
        }
        for pattern in [
            r"\s+",
            r"\p{L}+| ?[^\s\p{L}\p{N}]+",
            r"\\w",
            "word",
            r"\^\$",
            r"[$^]",
            "[^$]",
            "[]^]",
            "a:]",
            "(?i:'s|'ll|'re)",
            "(?:ss|fi)",
            "(?=fi)",
            r"\Aa\z",
        ] {
            assert!(split(pattern).is_ok(), "{pattern}: {:?}", split(pattern));
        }
    }

    #[test]
    fn ids_that_are_drawn_by_lot_are_refused() {
        let with = |dropout: Value| check_dropout(&json!({ "model": { "dropout": dropout } }));
        assert!(with(json!(null)).is_ok() && with(json!(0.0)).is_ok());
        assert!(with(json!(0.1)).unwrap_err().to_string().contains("the dropout 0.1"));
    }

    #[test]
    fn numbers_that_guests_cannot_read_are_refused() {
        let padded = |length: u64| json!({ "padding": { "strategy": { "Fixed": length } } });
        assert!(check(&padded(512)).is_ok());
        let error = check(&padded(1 << 40)).unwrap_err().to_string();
        assert!(error.contains("the number 1099511627776, and guests count to 4294967295"), "{error}");
    }
}
