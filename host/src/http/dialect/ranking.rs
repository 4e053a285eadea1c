//! What the dialects that rank have in common: one vocabulary of fields, read the same way by all of them.
//!
//! A field of one dialect is understood in every other, so that a client library which mixes them is served; a
//! [`Profile`] holds what differs. A field that would change scores in a way that the host cannot is refused by name.

use super::vocabulary::Vocabulary;
use super::{ByGuest, Question, Serving};
use crate::http::error::{FieldError, HttpError};
use crate::http::fields::{Documents, Field, Fields, quoted};
use crate::json::Kind;
use crate::rerank::{
    Activation, Request, SETTING_MAX_DOCUMENT_TOKENS, SETTING_MAX_QUERY_TOKENS, SETTING_TRUNCATION_DIRECTION,
    Truncation,
};

/// What differs between dialects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile {
    /// The field that holds the documents.
    pub(super) documents: &'static str,
    /// Which scores the answer has, if the body does not say.
    pub(super) scores: Activation,
    /// Whether documents are given back, if the body does not say.
    pub(super) returns_documents: bool,
    /// What an empty query means.
    pub(super) empty_query: EmptyQuery,
    /// What a `top_n` of 0 means.
    pub(super) top_n_zero: TopNZero,
    /// What a `model` that is not served means.
    pub(super) model: ModelRule,
}

/// Both versions of Cohere's API.
pub(super) const COHERE: Profile = Profile {
    documents: "documents",
    scores: Activation::Sigmoid,
    returns_documents: false,
    empty_query: EmptyQuery::Refused,
    top_n_zero: TopNZero::Refused,
    // What the names of Cohere's own models begin with.
    model: ModelRule::Served { hosted: &["rerank-"] },
};

/// What an empty query means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmptyQuery {
    /// It is ranked like any other text.
    Ranked,
    /// It is a mistake.
    Refused,
}

/// What a `top_n` of 0 means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopNZero {
    /// All documents.
    All,
    /// It is a mistake.
    Refused,
}

/// What a `model` that is not served means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelRule {
    /// Nothing: the dialect has no such field, or its servers do not look at it.
    Ignored,
    /// It is a mistake, unless its name begins like those of the models that this dialect's own service hosts. Client
    /// libraries send one of those by default; it stands for the model that is served, and the answer warns of it.
    Served {
        /// What the names of hosted models begin with.
        hosted: &'static [&'static str],
    },
}

/// Names that stand for the model that serves.
const ANY_MODEL: [&str; 2] = ["default", "default/not-specified"];

/// Decodes a body that asks for a ranking.
pub(super) fn parse(mut fields: Fields<'_>, serving: &Serving<'_>, profile: &Profile) -> Result<Question, HttpError> {
    let query = fields.require("query")?.bounded_text(serving.limits)?;
    if query.is_empty() && profile.empty_query == EmptyQuery::Refused {
        return Err(FieldError::new("query", "must not be empty").into());
    }
    let mut warnings = Vec::new();
    if let Some(model) = fields.take("model") {
        warnings.extend(check_model(model, serving, profile.model)?);
    }
    let top_n = fields.take("top_n").map(|top_n| read_top_n(top_n, profile.top_n_zero)).transpose()?.flatten();
    let rank_fields = fields.take("rank_fields").map(Field::names).transpose()?.unwrap_or_default();
    let shows = fields.take_one_of(&["return_documents", "return_text"], Field::boolean)?;
    let shows = shows.unwrap_or(profile.returns_documents);
    let activation = read_activation(&mut fields, profile.scores)?;
    let cut = Cut::take(&mut fields, serving)?;
    refuse_what_is_not_done(&mut fields, serving)?;
    let settings = cut.settings(&mut fields)?;
    let Documents { texts, places } = fields.require(profile.documents)?.documents(&rank_fields, serving.limits)?;
    fields.finish(&Vocabulary::Ranking.names())?;
    let Cut { truncation, max_tokens, by_guest } = cut;
    let request = Request { query, documents: texts, top_n, max_tokens, truncation, activation, ..Request::default() };
    let shown = if shows { places } else { Vec::new() };
    Ok(Question { requests: vec![request], settings, shown, warnings, by_guest, ..Question::default() })
}

/// Whether the model that is asked for serves; a warning where another one stands in for it.
pub(super) fn check_model(
    field: Field<'_>,
    serving: &Serving<'_>,
    rule: ModelRule,
) -> Result<Option<String>, HttpError> {
    let asked = field.text()?;
    let short = serving.model.rsplit('/').next().unwrap_or_default();
    if asked == serving.model || asked == short || asked.is_empty() || ANY_MODEL.contains(&asked.as_str()) {
        return Ok(None);
    }
    match rule {
        ModelRule::Ignored => Ok(None),
        ModelRule::Served { hosted } if hosted.iter().any(|prefix| asked.starts_with(prefix)) => {
            Ok(Some(format!("model {} is not here: {} answered", quoted(&asked), serving.model)))
        }
        ModelRule::Served { .. } => Err(HttpError::Model { asked: quoted(&asked), serves: serving.model.to_owned() }),
    }
}

fn read_top_n(field: Field<'_>, zero: TopNZero) -> Result<Option<u32>, FieldError> {
    match zero {
        TopNZero::Refused => field.count(1).map(Some),
        TopNZero::All => field.count(0).map(|count| (count > 0).then_some(count)),
    }
}

/// The scores that the body asks for.
pub(super) fn read_activation(fields: &mut Fields<'_>, default: Activation) -> Result<Activation, FieldError> {
    let names = ["raw_scores", "use_activation", "activation"];
    let activation = fields.take_one_of(&names, |field| {
        let is_raw = field.boolean()? == (field.name() == "raw_scores");
        Ok(if is_raw { Activation::None } else { Activation::Sigmoid })
    })?;
    Ok(activation.unwrap_or(default))
}

/// How texts that are too long are cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) truncation: Truncation,
    /// The longest pair in tokens.
    pub(super) max_tokens: Option<u32>,
    /// What only the guest can do.
    pub(super) by_guest: Vec<ByGuest>,
}

impl Cut {
    pub(super) fn take(fields: &mut Fields<'_>, serving: &Serving<'_>) -> Result<Self, FieldError> {
        let mut by_guest = Vec::new();
        let truncation = fields.take_one_of(&["truncate", "truncation"], |field| {
            Ok(if field.boolean()? { Truncation::LongestFirst } else { Truncation::None })
        })?;
        let truncation = truncation.unwrap_or_default();
        let mut left = None;
        fields.take_one_of(&["truncation_direction", "truncation_side"], |field| {
            let text = field.text()?.to_ascii_lowercase();
            match text.as_str() {
                "right" => {}
                "left" => left = Some(field.name()),
                _ => return Err(field.refuse("must be \"Right\" or \"Left\"")),
            }
            Ok(text)
        })?;
        by_guest.extend(left.map(|name| ByGuest::new(name, SETTING_TRUNCATION_DIRECTION, "left")));
        let max_tokens = match fields.take("truncate_prompt_tokens") {
            None => None,
            // In vLLM −1 is the model's own maximum.
            Some(field) if field.integer()? == -1 => None,
            Some(field) => Some(field.count(1)?),
        };
        for (name, setting) in
            [("max_tokens_per_doc", SETTING_MAX_DOCUMENT_TOKENS), ("max_tokens_per_query", SETTING_MAX_QUERY_TOKENS)]
        {
            // A bound beyond the longest row is kept by cutting rows.
            if let Some(count) = fields.take(name).map(|field| field.count(1)).transpose()?
                && count < serving.max_tokens
            {
                by_guest.push(ByGuest::new(name, setting, count.to_string()));
            }
        }
        Ok(Self { truncation, max_tokens, by_guest })
    }

    /// The caller's own settings, and those that cut.
    pub(super) fn settings(&self, fields: &mut Fields<'_>) -> Result<Vec<(String, String)>, FieldError> {
        let mut settings = fields.take("settings").map(Field::settings).transpose()?.unwrap_or_default();
        settings.extend(self.by_guest.iter().map(|asked| (asked.setting.to_owned(), asked.value.clone())));
        Ok(settings)
    }
}

/// Takes fields that the host cannot honour, and refuses any value of them that would change the answer.
pub(super) fn refuse_what_is_not_done(fields: &mut Fields<'_>, serving: &Serving<'_>) -> Result<(), FieldError> {
    if let Some(field) = fields.take("max_chunks_per_doc") {
        // A document is one chunk, and so never more than any number of them.
        field.count(1)?;
    }
    if let Some(field) = fields.take("priority")
        && field.integer()? != 0
    {
        return Err(field.refuse("can only be 0: all requests of a tenant wait in one line"));
    }
    if let Some(field) = fields.take("relevant_spans") {
        field.object(|name, value| match (&*name, value.get()) {
            ("mode", "\"disabled\"") => Ok(()),
            _ => Err(FieldError::new("relevant_spans", r#"can only be {"mode": "disabled"}: no spans are found"#)),
        })?;
    }
    for (name, reason) in [
        ("return_embeddings", "can only be false: a cross-encoder has no embeddings"),
        ("softmax", "can only be false: a score depends on no other document"),
    ] {
        if let Some(field) = fields.take(name)
            && field.boolean()?
        {
            return Err(field.refuse(reason));
        }
    }
    if let Some(field) = fields.take("add_special_tokens")
        && !field.boolean()?
    {
        return Err(field.refuse("can only be true: a cross-encoder needs its special tokens"));
    }
    for name in [
        "instruction",
        "chat_template",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "max_doc_length",
        "max_query_length",
    ] {
        if let Some(field) = fields.take(name)
            && !is_empty(field)
        {
            return Err(field.refuse(format!("is not supported: {} takes a query and a document", serving.model)));
        }
    }
    // Labels of the caller's own, which no server's answer depends on.
    for name in ["user", "request_id"] {
        if let Some(field) = fields.take(name) {
            field.text()?;
        }
    }
    Ok(())
}

/// Whether a field holds nothing: `""`, `[]` or `{}`.
fn is_empty(field: Field<'_>) -> bool {
    match field.kind() {
        Kind::String => field.text().is_ok_and(|text| text.is_empty()),
        Kind::Object => field.object(|_, _| Err(FieldError::new("", ""))).is_ok(),
        Kind::Array => field.array("", |_, _| Ok::<_, FieldError>(())).is_ok_and(|count| count == 0),
        Kind::Null | Kind::Boolean | Kind::Number => false,
    }
}
