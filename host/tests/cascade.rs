//! The guest `cascade` over two tenants: what it keeps of the costly one's ranking, and how many of its tokens it
//! takes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use assay::rerank::Request;
use assay::tenant::{LiveTenant, Platform};
use common::server::copy_all;
use common::tenants::{self, callers, component, deploy, deploy_linked, name, serving};
use serde::Deserialize;
use tokio::runtime::Runtime;

/// A query with the documents that it should find.
#[derive(Debug, Deserialize)]
struct Judged {
    query: String,
    documents: Vec<String>,
    relevant: Vec<u32>,
}

/// A tenant's ranking of all queries.
#[derive(Debug)]
struct Ranked {
    mean_reciprocal_rank: f64,
    /// Tokens that it told its callers.
    tokens: u64,
}

fn rank(runtime: &Runtime, tenant: &Arc<LiveTenant>, queries: &[Judged], settings: &[(&str, &str)]) -> Ranked {
    let settings: Vec<_> = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (mut sum, mut tokens) = (0.0, 0);
    for Judged { query, documents, relevant } in queries {
        let (query, documents, settings) = (query.clone(), documents.clone(), settings.clone());
        let request = Request { query, documents, settings, ..Request::default() };
        let answer = runtime.block_on(tenant.rerank(request)).unwrap();
        assert!(answer.hits.is_sorted_by(|left, right| left.score >= right.score), "{:?}", answer.hits);
        let rank = answer.hits.iter().position(|hit| relevant.contains(&hit.index)).unwrap() + 1;
        sum += 1.0 / rank as f64;
        tokens += answer.usage.tokens;
    }
    Ranked { mean_reciprocal_rank: sum / queries.len() as f64, tokens }
}

/// Tenants with the default model: `cheap` and `costly` have the standard guest, `both` has the cascade over them.
fn tenants(dir: &std::path::Path, runtime: &Runtime) -> Platform {
    copy_all(&common::test_data().join("models"), &dir.join("models"));
    let platform = tenants::platform(dir, runtime.handle());
    for tenant in ["cheap", "costly"] {
        serving(deploy(&platform, tenant, &component("standard"), Some(callers(&["both"]))));
    }
    let links = [("cheap", "cheap"), ("costly", "costly")];
    serving(deploy_linked(&platform, "both", &component("cascade"), None, &links));
    platform
}

/// The demo's queries, each of which four of the passages answer.
fn demo() -> Vec<Judged> {
    let lines = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(testdata::root().join("examples").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (queries, documents) = (lines("queries.jsonl"), lines("passages.jsonl"));
    let judged = |(number, query): (usize, String)| {
        let first = 4 * number as u32;
        Judged { query, documents: documents.clone(), relevant: (first..first + 4).collect() }
    };
    queries.into_iter().enumerate().map(judged).collect()
}

#[test]
fn a_cascade_keeps_the_costly_tenants_ranking_for_half_of_its_tokens() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let platform = tenants(dir.path(), &runtime);
    let [cheap, costly, both] = ["cheap", "costly", "both"].map(|tenant| platform.tenant(&name(tenant)).unwrap());
    let check = |what: &str, queries: &[Judged], settings: &[(&str, &str)], least: f64, most_tokens: f64| {
        let alone = rank(&runtime, &costly, queries, &[]);
        let before = [&cheap, &costly].map(|tenant| tenant.usage().tokens);
        let cascade = rank(&runtime, &both, queries, settings);
        let after = [&cheap, &costly].map(|tenant| tenant.usage().tokens);
        let [cheap_tokens, costly_tokens] = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(cascade.tokens, cheap_tokens + costly_tokens, "the guest tells what its tenants were charged");
        let kept = cascade.mean_reciprocal_rank / alone.mean_reciprocal_rank;
        let part = |tokens: u64| tokens as f64 / alone.tokens as f64;
        println!(
            "{what}: mean reciprocal rank {:.4} of {:.4} ({kept:.4}); {:.3} of the costly tenant's tokens, and {:.3} of \
             them on the cheap one",
            cascade.mean_reciprocal_rank,
            alone.mean_reciprocal_rank,
            part(costly_tokens),
            part(cheap_tokens),
        );
        assert!(kept >= least, "{kept} is kept of the ranking");
        assert!(part(costly_tokens) <= most_tokens, "{} of the tokens", part(costly_tokens));
    };
    let settings = [("costly-documents", "9"), ("cheap-max-tokens", "40")];
    let demo = demo();
    check("demo", &demo, &settings, 1.0, 0.5);
    match testdata::beside_checkout("workload/quality.jsonl") {
        None => testdata::skip(testdata::Cause::NoReference, "no judged queries beside the checkout: the demo's alone"),
        Some(path) => {
            let text = std::fs::read_to_string(path).unwrap();
            let queries: Vec<Judged> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            check("92 queries", &queries, &settings, 0.98, 0.5);
        }
    }
}
