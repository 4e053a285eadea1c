//! What is served, and where: one table of paths, from which requests are routed and callers are told what exists.

use hyper::Method;

use super::dialect::{
    Choice, CohereV1, CohereV2, Dialect, Infinity, Jina, LlamaServer, Tei, TeiPredict, Vllm, VllmScore,
};
use super::error::HttpError;
use super::fields::quoted;

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Endpoint {
    /// A ranking, in the dialect that the choice finds.
    Rank(Choice),
    /// Scores of pairs.
    Score(&'static dyn Dialect),
    /// The models that the caller may name.
    Models,
    /// The model and the limits, as text-embeddings-inference tells them.
    Info,
    /// Whether the process lives.
    Health,
    /// Whether it takes requests.
    Ready,
    /// The server's counters, for the operator.
    Metrics,
    /// The page that shows them.
    Dashboard,
    /// The numbers that it draws.
    DashboardEvents,
    /// What exists.
    Index,
    /// The same as an OpenAPI document.
    OpenApi,
    /// The same as a page.
    Docs,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) endpoint: Endpoint,
    /// For people who ask what exists.
    pub(super) about: &'static str,
}

impl Route {
    /// The methods that the path takes.
    pub(super) fn allowed(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Rank(_) | Endpoint::Score(_) => "POST",
            _ => "GET, HEAD",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        match self.endpoint {
            Endpoint::Rank(_) | Endpoint::Score(_) => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }
}

const fn route(path: &'static str, endpoint: Endpoint, about: &'static str) -> Route {
    Route { path, endpoint, about }
}

/// Everything that is served.
pub(super) const ROUTES: &[Route] = &[
    route(
        "/rerank",
        Endpoint::Rank(Choice::Documents(&Infinity)),
        "rank `texts` (text-embeddings-inference) or `documents` (infinity)",
    ),
    route(
        "/v1/rerank",
        Endpoint::Rank(Choice::CohereOrJina),
        "rank `documents` (Cohere v1, or Jina if the model is jina-…)",
    ),
    route("/v2/rerank", Endpoint::Rank(Choice::Documents(&CohereV2)), "rank `documents` (Cohere v2)"),
    route("/api/v1/rerank", Endpoint::Rank(Choice::CohereOrJina), "the same as /v1/rerank"),
    route("/reranking", Endpoint::Rank(Choice::Documents(&LlamaServer)), "rank `documents` (llama-server: logits)"),
    route("/v1/reranking", Endpoint::Rank(Choice::Documents(&LlamaServer)), "the same as /reranking"),
    route("/predict", Endpoint::Score(&TeiPredict), "score pairs (text-embeddings-inference)"),
    route("/score", Endpoint::Score(&VllmScore), "score pairs (vLLM)"),
    route("/v1/score", Endpoint::Score(&VllmScore), "the same as /score"),
    route("/v1/models", Endpoint::Models, "the model that serves (OpenAI)"),
    route("/models", Endpoint::Models, "the same as /v1/models"),
    route("/info", Endpoint::Info, "the model and the limits (text-embeddings-inference)"),
    route("/health", Endpoint::Health, "200 while the process lives"),
    route("/ready", Endpoint::Ready, "200 while requests are taken"),
    route("/metrics", Endpoint::Metrics, "the server's counters in Prometheus' format, for the operator's key"),
    route("/dashboard", Endpoint::Dashboard, "a page that shows them live, for the operator's key or a tenant's"),
    route("/dashboard/events", Endpoint::DashboardEvents, "what the page shows, as server-sent events"),
    route("/openapi.json", Endpoint::OpenApi, "this service as an OpenAPI document"),
    route("/docs", Endpoint::Docs, "the same as a page"),
    route("/", Endpoint::Index, "this list"),
];

/// Dialect names that a path may begin with. The name alone then decides, for clients whose requests look like those of
/// another dialect.
const PREFIXES: [(&str, &dyn Dialect); 6] = [
    ("cohere", &CohereV1),
    ("infinity", &Infinity),
    ("jina", &Jina),
    ("llama", &LlamaServer),
    ("tei", &Tei),
    ("vllm", &Vllm),
];

/// Finds what a request leads to, and the path of its line in the table. Repeated and trailing slashes do not matter.
///
/// # Errors
/// There is no such path, or it takes another method.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static str, Endpoint), HttpError> {
    let exact = ROUTES.iter().find(|route| route.path == path).map(|route| (route, None));
    let (route, dialect) = exact.or_else(|| find_loosely(path)).ok_or_else(|| not_found(path))?;
    if !route.takes(method) {
        let (path, method) = (route.path, quoted(method.as_str()));
        return Err(HttpError::Method { path, method, allowed: route.allowed() });
    }
    let endpoint = match (route.endpoint, dialect) {
        (Endpoint::Rank(Choice::Documents(v2)), Some("cohere")) if route.path == "/v2/rerank" => {
            Endpoint::Rank(Choice::Named(v2))
        }
        (Endpoint::Rank(_), Some(name)) => {
            let named = PREFIXES.iter().find(|(known, _)| *known == name);
            Endpoint::Rank(Choice::Named(named.map_or(&CohereV1, |(_, dialect)| *dialect)))
        }
        (endpoint, _) => endpoint,
    };
    Ok((route.path, endpoint))
}

/// Finds a path without regard to empty segments, and after a dialect's name.
fn find_loosely(path: &str) -> Option<(&'static Route, Option<&'static str>)> {
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let named = segments.first().and_then(|first| PREFIXES.iter().find(|(name, _)| name == first));
    if named.is_some() {
        segments.remove(0);
    }
    let matches =
        |route: &&Route| route.path.split('/').filter(|segment| !segment.is_empty()).eq(segments.iter().copied());
    ROUTES.iter().find(matches).map(|route| (route, named.map(|(name, _)| *name)))
}

fn not_found(path: &str) -> HttpError {
    let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    HttpError::NotFound { path: quoted(path), served: format!("there are {}", paths.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> String {
        match find(&Method::POST, path) {
            Ok((_, Endpoint::Rank(choice))) => format!("{choice:?}"),
            Ok((_, other)) => format!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn slashes_do_not_matter() {
        for path in ["/v1/rerank", "/v1/rerank/", "//v1/rerank", "/v1//rerank//"] {
            assert_eq!(found(path), "CohereOrJina", "{path}");
        }
        assert!(matches!(find(&Method::GET, "//"), Ok((_, Endpoint::Index))));
    }

    #[test]
    fn a_dialects_name_before_the_path_decides() {
        for (path, choice) in [
            ("/vllm/rerank", "Named(Vllm)"),
            ("/vllm/v1/rerank", "Named(Vllm)"),
            ("/jina/v1/rerank", "Named(Jina)"),
            ("/cohere/v1/rerank", "Named(CohereV1)"),
            ("/cohere/v2/rerank", "Named(CohereV2)"),
            ("/tei/rerank/", "Named(Tei)"),
        ] {
            assert_eq!(found(path), choice, "{path}");
        }
        assert!(matches!(find(&Method::POST, "/vllm/score"), Ok((_, Endpoint::Score(_)))));
    }

    #[test]
    fn what_is_not_served_is_told_what_is() {
        for path in ["/v3/rerank", "/rerank/more", "/vllm/cohere/rerank", "/v1"] {
            let message = found(path);
            assert!(message.contains("nothing is served at") && message.contains("/v2/rerank"), "{message}");
        }
        assert_eq!(found("/health"), "/health takes GET, HEAD, not POST");
        assert!(find(&Method::GET, "/rerank").is_err());
        let long = found(&"/a".repeat(1_000));
        assert!(long.len() < 400, "{long}");
    }
}
