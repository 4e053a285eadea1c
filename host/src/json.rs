//! Requests as JSON: what request files and HTTP bodies have in common.
//!
//! JSON from outside is walked and never built. [`fields`] and [`elements`] give the text of each value in place, so
//! the caller decides what to keep before anything is allocated. A value that is not kept costs no memory, however deep
//! or wide it is.

pub mod text;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The UTF-8 byte order mark, which some editors write before JSON.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One line of a requests file. Fields that we do not know are ignored: such files carry labels and ids of their own.
#[derive(Debug, Deserialize)]
pub struct RequestLine {
    /// The text to rank the documents for.
    pub query: String,
    /// The candidate documents.
    pub documents: Vec<Document>,
}

/// A document of a file: a string, or an object with a `text`. Other fields of the object are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(String);

impl From<Document> for String {
    fn from(Document(text): Document) -> Self {
        text
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object with a \"text\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Document, E> {
                Ok(Document(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Document, E> {
                Ok(Document(text))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Document, M::Error> {
                let mut text = None;
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    if name == "text" {
                        text = Some(Document(map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                text.ok_or_else(|| M::Error::missing_field("text"))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// Why bytes are not JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The bytes begin with the byte order mark of UTF-16.
    #[error("it is UTF-16, and must be UTF-8")]
    Utf16,
    /// The bytes are not UTF-8.
    #[error("byte {at} is not UTF-8")]
    Utf8 {
        /// The first byte that is at fault.
        at: usize,
    },
}

/// Turns bytes into text for a JSON parser: skips a byte order mark, and replaces lone surrogates as
/// [`text::replace_lone_surrogates`] does.
///
/// # Errors
/// The bytes are not UTF-8.
pub fn decode(mut bytes: Vec<u8>) -> Result<String, TextError> {
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(TextError::Utf16);
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    let text = String::from_utf8(bytes).map_err(|error| TextError::Utf8 { at: error.utf8_error().valid_up_to() })?;
    Ok(match text::replace_lone_surrogates(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(repaired) => repaired,
    })
}

/// Calls `each` with the name and the text of every field of a JSON object, until it fails. The rest is then skipped,
/// but still checked.
///
/// # Errors
/// The text is not one JSON object.
pub fn fields<'a, E>(
    text: &'a str,
    mut each: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), E>,
) -> serde_json::Result<Result<(), E>> {
    struct Walk<F>(F);

    impl<'a, E, F: FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), E>> Visitor<'a> for Walk<F> {
        type Value = Result<(), E>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'a>>(mut self, mut map: M) -> Result<Result<(), E>, M::Error> {
            let mut outcome = Ok(());
            while let Some(name) = map.next_key_seed(Name)? {
                let value = map.next_value()?;
                if outcome.is_ok() {
                    outcome = self.0(name, value);
                }
            }
            Ok(outcome)
        }
    }

    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = json.deserialize_map(Walk(&mut each))?;
    json.end()?;
    Ok(outcome)
}

/// Calls `each` with the position and the text of every element of a JSON array, until it fails. The rest is then
/// skipped, but still checked. Gives the number of elements, and what `each` said.
///
/// # Errors
/// The text is not one JSON array.
pub fn elements<'a, E>(
    text: &'a str,
    mut each: impl FnMut(usize, &'a RawValue) -> Result<(), E>,
) -> serde_json::Result<(usize, Result<(), E>)> {
    struct Walk<F>(F);

    impl<'a, E, F: FnMut(usize, &'a RawValue) -> Result<(), E>> Visitor<'a> for Walk<F> {
        type Value = (usize, Result<(), E>);

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<S: SeqAccess<'a>>(mut self, mut sequence: S) -> Result<Self::Value, S::Error> {
            let (mut count, mut outcome) = (0, Ok(()));
            while let Some(value) = sequence.next_element::<&'a RawValue>()? {
                if outcome.is_ok() {
                    outcome = self.0(count, value);
                }
                count += 1;
            }
            Ok((count, outcome))
        }
    }

    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = json.deserialize_seq(Walk(&mut each))?;
    json.end()?;
    Ok(outcome)
}

/// A field's name, borrowed from the text unless it is written with escapes.
struct Name;

impl<'a> DeserializeSeed<'a> for Name {
    type Value = Cow<'a, str>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Cow<'a, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'a str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// What kind of value a JSON text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number.
    Number,
    /// `"…"`
    String,
    /// `[…]`
    Array,
    /// `{…}`
    Object,
}

impl Kind {
    /// The kind of a text that may be no JSON, where it can be more than a short scalar.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        match text.trim_start().as_bytes().first() {
            Some(b'"') => Some(Self::String),
            Some(b'[') => Some(Self::Array),
            Some(b'{') => Some(Self::Object),
            _ => None,
        }
    }

    /// The kind of a value, by its first byte: the text is JSON already.
    #[must_use]
    pub fn of(value: &RawValue) -> Self {
        match value.get().as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'"') => Self::String,
            Some(b'[') => Self::Array,
            Some(b'{') => Self::Object,
            _ => Self::Number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_and_other_encodings_are_named() {
        assert_eq!(decode("\u{FEFF}{}".into()).as_deref(), Ok("{}"));
        assert_eq!(decode(r#""\ud83d""#.into()).as_deref(), Ok(r#""\ufffd""#));
        assert_eq!(decode(vec![0xFF, 0xFE, b'{', 0, b'}', 0]), Err(TextError::Utf16));
        assert_eq!(decode(vec![b'"', 0xC0, b'"']), Err(TextError::Utf8 { at: 1 }));
    }

    #[test]
    fn a_document_is_a_string_or_an_object_with_a_text() {
        let document = |json: &str| serde_json::from_str::<Document>(json).map(String::from);
        assert_eq!(document(r#""a\n""#).unwrap(), "a\n");
        assert_eq!(document(r#"{"id":[1,{"x":2}],"text":"b"}"#).unwrap(), "b");
        for wrong in ["3", "null", "[]", "{}", r#"{"text":3}"#] {
            let message = document(wrong).unwrap_err().to_string();
            assert!(message.contains("text") || message.contains("string"), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_walk_that_stops_still_checks_the_rest() {
        let first = |text| elements(text, |at, value| Err::<(), _>((at, value.get().to_owned())));
        assert_eq!(first("[1, 2, 3]").unwrap(), (3, Err((0, "1".to_owned()))));
        assert!(first("[1, 2").is_err());
        assert!(first("[1] 2").is_err());
        assert!(fields("[]", |_, _| Ok::<_, ()>(())).is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Walking gives what serde_json builds.
        #[test]
        fn a_walk_sees_what_the_parser_builds(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut seen = Vec::new();
            match &value {
                Value::Object(object) => {
                    let walked = fields(&text, |name, value| {
                        seen.push((name.into_owned(), serde_json::from_str::<Value>(value.get()).unwrap()));
                        Ok::<_, ()>(())
                    });
                    prop_assert!(walked.is_ok());
                    let built: Vec<_> = object.clone().into_iter().collect();
                    prop_assert_eq!(seen, built);
                }
                Value::Array(array) => {
                    let walked = elements(&text, |at, value| {
                        seen.push((at.to_string(), serde_json::from_str::<Value>(value.get()).unwrap()));
                        Ok::<_, ()>(())
                    });
                    prop_assert_eq!(walked.unwrap().0, array.len());
                    let built: Vec<_> = array.iter().enumerate().map(|(at, value)| (at.to_string(), value.clone())).collect();
                    prop_assert_eq!(seen, built);
                }
                _ => prop_assert!(fields(&text, |_, _| Ok::<_, ()>(())).is_err()),
            }
        }
    }
}
