//! A guest of two stages, each a tenant behind a link: a cheap one scores all documents, and a costly one scores the
//! best of them again. The rest stays below these, in the order of the cheap one.
//!
//! Settings, beside those of the SDK, which go to both tenants:
//!
//! | setting | meaning | default |
//! | --- | --- | --- |
//! | `costly-documents` | documents that the costly tenant scores: from 0 to 1000 | 10 |
//! | `cheap-max-tokens` | longest row of the cheap tenant, in tokens | the request's |
//! | `cheap.NAME`, `costly.NAME` | a setting `NAME` for one of the tenants | |
//!
//! A score is the costly tenant's. The cheap tenant's scores are lowered where they would be above. If all documents
//! may go to the costly tenant, the cheap one is not asked.

mod merge;
mod stages;

use assay_guest::{Activation, Error, Guest, Hit, Options, Request, Response, Settings, Usage, activate, wanted};

use merge::below;

/// The settings that this guest has of its own.
const SETTINGS: [&str; 4] = ["costly-documents", "cheap-max-tokens", "cheap.*", "costly.*"];

/// A page of results.
const DEFAULT_COSTLY_DOCUMENTS: usize = 10;

/// As many documents as a request may have by default.
const MAX_COSTLY_DOCUMENTS: usize = 1000;

/// Longer than the rows of any model.
const MAX_TOKENS: u32 = 1 << 20;

const NO_USAGE: Usage = Usage { tokens: 0, rows: 0, truncated: 0 };

/// What a request's settings say.
#[derive(Debug, PartialEq)]
struct Plan {
    costly_documents: usize,
    cheap_max_tokens: Option<u32>,
    cheap_settings: Vec<(String, String)>,
    costly_settings: Vec<(String, String)>,
}

impl Plan {
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if one is not known or has a value that it cannot have.
    fn of(request: &Request) -> Result<Self, Error> {
        let settings = Settings::of(request, &SETTINGS)?;
        // Refused here, because without documents no tenant is asked.
        Options::of(request)?;
        let [costly_documents, cheap_max_tokens, ..] = SETTINGS;
        Ok(Self {
            costly_documents: settings
                .number(costly_documents, 0..=MAX_COSTLY_DOCUMENTS)?
                .unwrap_or(DEFAULT_COSTLY_DOCUMENTS),
            cheap_max_tokens: settings.number(cheap_max_tokens, 1..=MAX_TOKENS)?,
            cheap_settings: settings_for("cheap.", request),
            costly_settings: settings_for("costly.", request),
        })
    }
}

/// The settings for a tenant: those of the SDK, then its own, so that its own count.
fn settings_for(prefix: &str, request: &Request) -> Vec<(String, String)> {
    let is_own =
        |name: &str| SETTINGS.iter().any(|own| own.strip_suffix('*').map_or(name == *own, |own| name.starts_with(own)));
    let shared = request.settings.iter().filter(|(name, _)| !is_own(name)).cloned();
    let of_tenant = request.settings.iter();
    let of_tenant = of_tenant.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())));
    shared.chain(of_tenant).collect()
}

/// Asks both stages, and puts their hits together.
///
/// # Errors
///
/// What a stage fails with.
fn answer(
    request: &Request,
    plan: Plan,
    cheap: impl FnOnce(Request) -> Result<Response, Error>,
    costly: impl FnOnce(Request) -> Result<Response, Error>,
) -> Result<Response, Error> {
    let stage = |documents: Vec<String>, max_tokens, settings| Request {
        query: request.query.clone(),
        documents,
        top_n: None,
        max_tokens,
        truncation: request.truncation,
        // Of logits, so that the stages' scores have one scale as far as they can.
        activation: Activation::None,
        settings,
    };
    let documents = wanted(request);
    let mut usage = NO_USAGE;
    let first: Vec<Hit> = if documents.len() <= plan.costly_documents {
        (0..documents.len()).map(|index| Hit { index: index as u32, score: 0.0 }).collect()
    } else {
        let max_tokens = plan.cheap_max_tokens.or(request.max_tokens);
        let answer = cheap(stage(documents.to_vec(), max_tokens, plan.cheap_settings))?;
        add(&mut usage, &answer.usage);
        answer.hits
    };
    let (best, rest) = first.split_at(plan.costly_documents.min(first.len()));
    let mut hits = Vec::with_capacity(first.len());
    if !best.is_empty() {
        let texts = best.iter().filter_map(|hit| documents.get(hit.index as usize).cloned()).collect();
        let answer = costly(stage(texts, request.max_tokens, plan.costly_settings))?;
        add(&mut usage, &answer.usage);
        let again = answer.hits.iter();
        hits.extend(again.filter_map(|hit| Some(Hit { index: best.get(hit.index as usize)?.index, score: hit.score })));
    }
    below(&mut hits, rest);
    hits.truncate(request.top_n.map_or(usize::MAX, |top_n| top_n as usize));
    for hit in &mut hits {
        activate(std::slice::from_mut(&mut hit.score), request.activation);
    }
    Ok(Response { hits, usage })
}

fn add(usage: &mut Usage, more: &Usage) {
    usage.tokens = usage.tokens.saturating_add(more.tokens);
    usage.rows = usage.rows.saturating_add(more.rows);
    usage.truncated = usage.truncated.saturating_add(more.truncated);
}

struct Cascade;

impl Guest for Cascade {
    fn rerank(request: Request) -> Result<Response, Error> {
        let plan = Plan::of(&request)?;
        answer(&request, plan, stages::cheap, stages::costly)
    }
}

assay_guest::export!(Cascade);

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::Truncation;

    fn request(documents: usize, settings: &[(&str, &str)]) -> Request {
        Request {
            query: "query".to_owned(),
            documents: (0..documents).map(|number| format!("document {number}")).collect(),
            top_n: None,
            max_tokens: Some(64),
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    /// A stage that gives these hits, and costs a token for each document.
    fn gives(hits: &[(u32, f32)]) -> impl FnOnce(Request) -> Result<Response, Error> {
        let hits = hits.iter().map(|&(index, score)| Hit { index, score }).collect();
        move |request| {
            let tokens = request.documents.len() as u64;
            Ok(Response { hits, usage: Usage { tokens, rows: tokens as u32, truncated: 1 } })
        }
    }

    fn never(_: Request) -> Result<Response, Error> {
        panic!("this stage has nothing to do")
    }

    fn hits(response: &Response) -> Vec<(u32, f32)> {
        response.hits.iter().map(|hit| (hit.index, hit.score)).collect()
    }

    #[test]
    fn the_best_are_ranked_by_the_costly_tenant_and_the_rest_stays_below() {
        let asked = request(4, &[("costly-documents", "2")]);
        let plan = Plan::of(&asked).unwrap();
        let cheap = gives(&[(3, 9.0), (1, 8.0), (0, 7.0), (2, -1.0)]);
        let costly = |second: Request| {
            assert_eq!(second.documents, ["document 3", "document 1"]);
            gives(&[(1, 2.5), (0, 1.5)])(second)
        };
        let answered = answer(&asked, plan, cheap, costly).unwrap();
        assert_eq!(hits(&answered), [(1, 2.5), (3, 1.5), (0, 1.5), (2, -6.5)]);
        assert_eq!((answered.usage.tokens, answered.usage.rows, answered.usage.truncated), (6, 6, 2));
    }

    #[test]
    fn settings_go_to_the_tenant_that_they_name_and_those_of_the_sdk_to_both() {
        let settings = [
            ("costly-documents", "1"),
            ("cheap-max-tokens", "16"),
            ("cheap.best-passages", "2"),
            ("truncation-direction", "left"),
            ("costly.truncation-direction", "right"),
        ];
        let asked = request(2, &settings);
        let pairs = |request: &Request| -> Vec<String> {
            request.settings.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        let cheap = |first: Request| {
            assert_eq!((first.max_tokens, first.top_n), (Some(16), None));
            assert_eq!(pairs(&first), ["truncation-direction=left", "best-passages=2"]);
            gives(&[(0, 1.0), (1, 0.0)])(first)
        };
        let costly = |second: Request| {
            assert_eq!(second.max_tokens, Some(64));
            assert_eq!(pairs(&second), ["truncation-direction=left", "truncation-direction=right"]);
            gives(&[(0, 5.0)])(second)
        };
        let plan = Plan::of(&asked).unwrap();
        assert_eq!(hits(&answer(&asked, plan, cheap, costly).unwrap()), [(0, 5.0), (1, 0.0)]);
    }

    #[test]
    fn a_stage_that_changes_nothing_is_not_asked() {
        let all = request(2, &[("costly-documents", "2")]);
        let costly = gives(&[(1, 1.0), (0, 0.0)]);
        assert_eq!(hits(&answer(&all, Plan::of(&all).unwrap(), never, costly).unwrap()), [(1, 1.0), (0, 0.0)]);
        let none = request(2, &[("costly-documents", "0")]);
        let cheap = gives(&[(1, 1.0), (0, 0.0)]);
        assert_eq!(hits(&answer(&none, Plan::of(&none).unwrap(), cheap, never).unwrap()), [(1, 1.0), (0, 0.0)]);
        let empty = Request { top_n: Some(0), ..request(30, &[]) };
        assert_eq!(hits(&answer(&empty, Plan::of(&empty).unwrap(), never, never).unwrap()), []);
    }

    #[test]
    fn as_many_hits_as_asked_for_with_the_scores_that_were_asked_for() {
        let asked =
            Request { top_n: Some(2), activation: Activation::Sigmoid, ..request(3, &[("costly-documents", "1")]) };
        let plan = Plan::of(&asked).unwrap();
        let answered = answer(&asked, plan, gives(&[(2, 4.0), (1, -1.0), (0, -2.0)]), gives(&[(0, 0.0)])).unwrap();
        assert_eq!(hits(&answered), [(2, 0.5), (1, assay_guest::sigmoid(-1.0))]);
    }

    #[test]
    fn documents_that_a_stage_leaves_out_stay_out() {
        let asked = request(4, &[("costly-documents", "2")]);
        let plan = Plan::of(&asked).unwrap();
        let answered = answer(&asked, plan, gives(&[(3, 2.0), (1, 1.0), (0, 0.0)]), gives(&[(1, 7.0)])).unwrap();
        assert_eq!(hits(&answered), [(1, 7.0), (0, 0.0)]);
    }

    #[test]
    fn a_wrong_setting_is_refused_by_name() {
        let refused = |settings: &[(&str, &str)], parts: &[&str]| {
            let Err(Error::InvalidInput(message)) = Plan::of(&request(0, settings)) else { panic!("{settings:?}") };
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        refused(&[("costly-documents", "1001")], &["costly-documents", "from 0 to 1000"]);
        refused(&[("cheap-max-tokens", "0")], &["cheap-max-tokens", "from 1 to"]);
        refused(&[("truncation-direction", "?")], &["truncation-direction"]);
        refused(&[("best", "1")], &["no setting \"best\"", "costly-documents"]);
    }

    #[test]
    fn what_a_stage_fails_with_is_passed_on() {
        let asked = request(2, &[("costly-documents", "1")]);
        let failed = answer(&asked, Plan::of(&asked).unwrap(), |_| Err(Error::Overloaded(7)), never);
        assert!(matches!(failed, Err(Error::Overloaded(7))));
    }
}
