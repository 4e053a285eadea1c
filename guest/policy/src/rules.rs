//! The rules of a request, read from its settings once.

use assay_guest::{Error, Request, Settings, invalid};

use crate::condition::{Condition, Fields};
use crate::fresh::{Fresh, boost_of};

/// The settings that this guest has of its own.
const SETTINGS: [&str; 8] = ["field.*", "only", "except", "boost", "fresh", "today", "duplicates", "duplicate-share"];

/// The share of their phrases from which two documents say the same: one word of fifteen may differ.
const DEFAULT_DUPLICATE_SHARE: f64 = 0.8;

/// Most fields of a request, and most conditions of a setting.
const MAX_RULES: usize = 64;

/// What is ranked, and how.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    fields: Fields<'a>,
    only: Vec<Condition<'a>>,
    except: Vec<Condition<'a>>,
    boosts: Vec<(Condition<'a>, f32)>,
    fresh: Option<Fresh>,
    /// The share of phrases from which a document is a duplicate; `None` keeps all.
    pub(crate) duplicate_share: Option<f64>,
}

impl<'a> Rules<'a> {
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if one is not known or cannot be read.
    pub(crate) fn of(request: &'a Request) -> Result<Self, Error> {
        let settings = Settings::of(request, &SETTINGS)?;
        let mut fields = Fields::default();
        for (number, name) in settings.names_after("field.").enumerate() {
            let setting = format!("field.{name}");
            if number == MAX_RULES {
                return Err(Error::InvalidInput(format!(
                    "setting {setting:.100} is one too many: at most {MAX_RULES} fields"
                )));
            }
            fields.add(name, settings.of_documents(&setting, request.documents.len())?.unwrap_or_default());
        }
        let only = conditions(&settings, "only", &fields)?;
        let except = conditions(&settings, "except", &fields)?;
        let mut boosts = Vec::new();
        for part in parts(&settings, "boost")? {
            let wanted = "CONDITION:NUMBER, divided by ;";
            let (condition, number) = part.rsplit_once(':').ok_or_else(|| invalid("boost", part, wanted))?;
            boosts.push((Condition::of("boost", condition, &fields)?, boost_of("boost", part, number)?));
        }
        let fresh = match settings.text("fresh") {
            None => None,
            Some(value) => Some(Fresh::of(value, settings.text("today"), &fields)?),
        };
        let drops = settings.choice("duplicates", &[("keep", false), ("drop", true)])?.unwrap_or(false);
        let share = settings.number("duplicate-share", 0.0..=1.0)?.unwrap_or(DEFAULT_DUPLICATE_SHARE);
        Ok(Self { only, except, boosts, fresh, duplicate_share: drops.then_some(share), fields })
    }

    /// The documents that are ranked, by index.
    pub(crate) fn kept(&self, documents: &[String]) -> Vec<usize> {
        let is_kept = |&index: &usize| {
            let is_met = |condition: &Condition<'_>| condition.is_met(&self.fields, index, &documents[index]);
            self.only.iter().all(is_met) && !self.except.iter().any(is_met)
        };
        (0..documents.len()).filter(is_kept).collect()
    }

    /// What is added to a document's logit.
    pub(crate) fn boost(&self, index: usize, text: &str) -> f32 {
        let met = self.boosts.iter().filter(|(condition, _)| condition.is_met(&self.fields, index, text));
        let fresh = self.fresh.as_ref().map_or(0.0, |fresh| fresh.boost(&self.fields, index));
        met.map(|(_, boost)| boost).sum::<f32>() + fresh
    }
}

/// The parts of a setting that are divided by semicolons.
fn parts<'a>(settings: &Settings<'a>, name: &str) -> Result<Vec<&'a str>, Error> {
    let value = settings.text(name).unwrap_or_default();
    let parts: Vec<&str> = value.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
    match parts.len() {
        0..=MAX_RULES => Ok(parts),
        more => Err(Error::InvalidInput(format!("setting {name} has {more} conditions: at most {MAX_RULES}"))),
    }
}

fn conditions<'a>(settings: &Settings<'a>, name: &str, fields: &Fields<'a>) -> Result<Vec<Condition<'a>>, Error> {
    parts(settings, name)?.into_iter().map(|part| Condition::of(name, part, fields)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::{Activation, Truncation};

    fn refused(settings: &[(&str, &str)], parts: &[&str]) {
        let request = Request {
            query: String::new(),
            documents: vec!["a".to_owned(), "b".to_owned()],
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let Err(Error::InvalidInput(message)) = Rules::of(&request) else { panic!("{settings:?} is accepted") };
        for part in parts {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_refused_by_its_setting() {
        refused(&[("field.lang", "en")], &["field.lang", "2 values"]);
        refused(&[("only", "lang=en")], &["only", "no field lang", "field.lang"]);
        refused(&[("only", "lang")], &["only", "NAME=VALUE"]);
        refused(&[("boost", "text~a")], &["boost", "CONDITION:NUMBER"]);
        refused(&[("boost", "text~a:much")], &["boost", "end in a number"]);
        refused(&[("boost", "text~a:inf")], &["boost", "end in a number"]);
        refused(&[("field.day", "|"), ("fresh", "day:1:1")], &["fresh", "today"]);
        refused(&[("duplicates", "yes")], &["duplicates", "keep or drop"]);
        refused(&[("duplicate-share", "2")], &["duplicate-share", "from 0 to 1"]);
        refused(&[("except", &"text~a;".repeat(65))], &["except", "65 conditions", "at most 64"]);
        refused(&[("bost", "text~a:1")], &["no setting \"bost\""]);
    }
}
