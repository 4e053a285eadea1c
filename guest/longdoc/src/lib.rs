//! A guest for documents that are longer than a row: scores overlapping passages, and a document by its best ones.
//!
//! A row that is cut loses what is at its end; here every token of a document is in a passage. Settings, beside those of
//! the SDK:
//!
//! | setting | meaning | default |
//! | --- | --- | --- |
//! | `passage-tokens` | most tokens of a passage | 128 |
//! | `passage-overlap` | tokens that a passage has of the one before it | a quarter of `passage-tokens` |
//! | `best-passages` | a document's score is the mean of so many of its best passages' logits | 1 |
//! | `max-passages` | most passages of a document; the rest is cut off, or refused where nothing may be cut | 64 |
//!
//! The contract's answer has a score for each document and no place for the passage that won.

use assay_guest::{
    Error, Guest, Inference, Options, Passages, Request, Response, Scorer, Settings, hits, prepare, wanted,
};

/// Tokens of a passage: some sentences, so that little else dilutes the score of one that answers the query.
const DEFAULT_PASSAGE_TOKENS: u32 = 128;

/// Most passages of a document: 6,000 tokens at the other defaults.
const DEFAULT_MAX_PASSAGES: u32 = 64;

/// Most that any of the settings may be.
const MAX_SETTING: u32 = 1 << 16;

/// The settings that this guest has of its own.
const SETTINGS: [&str; 4] = ["passage-tokens", "passage-overlap", "best-passages", "max-passages"];

/// How documents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    /// How a document becomes passages.
    passages: Passages,
    /// How many of its best passages a document is scored by.
    best: usize,
}

impl Reading {
    /// As a request's settings say.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if one is not known or has a value that it cannot have.
    fn of(request: &Request) -> Result<Self, Error> {
        let settings = Settings::of(request, &SETTINGS)?;
        let [tokens, overlap, best, most] = SETTINGS;
        let tokens = settings.number(tokens, 1..=MAX_SETTING)?.unwrap_or(DEFAULT_PASSAGE_TOKENS);
        let overlap = settings.number(overlap, 0..=tokens - 1)?.unwrap_or(tokens / 4);
        let best = settings.number(best, 1..=MAX_SETTING)?.unwrap_or(1) as usize;
        let most = settings.number(most, 1..=MAX_SETTING)?.unwrap_or(DEFAULT_MAX_PASSAGES);
        Ok(Self { passages: Passages { tokens, overlap, most }, best })
    }
}

/// Scores every document by its best passages, and ranks them.
///
/// # Errors
///
/// As [`Scorer::score_passages`].
fn answer<M: Inference>(
    scorer: &Scorer<M>,
    request: &Request,
    options: &Options,
    reading: &Reading,
) -> Result<Response, Error> {
    let (scores, counts) = scorer.score_passages(&request.query, wanted(request), options, &reading.passages)?;
    let logits = of_documents(&scores.logits, &counts, reading.best);
    Ok(Response { hits: hits(&logits, request.top_n, request.activation), usage: scores.usage })
}

/// The logit of each document, from those of its passages.
fn of_documents(passages: &[f32], counts: &[usize], best: usize) -> Vec<f32> {
    let mut rest = passages;
    let take = |&count: &usize| {
        let (own, others) = rest.split_at(count.min(rest.len()));
        rest = others;
        mean_of_best(own, best)
    };
    counts.iter().map(take).collect()
}

/// The mean of the best `best` logits, or of all if there are fewer.
fn mean_of_best(logits: &[f32], best: usize) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|left, right| right.total_cmp(left));
    sorted.truncate(best);
    let sum: f64 = sorted.iter().map(|&logit| f64::from(logit)).sum();
    (sum / sorted.len() as f64) as f32
}

struct LongDoc;

impl Guest for LongDoc {
    fn prepare() {
        prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        let (reading, options) = (Reading::of(&request)?, Options::of(&request)?);
        answer(&Scorer::open(None)?, &request, &options, &reading)
    }
}

assay_guest::export!(LongDoc);

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::{Activation, Truncation};

    fn reading(settings: &[(&str, &str)]) -> Result<Reading, Error> {
        Reading::of(&Request {
            query: String::new(),
            documents: Vec::new(),
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        })
    }

    #[test]
    fn a_document_is_scored_by_the_mean_of_its_best_passages() {
        assert_eq!(mean_of_best(&[1.0, 4.0, 2.0], 1), 4.0);
        assert_eq!(mean_of_best(&[1.0, 4.0, 2.0], 2), 3.0);
        assert_eq!(mean_of_best(&[1.0, 3.0], 9), 2.0);
    }

    #[test]
    fn each_document_has_the_score_of_its_own_passages() {
        assert_eq!(of_documents(&[1.0, 5.0, -2.0, 0.0, 3.0], &[2, 1, 2], 1), [5.0, -2.0, 3.0]);
        assert_eq!(of_documents(&[], &[], 1), [] as [f32; 0]);
    }

    #[test]
    fn settings_say_how_documents_are_read_and_a_wrong_one_is_refused_by_name() {
        let passages = Passages { tokens: 128, overlap: 32, most: 64 };
        assert_eq!(reading(&[]).unwrap(), Reading { passages, best: 1 });
        let passages = Passages { tokens: 10, overlap: 0, most: 3 };
        let all = [("passage-tokens", "10"), ("passage-overlap", "0"), ("best-passages", "2"), ("max-passages", "3")];
        assert_eq!(reading(&all).unwrap(), Reading { passages, best: 2 });
        let wrong =
            [("passage-tokens", "0"), ("passage-overlap", "128"), ("best-passages", "x"), ("max-passages", "-1")];
        for (name, value) in wrong {
            let Err(Error::InvalidInput(message)) = reading(&[(name, value)]) else { panic!("{name} is {value}") };
            assert!(message.contains(name) && message.contains("a number from"), "{message}");
        }
        assert!(reading(&[("passage-token", "1")]).is_err());
    }
}
