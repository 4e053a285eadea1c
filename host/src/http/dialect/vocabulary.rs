//! The fields that bodies may have: one table, from which bodies are checked, callers are told what is known, and the
//! OpenAPI document is written.

use serde_json::Value;

/// A field of a body.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct KnownField {
    pub(in crate::http) name: &'static str,
    /// What it does, for people.
    pub(in crate::http) about: &'static str,
    /// Its JSON Schema, as text.
    schema: &'static str,
    /// A value that every request may have, for tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    example: &'static str,
}

impl KnownField {
    /// The field's JSON Schema with its description.
    pub(in crate::http) fn schema(&self) -> Value {
        // The texts are this file's own, and a test reads them.
        let mut schema: Value = serde_json::from_str(self.schema).unwrap_or_default();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".to_owned(), self.about.into());
        }
        schema
    }
}

const fn field(name: &'static str, schema: &'static str, example: &'static str, about: &'static str) -> KnownField {
    KnownField { name, about, schema, example }
}

const TEXT: &str = r#"{"type":["string","null"]}"#;
const FLAG: &str = r#"{"type":["boolean","null"]}"#;
const COUNT: &str = r#"{"type":["integer","null"],"minimum":1}"#;
const OFF: &str = r#"{"enum":[false,null]}"#;
const EMPTY_TEXT: &str = r#"{"enum":["",null]}"#;
const EMPTY_OBJECT: &str = r#"{"type":["object","null"],"maxProperties":0}"#;
const QUERY: &str = r#"{"type":"string"}"#;
const DOCUMENTS: &str = r#"{"type":"array","minItems":1,"items":{"anyOf":[{"type":"string"},{"type":"object"}]}}"#;
const SIDE: &str = r#"{"anyOf":[{"type":"string"},{"type":"array","minItems":1,"items":{"type":"string"}}]}"#;
const PAIRS: &str = r#"{"anyOf":[{"type":"array","items":{"type":"string"},"minItems":2,"maxItems":2},{"type":"array","minItems":1,"items":{"type":"array","items":{"type":"string"},"minItems":2,"maxItems":2}}]}"#;
const SPANS: &str =
    r#"{"type":["object","null"],"properties":{"mode":{"const":"disabled"}},"additionalProperties":false}"#;
const END: &str = r#"{"enum":["Right","right","Left","left",null]}"#;
const SETTINGS: &str =
    r#"{"type":["object","null"],"additionalProperties":{"type":["string","number","boolean","null"]}}"#;
const TOP_N: &str = r#"{"type":["integer","null"],"minimum":0}"#;

/// The fields of a ranking that say what to rank and what to answer. Its documents are called `documents` or `texts`.
const RANKING: &[KnownField] = &[
    field("query", QUERY, "\"q\"", "The query."),
    field(
        "documents",
        DOCUMENTS,
        "[\"d\"]",
        "What to rank: strings, or objects with a text or with the fields of rank_fields.",
    ),
    field("texts", DOCUMENTS, "[\"d\"]", "What to rank, in text-embeddings-inference's requests."),
    MODEL,
    field("top_n", TOP_N, "2.0", "Most results; all if absent. At least 1; 0 is all in vLLM's API."),
    field("return_documents", FLAG, "true", "Whether documents come back, as they were sent."),
    field("return_text", FLAG, "true", "The same as return_documents."),
    field(
        "rank_fields",
        r#"{"type":["array","null"],"items":{"type":"string"}}"#,
        "[\"text\"]",
        "Fields of object documents to rank, one line each.",
    ),
];

/// The pairs of text-embeddings-inference's `/predict`.
const PREDICT: &[KnownField] =
    &[field("inputs", PAIRS, "[\"q\",\"d\"]", "A pair of query and document, or a list of pairs.")];

/// The pairs of vLLM's `/score`: two sides, under one of these names.
const SCORE: &[KnownField] = &[
    field("text_1", SIDE, "\"q\"", "One side of the pairs: queries."),
    field("text_2", SIDE, "[\"d\"]", "The other side: documents."),
    field("queries", SIDE, "\"q\"", "The same as text_1."),
    field("documents", SIDE, "[\"d\"]", "The same as text_2."),
    field("items", SIDE, "[\"d\"]", "The same as text_2."),
    field("data_1", SIDE, "\"q\"", "The same as text_1."),
    field("data_2", SIDE, "[\"d\"]", "The same as text_2."),
    MODEL,
];

const MODEL: KnownField = field("model", TEXT, "\"default\"", "The model that serves; another one is refused by name.");

/// What every body may have beside: how to score, and what libraries send.
const COMMON: &[KnownField] = &[
    field("raw_scores", FLAG, "true", "Whether scores are logits, and not between 0 and 1."),
    field("use_activation", FLAG, "true", "false: scores are logits."),
    field("activation", FLAG, "true", "The same as use_activation."),
    field("truncate", FLAG, "true", "false: a pair that is too long is refused, and not cut."),
    field("truncation", FLAG, "true", "The same as truncate."),
    field("truncation_direction", END, "\"Right\"", "The end of a text that is cut: Right, its end, or Left."),
    field("truncation_side", END, "\"left\"", "The same as truncation_direction."),
    field(
        "truncate_prompt_tokens",
        r#"{"anyOf":[{"enum":[-1,null]},{"type":"integer","minimum":1}]}"#,
        "-1",
        "Longest pair in tokens; -1 is the model's own.",
    ),
    field("max_tokens_per_doc", COUNT, "8", "Most tokens of a document; the rest is cut."),
    field("max_tokens_per_query", COUNT, "8", "Most tokens of the query; the rest is cut."),
    field("max_chunks_per_doc", COUNT, "10", "A document is one chunk."),
    field("priority", r#"{"enum":[0,null]}"#, "0", "Only 0: all requests of a tenant wait in one line."),
    field("relevant_spans", SPANS, "{\"mode\":\"disabled\"}", "Only disabled."),
    field("return_embeddings", OFF, "false", "Only false: a cross-encoder has no embeddings."),
    field("softmax", OFF, "false", "Only false: a score depends on no other document."),
    field("add_special_tokens", r#"{"enum":[true,null]}"#, "true", "Only true: the model was trained with them."),
    field("instruction", EMPTY_TEXT, "\"\"", "Only empty."),
    field("chat_template", EMPTY_TEXT, "\"\"", "Only empty."),
    field("chat_template_kwargs", EMPTY_OBJECT, "{}", "Only empty."),
    field("mm_processor_kwargs", EMPTY_OBJECT, "{}", "Only empty."),
    field("max_doc_length", EMPTY_TEXT, "\"\"", "Only empty."),
    field("max_query_length", EMPTY_TEXT, "\"\"", "Only empty."),
    field("user", TEXT, "\"someone\"", "A label of the caller's own, ignored."),
    field("request_id", TEXT, "\"1\"", "A label of the caller's own, ignored."),
    field("settings", SETTINGS, "{}", "Settings for the tenant's own guest."),
];

/// Which body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Vocabulary {
    /// Of a ranking.
    Ranking,
    /// Of `/predict`.
    Predict,
    /// Of `/score`.
    Score,
}

impl Vocabulary {
    /// The fields that the body may have.
    pub(in crate::http) fn fields(self) -> impl Iterator<Item = &'static KnownField> {
        let own = match self {
            Self::Ranking => RANKING,
            Self::Predict => PREDICT,
            Self::Score => SCORE,
        };
        own.iter().chain(COMMON)
    }

    /// Their names.
    pub(in crate::http) fn names(self) -> Vec<&'static str> {
        self.fields().map(|field| field.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::dialect::{CohereV1, Dialect, Serving, Tei, TeiPredict, VllmScore};
    use crate::http::fields::Fields;
    use crate::limits::RequestLimits;

    /// Every field of the table is one that the code takes, with the example of the table.
    #[test]
    fn every_known_field_is_understood() {
        let limits = RequestLimits::default();
        let serving = Serving { model: "m", max_tokens: 16, scores: None, limits: &limits };
        let bodies: [(&dyn Dialect, Vocabulary, &str, &[&str]); 4] = [
            (&CohereV1, Vocabulary::Ranking, r#""query":"q","documents":["d"]"#, &["query", "documents", "texts"]),
            (&Tei, Vocabulary::Ranking, r#""query":"q","texts":["d"]"#, &["query", "documents", "texts"]),
            (&TeiPredict, Vocabulary::Predict, r#""inputs":["q","d"]"#, &["inputs"]),
            (
                &VllmScore,
                Vocabulary::Score,
                r#""text_1":"q","text_2":"d""#,
                &["text_1", "text_2", "queries", "documents", "items", "data_1", "data_2"],
            ),
        ];
        for (dialect, vocabulary, base, sides) in bodies {
            for field in vocabulary.fields().filter(|field| !sides.contains(&field.name)) {
                let body = format!("{{{base},\"{}\":{}}}", field.name, field.example);
                let parsed = dialect.parse(Fields::of(&body).unwrap(), &serving);
                assert!(parsed.is_ok(), "{body}: {}", parsed.unwrap_err());
                assert!(field.schema().is_object(), "{}", field.name);
            }
            let unknown = format!("{{{base},\"no_such_field\":1}}");
            let error = dialect.parse(Fields::of(&unknown).unwrap(), &serving).unwrap_err().to_string();
            assert!(vocabulary.names().iter().all(|name| error.contains(name)), "{error}");
        }
    }
}
