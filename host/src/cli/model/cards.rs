//! Known models with the pairs and scores of their cards: `models/cards.json`, which is part of the program.
//!
//! The file says for each model where its figures come from, and how far off a right model may be: as far as the
//! precision allows in which they were computed.

use serde::Deserialize;

use crate::cli::error::CliError;
use crate::cli::formats::{ScoredPair, Scores};

const CARDS: &str = include_str!("../../../../models/cards.json");

/// What a model's card says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card {
    /// The model's names on the hub; the others lead to the first.
    pub(super) models: Vec<String>,
    /// How the scores are given.
    pub(super) scores: Scores,
    /// Most that a score may differ.
    pub(super) within: f64,
    /// Where the figures come from.
    pub(super) source: String,
    pub(super) pairs: Vec<ScoredPair>,
}

/// The card of a model by its name on the hub.
///
/// # Errors
/// The model is not among the known ones; the message names them.
pub(super) fn find(name: &str) -> Result<Card, CliError> {
    let cards = all()?;
    let known: Vec<String> = cards.iter().filter_map(|card| card.models.first().cloned()).collect();
    let found = cards.into_iter().find(|card| card.models.iter().any(|model| model == name));
    found.ok_or_else(|| {
        CliError::bad_input(format!(
            "the scores of {name:.100?} are not known here, but those of {}: write the pairs and scores of its card to \
             a file, and use `assay model verify NAME --against FILE`",
            known.join(", ")
        ))
    })
}

fn all() -> Result<Vec<Card>, CliError> {
    serde_json::from_str(CARDS).map_err(|error| CliError::failed(format!("the built-in cards: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_can_be_compared_with() {
        let cards = all().unwrap();
        let mut names: Vec<&String> = cards.iter().flat_map(|card| &card.models).collect();
        assert!(names.iter().all(|name| name.split('/').count() == 2), "{names:?}");
        names.sort();
        assert!(names.windows(2).all(|names| names[0] != names[1]), "{names:?}");
        for card in &cards {
            assert!(!card.models.is_empty() && !card.pairs.is_empty() && !card.source.is_empty());
            assert!(card.within > 0.0 && card.within < 0.1, "{:?}", card.models);
            for pair in &card.pairs {
                assert!(card.scores == Scores::Raw || (0.0..=1.0).contains(&pair.score), "{:?}", card.models);
            }
        }
    }

    #[test]
    fn an_unknown_model_is_told_the_known_ones() {
        let message = find("owner/other").unwrap_err().to_string();
        for card in all().unwrap() {
            assert!(message.contains(&card.models[0]), "{message}");
        }
    }
}
