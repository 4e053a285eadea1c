//! Fields of documents, and conditions on them.

use std::cmp::Ordering;

use assay_guest::{Error, invalid};

/// The name under which a condition asks for the document's own text.
const TEXT: &str = "text";

/// Values of documents, by the field's name.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a> {
    fields: Vec<(&'a str, Vec<Option<&'a str>>)>,
}

impl<'a> Fields<'a> {
    /// Adds a field with a value for each document. Of one that is there twice, the values are the same.
    pub(crate) fn add(&mut self, name: &'a str, values: Vec<Option<&'a str>>) {
        self.fields.push((name, values));
    }

    /// A field's number.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting that asks for it, if it is not there.
    pub(crate) fn find(&self, setting: &str, name: &str) -> Result<usize, Error> {
        self.fields.iter().position(|(known, _)| *known == name).ok_or_else(|| {
            Error::InvalidInput(format!(
                "setting {setting} needs what is not there: no field {name:.100}; give field.{name:.100}"
            ))
        })
    }

    /// A document's value.
    pub(crate) fn value(&self, field: usize, document: usize) -> Option<&'a str> {
        *self.fields.get(field)?.1.get(document)?
    }
}

/// What a document must be like.
#[derive(Debug)]
pub(crate) struct Condition<'a> {
    /// A field's number; `None` is the text.
    field: Option<usize>,
    test: Test,
    value: &'a str,
    /// The words that a text must have, as they are compared.
    words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Is,
    IsNot,
    Less,
    Greater,
    Has,
}

/// How each test is written. Of two that begin alike, the longer one is first.
const TESTS: [(&str, Test); 5] =
    [("!=", Test::IsNot), ("=", Test::Is), ("<", Test::Less), (">", Test::Greater), ("~", Test::Has)];

impl<'a> Condition<'a> {
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if it is no condition, or one on a field that is not there.
    pub(crate) fn of(setting: &str, text: &'a str, fields: &Fields<'_>) -> Result<Self, Error> {
        let wanted = "NAME=VALUE, NAME!=VALUE, NAME<VALUE, NAME>VALUE or text~WORDS";
        let split = |&(sign, test): &(&str, Test)| text.split_once(sign).map(|(name, value)| (name, test, value));
        // The sign that comes first: the value may have others.
        let first = TESTS.iter().filter_map(split).min_by_key(|(name, ..)| name.len());
        let (name, test, value) = first.ok_or_else(|| invalid(setting, text, wanted))?;
        let (name, value) = (name.trim(), value.trim());
        if matches!(test, Test::Less | Test::Greater) && value.starts_with('=') {
            return Err(invalid(setting, text, wanted));
        }
        let field = match (name, test) {
            (TEXT, Test::Has) => None,
            (TEXT, _) | ("", _) => return Err(invalid(setting, text, wanted)),
            _ => Some(fields.find(setting, name)?),
        };
        let words = if test == Test::Has { plain(value) } else { String::new() };
        if test == Test::Has && words.trim().is_empty() {
            return Err(invalid(setting, text, wanted));
        }
        Ok(Self { field, test, value, words })
    }

    /// Whether a document meets it.
    pub(crate) fn is_met(&self, fields: &Fields<'_>, document: usize, text: &str) -> bool {
        let value = match self.field {
            None => Some(text),
            Some(field) => fields.value(field, document),
        };
        let Some(value) = value else { return self.test == Test::IsNot };
        match self.test {
            Test::Is => compare(value, self.value) == Ordering::Equal,
            Test::IsNot => compare(value, self.value) != Ordering::Equal,
            Test::Less => compare(value, self.value) == Ordering::Less,
            Test::Greater => compare(value, self.value) == Ordering::Greater,
            Test::Has => plain(value).contains(&self.words),
        }
    }
}

/// Numbers as numbers, all else as texts.
fn compare(left: &str, right: &str) -> Ordering {
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => left.total_cmp(&right),
        _ => left.cmp(right),
    }
}

/// Words in lower case with a space before and after each, so that a word is not found within another one.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len() + 2);
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        plain.push(' ');
        plain.extend(word.chars().flat_map(char::to_lowercase));
    }
    plain.push(' ');
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields<'static> {
        let mut fields = Fields::default();
        fields.add("lang", vec![Some("en"), None]);
        fields.add("price", vec![Some("9.5"), Some("10")]);
        fields.add("day", vec![Some("2026-02-10"), Some("2026-01-31")]);
        fields
    }

    fn met(condition: &str) -> [bool; 2] {
        let fields = fields();
        let condition = Condition::of("only", condition, &fields).unwrap();
        [0, 1].map(|document| condition.is_met(&fields, document, "The price of Äpfel: 3 = three"))
    }

    #[test]
    fn a_condition_compares_numbers_as_numbers_and_dates_as_dates() {
        assert_eq!(met("price<10"), [true, false]);
        assert_eq!(met(" price > 9.5 "), [false, true]);
        assert_eq!(met("price=10.0"), [false, true]);
        assert_eq!(met("day>2026-02-01"), [true, false]);
    }

    #[test]
    fn a_document_without_a_value_meets_only_that_it_is_not_so() {
        assert_eq!(met("lang=en"), [true, false]);
        assert_eq!(met("lang!=en"), [false, true]);
        assert_eq!(met("lang<zz"), [true, false]);
    }

    #[test]
    fn words_are_found_whole_and_in_any_case() {
        assert_eq!(met("text~äpfel 3"), [true; 2]);
        assert_eq!(met("text~3 = THREE"), [true; 2]);
        assert_eq!(met("text~pfel"), [false; 2]);
        assert_eq!(met("lang~EN"), [true, false]);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["lang", "=en", "text=a", "text~", "text~ , ", "size=1", "price<=1"] {
            assert!(Condition::of("only", text, &fields()).is_err(), "{text}");
        }
    }
}
