//! Variants: what is compared side by side. Each is a model, a precision, a guest and a policy for long pairs.

use std::path::PathBuf;
use std::str::FromStr;

use assay::device::{EngineChoice, EnginePrecision};
use assay::rerank::Truncation;
use clap::ValueEnum;

/// The keys of a variant, for messages.
const KEYS: &str = "model, engine, precision, guest, max-tokens, truncation, setting.NAME, rescore";

/// A way to rank: `NAME:KEY=VALUE,…`. A key that is absent has the command's value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variant {
    /// Its name in tables.
    pub name: String,
    /// A model of the store.
    pub model: Option<String>,
    /// What computes.
    pub engine: Option<EngineChoice>,
    /// Numbers as stored and multiplied.
    pub precision: Option<EnginePrecision>,
    /// A guest in place of the standard one.
    pub guest: Option<PathBuf>,
    /// Longest pair in tokens.
    pub max_tokens: Option<u32>,
    /// What to do with a longer pair.
    pub truncation: Option<Truncation>,
    /// Settings for the guest.
    pub settings: Vec<(String, String)>,
    /// A second stage.
    pub rescore: Option<Rescore>,
}

/// A second stage: another variant ranks the first documents again, and the rest stay below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescore {
    /// The other variant's name.
    pub by: String,
    /// The number of documents.
    pub count: usize,
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, keys) = text.split_once(':').unwrap_or((text, ""));
        if name.trim().is_empty() {
            return Err("a variant begins with its name: NAME:KEY=VALUE,…".to_owned());
        }
        let mut variant = Self { name: name.trim().to_owned(), ..Self::default() };
        let mut seen = Vec::new();
        for pair in keys.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE; keys are {KEYS}"))?;
            if seen.contains(&key) {
                return Err(format!("{key} is there twice"));
            }
            seen.push(key);
            variant.set(key, value).map_err(|message| format!("{key}: {message}"))?;
        }
        Ok(variant)
    }
}

impl Variant {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "model" => self.model = Some(value.to_owned()),
            "engine" => self.engine = Some(EngineChoice::from_str(value, true)?),
            "precision" => self.precision = Some(EnginePrecision::from_str(value, true)?),
            "guest" => self.guest = Some(value.into()),
            "max-tokens" => self.max_tokens = Some(at_least_one(value)?),
            "truncation" => {
                self.truncation = Some(match value {
                    "longest-first" => Truncation::LongestFirst,
                    "document-only" => Truncation::DocumentOnly,
                    "none" => Truncation::None,
                    _ => return Err(format!("{value:?} is not longest-first, document-only or none")),
                });
            }
            "rescore" => {
                let (by, count) = value.rsplit_once('@').ok_or("must be VARIANT@COUNT, such as f32@10")?;
                self.rescore = Some(Rescore { by: by.to_owned(), count: at_least_one(count)? as usize });
            }
            _ => match key.strip_prefix("setting.") {
                Some(name) if !name.is_empty() => self.settings.push((name.to_owned(), value.to_owned())),
                _ => return Err(format!("there is no such key; keys are {KEYS}")),
            },
        }
        Ok(())
    }
}

fn at_least_one(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| format!("{text:?} is not a whole number from 1"))
}

/// Checks that names differ, and that a second stage is an earlier variant without one of its own.
///
/// # Errors
/// They do not; the message says which variant.
pub fn check(variants: &[Variant]) -> Result<(), String> {
    for (index, variant) in variants.iter().enumerate() {
        let earlier = &variants[..index];
        if earlier.iter().any(|other| other.name == variant.name) {
            return Err(format!("two variants have the name {:?}", variant.name));
        }
        let Some(Rescore { by, .. }) = &variant.rescore else { continue };
        match earlier.iter().find(|other| other.name == *by) {
            None => return Err(format!("{}: rescore: {by:?} is no variant before it", variant.name)),
            Some(other) if other.rescore.is_some() => {
                return Err(format!("{}: rescore: {by} has a second stage itself", variant.name));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_has_a_name_and_keys() {
        let variant: Variant =
            "short:precision=int8,max-tokens=64,truncation=document-only,setting.a=b=c,rescore=f@5".parse().unwrap();
        assert_eq!((variant.name.as_str(), variant.max_tokens), ("short", Some(64)));
        assert_eq!(
            (variant.precision, variant.truncation),
            (Some(EnginePrecision::Int8), Some(Truncation::DocumentOnly))
        );
        assert_eq!(variant.settings, [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(variant.rescore, Some(Rescore { by: "f".to_owned(), count: 5 }));
        let path: Variant = r"windows:guest=C:\guest.wasm".parse().unwrap();
        assert_eq!(path.guest, Some(r"C:\guest.wasm".into()));
    }

    #[test]
    fn a_bad_variant_is_refused_by_name_of_the_key() {
        for (text, message) in [
            ("", "begins with its name"),
            (":precision=int8", "begins with its name"),
            ("a:precision", "is not KEY=VALUE"),
            ("a:precision=int4", "precision: "),
            ("a:max-tokens=0", "max-tokens: \"0\" is not a whole number from 1"),
            ("a:max-tokens=1,max-tokens=2", "max-tokens is there twice"),
            ("a:truncation=left", "truncation: \"left\" is not longest-first"),
            ("a:rescore=f32", "rescore: must be VARIANT@COUNT"),
            ("a:threads=1", "threads: there is no such key; keys are model, engine"),
            ("a:setting.=1", "setting.: there is no such key"),
        ] {
            let error = text.parse::<Variant>().unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        }
        let check = |texts: &[&str]| check(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert!(check(&["a", "a"]).unwrap_err().contains("two variants have the name \"a\""));
        assert!(check(&["b:rescore=a@1", "a"]).unwrap_err().contains("\"a\" is no variant before it"));
        assert!(check(&["a", "b:rescore=a@1", "c:rescore=b@1"]).unwrap_err().contains("second stage itself"));
        check(&["a", "b:rescore=a@1"]).unwrap();
    }
}
