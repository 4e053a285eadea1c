//! JSON text as programs really write it: repairs what a strict parser refuses although its meaning is plain.
//!
//! JavaScript and Python write half of a surrogate pair as an escape (`"\ud83d"`) if a text was cut in the middle of an
//! emoji. No UTF-8 text can hold that half. The Unicode standard replaces it by U+FFFD, and so do browsers.

use std::borrow::Cow;

/// The escape that replaces a lone surrogate. It has the length of the escape that it replaces, so positions in a
/// parser's messages stay right.
const REPLACEMENT: &[u8] = b"\\ufffd";

/// Replaces every escape of a lone surrogate by U+FFFD's. A pair stays as it is, and so does everything else.
///
/// The result has as many bytes as `json`. Text that is no JSON is not made any better or worse: a backslash has this
/// meaning only inside strings, and valid JSON has none elsewhere.
#[must_use]
pub fn replace_lone_surrogates(json: &str) -> Cow<'_, str> {
    let mut repaired: Option<String> = None;
    let mut at = 0;
    // What lies before `kept` is in `repaired` already.
    let mut kept = 0;
    while let Some(found) = json[at..].find('\\') {
        let escape = at + found;
        let rest = &json.as_bytes()[escape..];
        at = escape
            + match (code_unit(rest), rest.get(6..).and_then(code_unit)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * REPLACEMENT.len(),
                (Some(0xD800..=0xDFFF), _) => {
                    let text = repaired.get_or_insert_with(|| String::with_capacity(json.len()));
                    text.push_str(&json[kept..escape]);
                    text.push_str("\\ufffd");
                    kept = escape + REPLACEMENT.len();
                    REPLACEMENT.len()
                }
                (Some(_), _) => REPLACEMENT.len(),
                // The backslash and the character that it escapes, which may be longer than a byte in text that is no
                // JSON.
                (None, _) => 1 + json[escape + 1..].chars().next().map_or(0, char::len_utf8),
            };
    }
    match repaired {
        Some(mut text) => {
            text.push_str(&json[kept..]);
            Cow::Owned(text)
        }
        None => Cow::Borrowed(json),
    }
}

/// The code unit of an escape `\uXXXX` at the beginning of a text.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_an_emoji_becomes_the_replacement_character() {
        for (json, text) in [
            (r#""a cake \ud83d""#, "a cake \u{fffd}"),
            (r#""\uDE00 left over""#, "\u{fffd} left over"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        ] {
            let repaired = replace_lone_surrogates(json);
            assert_eq!(serde_json::from_str::<String>(&repaired).unwrap(), text, "{json}");
            assert_eq!(repaired.len(), json.len(), "{json}");
        }
    }

    #[test]
    fn whole_pairs_and_escaped_backslashes_are_left_alone() {
        for json in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\\\\ud83d""#, r#""\u00e9 \t""#, "\"é\"", "\\é", "\\"] {
            assert!(matches!(replace_lone_surrogates(json), Cow::Borrowed(_)), "{json}");
        }
        // An escaped backslash, then an escape that is a lone surrogate.
        assert_eq!(replace_lone_surrogates(r#""\\\ud83d""#), r#""\\\ufffd""#);
    }

    proptest! {
        /// Any code units, escaped, decode as UTF-16 does with losses.
        #[test]
        fn any_code_units_decode_as_lossy_utf16(units in prop::collection::vec(
            prop_oneof![any::<u16>(), 0xD7FEu16..0xE002], 0..12))
        {
            let json: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let repaired = format!("\"{}\"", replace_lone_surrogates(&json));
            prop_assert_eq!(serde_json::from_str::<String>(&repaired).unwrap(), String::from_utf16_lossy(&units));
        }

        /// Any text, JSON or not: no panic, and the same length.
        #[test]
        fn any_text_keeps_its_length(text in r#"(\\|u|d8|3d|de00|[^a]){0,24}"#) {
            prop_assert_eq!(replace_lone_surrogates(&text).len(), text.len());
        }
    }
}
