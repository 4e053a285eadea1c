//! The OpenAPI document of the service, and a page to read it: both from the table of routes, the vocabulary of bodies
//! and the types of answers, so that neither says what the service does not do.

use std::sync::LazyLock;

use hyper::body::Bytes;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::dialect::vocabulary::Vocabulary;
use super::dialect::{Choice, Dialect, Tei};
use super::routes::{Endpoint, ROUTES, Route};

/// What a request for scores may be answered with beside 200.
const ERRORS: [(&str, &str); 14] = [
    ("400", "The body is not JSON, or has nothing to rank."),
    ("401", "No valid key."),
    ("403", "The guest asked for a model that the tenant may not use."),
    ("404", "Another model was asked for, or an unknown path."),
    ("408", "The body did not arrive in time."),
    ("413", "A limit of the tenant is exceeded; the message names it."),
    ("415", "The body is compressed."),
    ("422", "A field is missing, wrong or unknown; the message names it."),
    ("424", "As 500 and 502, in text-embeddings-inference's words."),
    ("429", "Too many requests or tokens; `Retry-After` says when to try again."),
    ("500", "The host failed."),
    ("502", "The tenant's guest failed."),
    ("503", "Starting, draining, or the device failed; `Retry-After` says when to try again."),
    ("504", "The request took too long."),
];

/// The document as it is sent. It never changes, and is made once.
pub(super) fn bytes() -> Bytes {
    static BYTES: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    BYTES.clone()
}

/// The document, in OpenAPI 3.1.
fn document() -> Value {
    let paths: Map<String, Value> = ROUTES.iter().map(|route| (route.path.to_owned(), operations(route))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Assay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Rankings and scores of a tenant's cross-encoder, in the APIs of Cohere, Jina, \
                text-embeddings-inference, infinity, llama-server and vLLM.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "Made by `assay tenant key create`." },
                "operator": { "type": "http", "scheme": "bearer", "description": "Printed by `assay operator-key`." },
            },
            "schemas": { "Error": {
                "type": "object",
                "description": "Its form is the dialect's; before a dialect is known it has the fields of all.",
            } },
        },
    })
}

fn operations(route: &Route) -> Value {
    match route.endpoint {
        Endpoint::Rank(choice) => json!({ "post": scoring(route, &dialects(choice)) }),
        Endpoint::Score(dialect) => json!({ "post": scoring(route, &[dialect]) }),
        Endpoint::Models | Endpoint::Info => json!({ "get": question(route, &["401", "503"], true) }),
        Endpoint::Ready => json!({ "get": question(route, &["503"], false) }),
        Endpoint::Health | Endpoint::Index | Endpoint::OpenApi => json!({ "get": question(route, &[], false) }),
        Endpoint::Metrics => json!({ "get": {
            "summary": route.about,
            "security": [{ "operator": [] }],
            "responses": {
                "200": { "description": "The counters.", "content": { "text/plain": {} } },
                "401": answer(&json!({ "$ref": "#/components/schemas/Error" }), "No operator's key."),
            },
        } }),
        Endpoint::DashboardEvents => json!({ "get": {
            "summary": route.about,
            "security": [{ "operator": [] }, { "key": [] }],
            "responses": {
                "200": { "description": "The numbers.", "content": { "text/event-stream": {} } },
                "401": answer(&json!({ "$ref": "#/components/schemas/Error" }), "No valid key."),
                "429": error(&ERRORS[9]).1,
            },
        } }),
        Endpoint::Docs | Endpoint::Dashboard => json!({ "get": {
            "summary": route.about,
            "responses": { "200": { "description": "The page.", "content": { "text/html": {} } } },
        } }),
    }
}

/// The dialects that a path may be answered in.
fn dialects(choice: Choice) -> Vec<&'static dyn Dialect> {
    match choice {
        Choice::Named(dialect) => vec![dialect],
        Choice::Documents(dialect) => vec![&Tei, dialect],
        Choice::CohereOrJina => vec![&Tei, &super::dialect::CohereV1, &super::dialect::Jina],
    }
}

fn question(route: &Route, errors: &[&str], has_key: bool) -> Value {
    let mut responses = Map::from_iter([("200".to_owned(), answer(&json!({ "type": "object" }), "The answer."))]);
    responses.extend(ERRORS.iter().filter(|(status, _)| errors.contains(status)).map(error));
    let mut operation = json!({ "summary": route.about, "responses": responses });
    if has_key {
        operation["security"] = security();
    }
    operation
}

fn scoring(route: &Route, dialects: &[&'static dyn Dialect]) -> Value {
    let one_of = |mut schemas: Vec<Value>| match schemas.len() {
        1 => schemas.remove(0),
        _ => json!({ "anyOf": schemas }),
    };
    let mut responses = Map::new();
    let replies = one_of(dialects.iter().map(|dialect| reply(*dialect)).collect());
    responses.insert("200".to_owned(), answer(&replies, "The ranking, or the scores."));
    responses.extend(ERRORS.iter().map(error));
    json!({
        "summary": route.about,
        "security": security(),
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": one_of(dialects.iter().map(|it| request(*it)).collect()) } },
        },
        "responses": responses,
    })
}

/// A key is needed, unless the server answers callers without one.
fn security() -> Value {
    json!([{ "key": [] }, {}])
}

/// A body as a dialect takes it.
fn request(dialect: &dyn Dialect) -> Value {
    let (vocabulary, required) = (dialect.vocabulary(), dialect.required());
    let other = |name: &str| vocabulary == Vocabulary::Ranking && ["documents", "texts"].contains(&name);
    let fields = vocabulary.fields().filter(|field| !other(field.name) || required.contains(&field.name));
    let properties: Map<String, Value> = fields.map(|field| (field.name.to_owned(), field.schema())).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn reply(dialect: &dyn Dialect) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).for_serialize();
    dialect.reply_schema(&mut settings.into_generator()).to_value()
}

fn answer(schema: &Value, about: &str) -> Value {
    json!({ "description": about, "content": { "application/json": { "schema": schema } } })
}

fn error((status, about): &(&str, &str)) -> (String, Value) {
    let mut response = answer(&json!({ "$ref": "#/components/schemas/Error" }), about);
    if ["429", "503"].contains(status) {
        response["headers"] = json!({ "Retry-After": { "schema": { "type": "integer", "minimum": 1 } } });
    }
    ((*status).to_owned(), response)
}
