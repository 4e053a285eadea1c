//! Whether an answers file is this run's: its last answer must be what the run gives for that request.
//!
//! The file says neither the texts nor the settings that it was written with, so one request is ranked again. That costs
//! one request, and finds other texts, labels, scores, precisions, limits and revisions of a model.

use serde::Deserialize;

use super::answer::Shown;
use super::fault::RequestFault;
use super::requests::ReadRequest;
use crate::cli::formats::{Id, Scores};
use crate::rerank::Response;

/// Most that a raw score may differ, relative to scores above 1: rows are packed otherwise when they are ranked again,
/// perhaps on another processor.
const MAX_DIFFERENCE: f32 = 1e-4;

/// The same in f16, whose sums have fewer digits.
const MAX_DIFFERENCE_F16: f32 = 1e-3;

/// A hit in an answers file.
#[derive(Debug, Deserialize)]
pub(super) struct FoundHit {
    /// The document's place in the request; a run has none.
    pub(super) index: Option<u32>,
    #[serde(default)]
    pub(super) id: Option<Id>,
    /// `None` if it is no number.
    pub(super) score: Option<f32>,
}

/// How much of an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// At least its beginning.
    Beginning,
}

/// The last answer in a file, and the request that it answers.
pub(super) struct LastAnswer {
    pub(super) request: ReadRequest,
    pub(super) hits: Vec<FoundHit>,
    pub(super) extent: Extent,
    /// Where it is in the file.
    pub(super) place: String,
}

/// How scores were computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Computed<'a> {
    pub(super) scores: Scores,
    /// The engine's.
    pub(super) precision: &'a str,
}

/// Compares an answer in a file with the one that this run gives.
///
/// # Errors
/// They differ; the error says in what.
pub(super) fn compare(
    found: &[FoundHit],
    extent: Extent,
    now: (&Shown, &Result<Response, RequestFault>),
    computed: Computed<'_>,
) -> Result<(), String> {
    let (shown, response) = now;
    let response = response.as_ref().map_err(|fault| format!("it now has an error: {}", fault.message))?;
    let is_other_count = match extent {
        Extent::Whole => found.len() != response.hits.len(),
        Extent::Beginning => found.len() > response.hits.len(),
    };
    if is_other_count {
        return Err(format!("it has {} hits there, and {} now", found.len(), response.hits.len()));
    }
    for (rank, (found, at_rank)) in found.iter().zip(&response.hits).enumerate() {
        let text = |id: Option<&Id>| id.map(Id::to_string);
        let is_it = |index: u32| match found.index {
            Some(found_index) => found_index == index && text(found.id.as_ref()) == text(shown.id(index)),
            None => text(found.id.as_ref()) == text(shown.id(index)),
        };
        // Documents of almost the same score may have changed places.
        let near = |score: f32| is_near(found.score, score, computed);
        if !near(at_rank.score) {
            let there = found.score.map_or("none".to_owned(), |score| score.to_string());
            return Err(format!("the score at rank {} is {there} there, and {} now", rank + 1, at_rank.score));
        }
        let is_there = is_it(at_rank.index) || response.hits.iter().any(|hit| is_it(hit.index) && near(hit.score));
        if !is_there {
            return Err(format!("another document is at rank {} now", rank + 1));
        }
    }
    Ok(())
}

fn is_near(found: Option<f32>, now: f32, computed: Computed<'_>) -> bool {
    let Some(found) = found else { return !now.is_finite() };
    let most = if computed.precision == "f16" { MAX_DIFFERENCE_F16 } else { MAX_DIFFERENCE };
    let most = match computed.scores {
        Scores::Raw => most * now.abs().max(1.0),
        // As much as the same difference of the logit makes, and the rounding of a score.
        Scores::Sigmoid => most * (now * (1.0 - now)).abs() + 3e-7,
    };
    found == now || (found - now).abs() <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sigmoid_near_one_is_compared_as_closely_as_its_logit() {
        let computed = Computed { scores: Scores::Sigmoid, precision: "f32" };
        // Logits of 8 and 8.01.
        assert!(!is_near(Some(0.999_664_6), 0.999_667_9, computed));
        assert!(is_near(Some(0.999_664_6), 0.999_664_7, computed));
        let raw = Computed { scores: Scores::Raw, precision: "f32" };
        assert!(is_near(Some(8.0), 8.0005, raw) && !is_near(Some(8.0), 8.001, raw));
        assert!(is_near(None, f32::NAN, raw) && !is_near(None, 1.0, raw));
    }
}
