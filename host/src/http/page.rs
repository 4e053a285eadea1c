//! A page that shows people what the service answers: self-contained, without scripts.

use maud::{DOCTYPE, html};

use super::dialect::vocabulary::Vocabulary;
use super::routes::{Endpoint, ROUTES, Route};

/// What the page may load: nothing.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;\
background:#fff}code,pre{font:14px/1.4 ui-monospace,monospace;background:#f3f3f3;border-radius:3px}code{padding:0 .2em}\
pre{padding:.7em;overflow-x:auto}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem \
.25rem 0;border-bottom:1px solid #ddd;vertical-align:top}h2{margin-top:2.5rem}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}code,pre{background:#24272d}td,th{border-color:#3a3e46}}";

/// The page. `origin` is how the reader reached the server, for the examples.
pub(super) fn page(origin: &str) -> String {
    let bodies = [("Rankings", Vocabulary::Ranking), ("/predict", Vocabulary::Predict), ("/score", Vocabulary::Score)];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "Assay" }
                style { (STYLE) }
            }
            body {
                h1 { "Assay" }
                p {
                    "Version " (env!("CARGO_PKG_VERSION")) ". The same as an "
                    a href="openapi.json" { "OpenAPI document" } "."
                }
                h2 { "Paths" }
                table {
                    tr { th { "method" } th { "path" } th { "what" } }
                    @for route in ROUTES {
                        tr { td { (route.allowed()) } td { code { (route.path) } } td { (route.about) } }
                    }
                }
                p {
                    "A path may begin with the name of a dialect, which then decides: " code { "/cohere" } ", "
                    code { "/infinity" } ", " code { "/jina" } ", " code { "/llama" } ", " code { "/tei" } ", "
                    code { "/vllm" } "."
                }
                h2 { "Try it" }
                @for route in ROUTES.iter().filter(|route| example(route).is_some()) {
                    pre { "curl -s " (origin) (route.path) " \\\n    -H 'Authorization: Bearer KEY' \\\n    -d '" (example(route).unwrap_or_default()) "'" }
                }
                @for (title, vocabulary) in bodies {
                    h2 { "Fields: " (title) }
                    table {
                        tr { th { "field" } th { "what" } }
                        @for field in vocabulary.fields() {
                            tr { td { code { (field.name) } } td { (field.about) } }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

/// A body for a path that takes one.
fn example(route: &Route) -> Option<&'static str> {
    match (route.path, route.endpoint) {
        ("/rerank", _) => {
            Some(r#"{"query": "why is the sky blue", "texts": ["Air scatters blue light.", "Bread is baked."]}"#)
        }
        ("/predict", _) => Some(r#"{"inputs": [["why is the sky blue", "Air scatters blue light."]]}"#),
        ("/score", _) => Some(r#"{"text_1": "why is the sky blue", "text_2": ["Air scatters blue light."]}"#),
        ("/v2/rerank" | "/v1/rerank", Endpoint::Rank(_)) => Some(
            r#"{"query": "why is the sky blue", "documents": ["Air scatters blue light.", "Bread is baked."], "top_n": 1}"#,
        ),
        _ => None,
    }
}
