//! The fields of a body. A dialect takes the fields that it knows; what is left is refused by name.
//!
//! A field is decoded when it is taken, and costs nothing before. `null` means absent, because client libraries send it
//! for options that are not set.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use super::error::{FieldError, HttpError};
use crate::json::{self, Kind};
use crate::limits::RequestLimits;
use crate::rerank::{RerankError, cut};

/// Most fields of a body: several times as many as all dialects know together.
const MAX_FIELDS: usize = 64;

/// Most bytes of a name or of another short text in an error's message.
const MAX_QUOTED_BYTES: usize = 64;

/// Most elements of a field that is a list of names.
const MAX_NAMES: usize = 64;

/// Most bytes of all settings, as they are written in the body.
const MAX_SETTINGS_BYTES: usize = 64 << 10;

/// The fields that a body has.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    body: &'a str,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Finds the fields of a body.
    pub(super) fn of(body: &'a str) -> Result<Self, HttpError> {
        // What is wrong with JSON of another kind is not left to the parser, whose message would hold all of it.
        if let Some(kind) = Kind::of_text(body).filter(|kind| *kind != Kind::Object) {
            return Err(HttpError::NoObject(kind));
        }
        let mut fields: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
        let walked = json::fields(body, |name, value| {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(FieldError::new(quoted(&name), "is given twice"));
            }
            if fields.len() == MAX_FIELDS {
                return Err(FieldError::new(
                    quoted(&name),
                    format!("is one too many: a body has at most {MAX_FIELDS}"),
                ));
            }
            fields.push((name, value));
            Ok(())
        });
        walked.map_err(HttpError::Json)??;
        Ok(Self { body, fields })
    }

    /// Whether the body has a field, other than as `null`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, value)| known == name && Kind::of(value) != Kind::Null)
    }

    /// A field's text, without taking it.
    pub(super) fn peek(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.get())
    }

    /// Takes a field; `None` where it is absent or `null`.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        let at = self.fields.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.fields.swap_remove(at);
        (Kind::of(value) != Kind::Null).then_some(Field { name, value, body: self.body })
    }

    /// Takes several names of one thing; each is read, and they must agree.
    pub(super) fn take_one_of<T: PartialEq>(
        &mut self,
        names: &[&'static str],
        mut read: impl FnMut(Field<'a>) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        let mut found: Option<(&str, T)> = None;
        for name in names {
            let Some(field) = self.take(name) else { continue };
            let value = read(field)?;
            match &found {
                Some((first, said)) if *said != value => {
                    return Err(field.refuse(format!("contradicts `{first}`: leave one of them out")));
                }
                _ => found = Some((name, value)),
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    /// Takes a field that must be there.
    pub(super) fn require(&mut self, name: &'static str) -> Result<Field<'a>, FieldError> {
        self.take(name).ok_or_else(|| FieldError::new(name, "is required, and is missing"))
    }

    /// Refuses what was not taken, and says what is known.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), FieldError> {
        match self.fields.iter().find(|(_, value)| Kind::of(value) != Kind::Null) {
            None => Ok(()),
            Some((name, _)) => {
                let problem = match known.contains(&&**name) {
                    // Two names of one thing were sent, and the other was taken.
                    true => "says the same as another field that was sent: leave one of them out".to_owned(),
                    false => format!("is not known; known are {}", known.join(", ")),
                };
                Err(FieldError::new(quoted(name), problem))
            }
        }
    }
}

/// One field that is not `null`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    name: &'static str,
    value: &'a RawValue,
    body: &'a str,
}

/// Documents, and where they stand in the body.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The texts to rank.
    pub(super) texts: Vec<String>,
    /// Where each document's JSON stands in the body.
    pub(super) places: Vec<Range<usize>>,
}

impl<'a> Field<'a> {
    /// An error about this field.
    pub(super) fn refuse(self, problem: impl Into<String>) -> FieldError {
        FieldError::new(self.name, problem)
    }

    fn expect(self, wanted: &str, kind: Kind) -> Result<&'a str, FieldError> {
        match Kind::of(self.value) {
            found if found == kind => Ok(self.value.get()),
            found => Err(FieldError::kind(self.name, wanted, found)),
        }
    }

    /// The field's name.
    pub(super) fn name(self) -> &'static str {
        self.name
    }

    /// The field's kind.
    pub(super) fn kind(self) -> Kind {
        Kind::of(self.value)
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Result<bool, FieldError> {
        Ok(self.expect("true or false", Kind::Boolean)? == "true")
    }

    /// A whole number, written with or without a fraction of zero. Numbers beyond 64 bits are the nearest that fits.
    pub(super) fn integer(self) -> Result<i64, FieldError> {
        let text = self.expect("a whole number", Kind::Number)?;
        if let Ok(integer) = text.parse() {
            return Ok(integer);
        }
        // The conversion saturates, which is what is wanted of numbers that are only compared.
        match text.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 || number.is_infinite() => Ok(number as i64),
            _ => Err(self.refuse(format!("must be a whole number, and is {}", quoted(text)))),
        }
    }

    /// A whole number of at least `least`, cut down to what fits 32 bits.
    pub(super) fn count(self, least: i64) -> Result<u32, FieldError> {
        match self.integer()? {
            number if number < least => Err(self.refuse(format!("must be at least {least}, and is {number}"))),
            number => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        }
    }

    /// A text.
    pub(super) fn text(self) -> Result<String, FieldError> {
        string(self.expect("a string", Kind::String)?).map_err(|error| self.refuse(error.to_string()))
    }

    /// A text that is one of the tenant's: no longer than the limits allow.
    pub(super) fn bounded_text(self, limits: &RequestLimits) -> Result<String, HttpError> {
        let text = self.text()?;
        too_large(|| format!("max_text_bytes of `{}`", self.name), text.len(), limits.max_text_bytes)?;
        Ok(text)
    }

    /// A list of names.
    pub(super) fn names(self) -> Result<Vec<String>, FieldError> {
        let array = self.expect("an array of strings", Kind::Array)?;
        let mut names = Vec::new();
        let walked = json::elements(array, |at, value| {
            let element = || format!("{}[{at}]", self.name);
            if at == MAX_NAMES {
                return Err(FieldError::new(element(), format!("is one too many: there may be {MAX_NAMES}")));
            }
            match Kind::of(value) {
                Kind::String => {
                    names.push(string(value.get()).map_err(|error| FieldError::new(element(), error.to_string()))?)
                }
                found => return Err(FieldError::kind(element(), "a string", found)),
            }
            Ok(())
        });
        self.walked(walked)?.1?;
        Ok(names)
    }

    /// An object of strings, numbers and booleans, each as text.
    pub(super) fn settings(self) -> Result<Vec<(String, String)>, FieldError> {
        let object = self.expect("an object", Kind::Object)?;
        let (mut settings, mut bytes) = (Vec::new(), 0);
        let walked = json::fields(object, |name, value| {
            let field = || format!("{}.{}", self.name, quoted(&name));
            if settings.len() == MAX_NAMES {
                return Err(FieldError::new(field(), format!("is one too many: there may be {MAX_NAMES}")));
            }
            bytes += name.len() + value.get().len();
            if bytes > MAX_SETTINGS_BYTES {
                let most = format!("is too much: all settings together may have {MAX_SETTINGS_BYTES} bytes");
                return Err(FieldError::new(field(), most));
            }
            match scalar(value) {
                Ok(Some(text)) => settings.push((name.into_owned(), text)),
                Ok(None) => {}
                Err(found) => return Err(FieldError::kind(field(), "a string, a number or a boolean", found)),
            }
            Ok(())
        });
        self.walked(walked)??;
        Ok(settings)
    }

    /// Calls `each` with every field of an object.
    pub(super) fn object(
        self,
        each: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), FieldError>,
    ) -> Result<(), FieldError> {
        let object = self.expect("an object", Kind::Object)?;
        self.walked(json::fields(object, each))?
    }

    /// Calls `each` with every element of an array; gives their number.
    pub(super) fn array<E: From<FieldError>>(
        self,
        wanted: &str,
        each: impl FnMut(usize, &'a RawValue) -> Result<(), E>,
    ) -> Result<usize, E> {
        let array = self.expect(wanted, Kind::Array)?;
        let (count, outcome) = self.walked(json::elements(array, each))?;
        outcome.map(|()| count)
    }

    /// The texts to rank, within the tenant's limits: the strings, and of objects the fields `rank_fields`, or else
    /// `text`.
    pub(super) fn documents(self, rank_fields: &[String], limits: &RequestLimits) -> Result<Documents, HttpError> {
        let mut documents = Documents::default();
        let mut bytes = 0;
        let count = self.array("an array", |at, value| {
            if at >= limits.max_documents {
                return Ok(());
            }
            let element = || format!("{}[{at}]", self.name);
            let text = match Kind::of(value) {
                Kind::String => string(value.get()).map_err(|error| FieldError::new(element(), error.to_string()))?,
                Kind::Object => ranked_text(value.get(), rank_fields).map_err(|error| within(&element(), error))?,
                found => {
                    let wanted = "a string or an object with a `text`";
                    return Err(HttpError::from(FieldError::kind(element(), wanted, found)));
                }
            };
            too_large(|| format!("max_text_bytes of {}", element()), text.len(), limits.max_text_bytes)?;
            bytes += text.len();
            too_large(|| "max_request_bytes".to_owned(), bytes, limits.max_request_bytes)?;
            documents.texts.push(text);
            documents.places.push(self.place(value));
            Ok(())
        })?;
        too_large(|| "max_documents".to_owned(), count, limits.max_documents)?;
        if count == 0 {
            return Err(HttpError::NoDocuments { field: self.name });
        }
        Ok(documents)
    }

    /// An array of texts, within the tenant's limits.
    pub(super) fn texts(self, limits: &RequestLimits) -> Result<Vec<String>, HttpError> {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        let count = self.array("a string or an array of strings", |at, value| {
            if at >= limits.max_documents {
                return Ok(());
            }
            let element = || format!("{}[{at}]", self.name);
            let text = match Kind::of(value) {
                Kind::String => string(value.get()).map_err(|error| FieldError::new(element(), error.to_string()))?,
                found => return Err(HttpError::from(FieldError::kind(element(), "a string", found))),
            };
            bytes += text.len();
            too_large(|| "max_request_bytes".to_owned(), bytes, limits.max_request_bytes)?;
            texts.push(text);
            Ok(())
        })?;
        too_large(|| "max_documents".to_owned(), count, limits.max_documents)?;
        Ok(texts)
    }

    /// Where a value of this field stands in the body.
    fn place(self, value: &RawValue) -> Range<usize> {
        let begin = value.get().as_ptr() as usize - self.body.as_ptr() as usize;
        begin..begin + value.get().len()
    }

    /// A value of this field was checked when the body was, so that walking it cannot fail.
    fn walked<T>(self, walked: serde_json::Result<T>) -> Result<T, FieldError> {
        walked.map_err(|error| self.refuse(error.to_string()))
    }
}

/// Fails if a request has more of something than its tenant may.
pub(super) fn too_large(limit: impl FnOnce() -> String, requested: usize, allowed: usize) -> Result<(), HttpError> {
    if requested <= allowed {
        return Ok(());
    }
    let (requested, allowed) = (requested as u64, allowed as u64);
    Err(RerankError::TooLarge { limit: limit(), requested, allowed }.into())
}

/// The text of a JSON string.
pub(super) fn string(json: &str) -> serde_json::Result<String> {
    serde_json::from_str(json)
}

/// A text for a message: cut to a length that fits one.
pub(super) fn quoted(text: &str) -> String {
    cut(text, MAX_QUOTED_BYTES)
}

/// A string, number or boolean as text; nothing for `null`; for others their kind.
fn scalar(value: &RawValue) -> Result<Option<String>, Kind> {
    match Kind::of(value) {
        Kind::Null => Ok(None),
        Kind::String => string(value.get()).map(Some).map_err(|_| Kind::String),
        Kind::Number | Kind::Boolean => Ok(Some(value.get().to_owned())),
        found @ (Kind::Array | Kind::Object) => Err(found),
    }
}

/// What of a document to rank: its `text`, or the fields asked for, in that order, a line each.
fn ranked_text(document: &str, rank_fields: &[String]) -> Result<String, FieldError> {
    let text = ["text".to_owned()];
    let wanted = if rank_fields.is_empty() { &text } else { rank_fields };
    let mut found: Vec<Option<String>> = vec![None; wanted.len()];
    let walked = json::fields(document, |name, value| {
        let Some(at) = wanted.iter().position(|wanted| *wanted == name) else { return Ok(()) };
        let wrong_kind = |wanted, found| FieldError::kind(quoted(&name), wanted, found);
        found[at] = match Kind::of(value) {
            found if rank_fields.is_empty() && found != Kind::String => return Err(wrong_kind("a string", found)),
            _ => scalar(value).map_err(|found| wrong_kind("a string, a number or a boolean", found))?,
        };
        Ok(())
    });
    walked.map_err(|error| FieldError::new("", error.to_string()))??;
    let texts: Vec<String> = found.into_iter().flatten().collect();
    match (texts.is_empty(), rank_fields.is_empty()) {
        (false, _) => Ok(texts.join("\n")),
        (true, true) => Err(FieldError::new("text", "is missing: name the fields to rank in `rank_fields`")),
        (true, false) => {
            Err(FieldError::new("", format!("has none of the `rank_fields`: {}", quoted(&rank_fields.join(", ")))))
        }
    }
}

/// An error about a part of an element.
fn within(element: &str, FieldError { field, problem }: FieldError) -> FieldError {
    if field.is_empty() {
        FieldError::new(element, problem)
    } else {
        FieldError::new(format!("{element}.{field}"), problem)
    }
}
