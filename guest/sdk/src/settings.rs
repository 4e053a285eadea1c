//! A request's settings as a guest reads them: by name, within bounds. What is wrong is refused by the setting's name.
//!
//! Owns the names that every guest of this SDK knows ([`Options`]). Never decides what a guest does with its own.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use assay_bindings::{Error, Request, Truncation};

use crate::encode::End;

/// The setting that selects a label, counted from 0, of a model with several.
pub const SETTING_LABEL: &str = "label";

/// The setting that says which end of a text is cut off: `right`, its end, or `left`.
pub const SETTING_TRUNCATION_DIRECTION: &str = "truncation-direction";

/// The setting with the most tokens of a document.
pub const SETTING_MAX_DOCUMENT_TOKENS: &str = "max-document-tokens";

/// The setting with the most tokens of the query.
pub const SETTING_MAX_QUERY_TOKENS: &str = "max-query-tokens";

/// The settings that [`Options::of`] reads.
const SETTINGS: [&str; 4] =
    [SETTING_LABEL, SETTING_TRUNCATION_DIRECTION, SETTING_MAX_DOCUMENT_TOKENS, SETTING_MAX_QUERY_TOKENS];

/// What divides the values of a setting that has one for each document.
const DIVIDER: char = '|';

/// Most bytes of a name or a value in an error's message.
const MAX_SHOWN_BYTES: usize = 100;

/// The settings of a request. Of one that is given twice, the last counts.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    given: &'a [(String, String)],
}

impl<'a> Settings<'a> {
    /// The settings of a request, all of them known: those that [`Options::of`] reads, and the guest's `own`. A name of
    /// `own` that ends in `*` stands for all names that begin with what is before it. A misspelt name would otherwise
    /// change nothing, without a word.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting and those that there are.
    pub fn of(request: &'a Request, own: &[&str]) -> Result<Self, Error> {
        let is = |name: &str, known: &str| match known.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == known,
        };
        let is_known = |name: &str| own.iter().chain(&SETTINGS).any(|known| is(name, known));
        match request.settings.iter().find(|(name, _)| !is_known(name)) {
            None => Ok(Self { given: &request.settings }),
            Some((name, _)) => {
                let known: Vec<&str> = own.iter().chain(&SETTINGS).copied().collect();
                Err(Error::InvalidInput(format!(
                    "there is no setting {:?}: there are {}",
                    shown(name),
                    known.join(", ")
                )))
            }
        }
    }

    /// A setting's value as it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.given.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A number within bounds.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if it is no number, or none of these.
    pub fn number<T>(&self, name: &str, bounds: RangeInclusive<T>) -> Result<Option<T>, Error>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(value) = self.text(name) else { return Ok(None) };
        match value.trim().parse() {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => Err(invalid(name, value, &format!("a number from {} to {}", bounds.start(), bounds.end()))),
        }
    }

    /// One of several words.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting and the words, if it is none of them.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(value) = self.text(name) else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == value) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(invalid(name, value, &words.join(" or ")))
            }
        }
    }

    /// A value for each document, divided by `|`; an empty one is none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if there is another number of values than of documents.
    pub fn of_documents(&self, name: &str, documents: usize) -> Result<Option<Vec<Option<&'a str>>>, Error> {
        let Some(value) = self.text(name) else { return Ok(None) };
        // Without documents there is one empty value.
        let values: Vec<&str> = value.split(DIVIDER).take(documents + 2).collect();
        let is_none = documents == 0 && value.is_empty();
        if values.len() != documents && !is_none {
            let wanted = format!("{documents} values divided by {DIVIDER:?}, one for each document");
            return Err(invalid(name, value, &wanted));
        }
        let some = |value: &'a str| Some(value.trim()).filter(|value| !value.is_empty());
        Ok(Some(values.into_iter().take(documents).map(some).collect()))
    }

    /// What follows `prefix` in each name that begins with it.
    pub fn names_after(&self, prefix: &str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter_map(move |(name, _)| name.strip_prefix(prefix))
    }
}

/// The error for a setting with a value that it cannot have.
#[must_use]
pub fn invalid(name: &str, value: &str, wanted: &str) -> Error {
    Error::InvalidInput(format!("setting {} is {:?}, but must be {wanted}", shown(name), shown(value)))
}

/// What a message shows of a text.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SHOWN_BYTES)]
}

/// Refuses settings that [`Options::of`] does not read, in a guest that has none of its own.
///
/// # Errors
///
/// As [`Settings::of`].
pub fn check_settings(request: &Request) -> Result<(), Error> {
    Settings::of(request, &[]).map(drop)
}

/// How pairs are scored.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest row in tokens, if shorter than the model's own maximum.
    pub max_tokens: Option<u32>,
    /// What to do with pairs that do not fit.
    pub truncation: Truncation,
    /// The end of a text that is cut off.
    pub cut_end: End,
    /// Most tokens of a document; the rest is cut, even if pairs may not be.
    pub max_document_tokens: Option<u32>,
    /// Most tokens of the query; the rest is cut, even if pairs may not be.
    pub max_query_tokens: Option<u32>,
    /// The label whose logit is the score. A model with one label needs none.
    pub label: Option<u32>,
}

impl Options {
    /// The options of a request, with those of its settings that have a `SETTING_…` here. Of a setting that is given
    /// twice, the last one counts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if one of them has a value that it cannot have.
    pub fn of(request: &Request) -> Result<Self, Error> {
        let settings = Settings { given: &request.settings };
        let number = |name: &str, least: u32, wanted: &str| match settings.text(name) {
            None => Ok(None),
            Some(value) => match value.parse() {
                Ok(number) if number >= least => Ok(Some(number)),
                _ => Err(invalid(name, value, wanted)),
            },
        };
        let ends = [("right", End::Right), ("left", End::Left)];
        let tokens = "a number of tokens, at least 1";
        Ok(Self {
            max_tokens: request.max_tokens,
            truncation: request.truncation,
            cut_end: settings.choice(SETTING_TRUNCATION_DIRECTION, &ends)?.unwrap_or_default(),
            max_document_tokens: number(SETTING_MAX_DOCUMENT_TOKENS, 1, tokens)?,
            max_query_tokens: number(SETTING_MAX_QUERY_TOKENS, 1, tokens)?,
            label: number(SETTING_LABEL, 0, "the number of one label, counted from 0, or its name if it has one")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use assay_bindings::Activation;

    fn request(settings: &[(&str, &str)]) -> Request {
        Request {
            query: String::new(),
            documents: Vec::new(),
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        match result {
            Err(Error::InvalidInput(message)) => message,
            other => panic!("{other:?} instead of invalid-input"),
        }
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused_with_those_that_are() {
        let known = request(&[("mine", "1"), ("field.a", "1"), (SETTING_LABEL, "0")]);
        assert!(Settings::of(&known, &["mine", "field.*"]).is_ok());
        let unknown = message(Settings::of(&request(&[("minne", "1")]), &["mine", "field.*"]));
        assert!(unknown.contains("no setting \"minne\": there are mine, field.*, label"), "{unknown}");
        let long = message(Settings::of(&request(&[(&"ä".repeat(1000), "1")]), &[]));
        assert!(long.len() < 300, "{long}");
    }

    #[test]
    fn values_are_read_within_their_bounds_and_the_last_one_counts() {
        let request = request(&[("n", "7"), ("n", "0.5"), ("word", "b"), ("nan", "NaN")]);
        let settings = Settings::of(&request, &["n", "word", "nan"]).unwrap();
        assert_eq!(settings.number("n", 0.0..=1.0).unwrap(), Some(0.5));
        assert_eq!(settings.number("absent", 0..=1).unwrap(), None);
        assert!(
            message(settings.number("n", 0..=1)).contains("setting n is \"0.5\", but must be a number from 0 to 1")
        );
        assert!(message(settings.number("nan", 0.0..=1.0)).contains("setting nan"));
        assert_eq!(settings.choice("word", &[("a", 1), ("b", 2)]).unwrap(), Some(2));
        assert!(message(settings.choice("word", &[("a", 1), ("c", 2)])).contains("must be a or c"));
    }

    #[test]
    fn there_is_one_value_for_each_document() {
        let request = request(&[("f", "a| |c"), ("empty", "")]);
        let settings = Settings::of(&request, &["f", "empty"]).unwrap();
        assert_eq!(settings.of_documents("f", 3).unwrap(), Some(vec![Some("a"), None, Some("c")]));
        assert_eq!(settings.of_documents("empty", 0).unwrap(), Some(vec![]));
        assert_eq!(settings.of_documents("empty", 1).unwrap(), Some(vec![None]));
        assert_eq!(settings.of_documents("absent", 3).unwrap(), None);
        for documents in [0, 2, 4] {
            let message = message(settings.of_documents("f", documents));
            assert!(message.contains(&format!("{documents} values divided by '|'")), "{message}");
        }
    }
}
