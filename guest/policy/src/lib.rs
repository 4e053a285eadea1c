//! A guest with rules: leaves documents out, prefers some, prefers new ones, and drops near duplicates, by settings.
//!
//! Documents are plain texts, so what is known of them comes as settings: `field.NAME` has a value for each document,
//! divided by `|`, and an empty one where there is none.
//!
//! | setting | meaning |
//! | --- | --- |
//! | `field.NAME` | the documents' values of a field: `field.lang` is `en\|de\|` for three documents |
//! | `only` | conditions, divided by `;`: only documents that meet all of them are ranked |
//! | `except` | conditions, divided by `;`: documents that meet one of them are not ranked |
//! | `boost` | `CONDITION:NUMBER`, divided by `;`: adds the number to the logit of documents that meet the condition |
//! | `fresh` | `NAME:DAYS:NUMBER`: adds the number for a date of today, half of it for one DAYS ago, and so on |
//! | `today` | the date to which `fresh` counts, since a guest has no clock: `2026-03-31` |
//! | `duplicates` | `keep`, or `drop`: of documents that say nearly the same, the best one stays |
//! | `duplicate-share` | the share of their phrases from which two documents say the same; 0.8 |
//!
//! A condition is `NAME=VALUE`, `NAME!=VALUE`, `NAME<VALUE`, `NAME>VALUE` (numbers as numbers, all else as texts, so
//! dates as dates), or `text~WORDS`: the document has these words, in upper or lower case. A document without a value
//! meets `!=` alone. What is left out costs no tokens.

mod condition;
mod duplicates;
mod fresh;
mod rules;

use assay_guest::{
    Activation, Error, Guest, Hit, Inference, Options, Request, Response, Scorer, activate, order, prepare,
};

use duplicates::Duplicates;
use rules::Rules;

/// Ranks the documents that the rules let through.
///
/// # Errors
///
/// As [`Scorer::score`].
fn answer<M: Inference>(
    scorer: &Scorer<M>,
    request: &Request,
    options: &Options,
    rules: &Rules<'_>,
) -> Result<Response, Error> {
    let wanted = request.top_n.map_or(usize::MAX, |top_n| top_n as usize);
    let kept: Vec<usize> = match wanted {
        0 => Vec::new(),
        _ => rules.kept(&request.documents),
    };
    let texts: Vec<&str> = kept.iter().map(|&index| request.documents[index].as_str()).collect();
    let scores = scorer.score(&request.query, &texts, options)?;
    let places = order_by_rules(rules, &kept, &texts, &scores.logits);
    let hits = places.into_iter().take(wanted).map(|(index, logit)| hit(index, logit, request.activation)).collect();
    Ok(Response { hits, usage: scores.usage })
}

/// The documents in their order, with the logits that the rules give them.
fn order_by_rules(rules: &Rules<'_>, kept: &[usize], texts: &[&str], logits: &[f32]) -> Vec<(usize, f32)> {
    let logits: Vec<f32> =
        kept.iter().zip(texts).zip(logits).map(|((&index, text), logit)| logit + rules.boost(index, text)).collect();
    let mut duplicates = rules.duplicate_share.map(Duplicates::new);
    let mut is_new = |place: usize| duplicates.as_mut().is_none_or(|duplicates| duplicates.admit(texts[place]));
    order(&logits).into_iter().filter(|&place| is_new(place)).map(|place| (kept[place], logits[place])).collect()
}

fn hit(index: usize, logit: f32, activation: Activation) -> Hit {
    let mut score = logit;
    activate(std::slice::from_mut(&mut score), activation);
    Hit { index: index as u32, score }
}

struct Policy;

impl Guest for Policy {
    fn prepare() {
        prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        let (rules, options) = (Rules::of(&request)?, Options::of(&request)?);
        answer(&Scorer::open(None)?, &request, &options, &rules)
    }
}

assay_guest::export!(Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::Truncation;

    /// The documents' places and logits under these settings, if the model gives these logits.
    fn ranked(documents: &[(&str, f32)], settings: &[(&str, &str)]) -> Vec<(usize, f32)> {
        let request = Request {
            query: String::new(),
            documents: documents.iter().map(|(text, _)| (*text).to_owned()).collect(),
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let rules = Rules::of(&request).unwrap();
        let kept = rules.kept(&request.documents);
        let texts: Vec<&str> = kept.iter().map(|&index| request.documents[index].as_str()).collect();
        let logits: Vec<f32> = kept.iter().map(|&index| documents[index].1).collect();
        order_by_rules(&rules, &kept, &texts, &logits)
    }

    const DOCUMENTS: [(&str, f32); 3] = [("one", 1.0), ("two", 2.0), ("three", 3.0)];

    #[test]
    fn without_settings_the_logits_decide() {
        assert_eq!(ranked(&DOCUMENTS, &[]), [(2, 3.0), (1, 2.0), (0, 1.0)]);
    }

    #[test]
    fn filters_leave_documents_out_and_boosts_move_them() {
        let settings = [("field.lang", "en|de|en"), ("only", "lang=en"), ("boost", "text~one:5;lang=de:9")];
        assert_eq!(ranked(&DOCUMENTS, &settings), [(0, 6.0), (2, 3.0)]);
        assert_eq!(ranked(&DOCUMENTS, &[("except", "text~two;text~three")]), [(0, 1.0)]);
    }

    #[test]
    fn new_documents_are_preferred() {
        let settings = [("field.day", "2026-03-01|2026-01-30|"), ("fresh", "day:30:4"), ("today", "2026-03-01")];
        assert_eq!(ranked(&DOCUMENTS, &settings), [(0, 5.0), (1, 4.0), (2, 3.0)]);
    }

    #[test]
    fn of_near_duplicates_the_best_stays() {
        let text = "the quick brown fox jumps over the lazy dog and runs away";
        let documents = [(text, 1.0), ("something else", 0.5), (&*text.to_uppercase(), 2.0)];
        assert_eq!(ranked(&documents, &[("duplicates", "drop")]), [(2, 2.0), (1, 0.5)]);
        assert_eq!(ranked(&documents, &[("duplicates", "keep")]).len(), 3);
    }
}
