//! From a request's text to scores: tokenises it, calls the host's model, and ranks what comes back.
//!
//! Tokenizers are kept between calls, by model revision. [`prepare`] loads the default model's before the guest's
//! memory is snapshotted. A request whose model was replaced since loads the new tokenizer. Models are not kept: every
//! request opens its own.

use std::cell::RefCell;
use std::rc::Rc;

use assay_bindings::{Activation, Error, Hit, Model, ModelInfo, Request, Response, Task, TokenRows, Truncation, Usage};

use crate::encode::{Cut, PairEncoder, PairError, Passages, Query, Rows};
use crate::rank::{order, sigmoid};
use crate::settings::{Options, SETTING_LABEL};

/// Tokens at which rows are sent to the model, with more calls for the rest: 2,048 rows of 512 tokens, or 4 MiB of ids.
/// So neither the host's copy, which is limited by default to 16 MiB a call, nor the guest's memory grows with the
/// number of documents.
pub(crate) const MAX_TOKENS_PER_RUN: usize = 1 << 20;

/// What nothing costs.
pub(crate) const NO_USAGE: Usage = Usage { tokens: 0, rows: 0, truncated: 0 };

/// Most tokenizers kept: a guest that uses more models loads the oldest again.
const MAX_KEPT_TOKENIZERS: usize = 4;

thread_local! {
    /// Tokenizers by model revision, the oldest first. A component has one thread.
    static TOKENIZERS: RefCell<Vec<(String, Rc<PairEncoder>)>> = const { RefCell::new(Vec::new()) };
}

/// The part of the contract's `model` that scoring needs: the host's resource, or a stand-in for tests.
pub trait Inference {
    /// Computes every row; see `inference.model.run` in the contract.
    ///
    /// # Errors
    ///
    /// As in the contract.
    fn run(&self, rows: &TokenRows) -> Result<Vec<f32>, Error>;
}

impl Inference for Model {
    fn run(&self, rows: &TokenRows) -> Result<Vec<f32>, Error> {
        Model::run(self, rows)
    }
}

/// One score per document, and what they cost.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Logits, in the order of the documents.
    pub logits: Vec<f32>,
    /// What was sent to the model.
    pub usage: Usage,
}

/// A model that is open for one request, with its tokenizer.
#[derive(Debug)]
pub struct Scorer<M = Model> {
    model: M,
    info: ModelInfo,
    encoder: Rc<PairEncoder>,
}

impl Scorer<Model> {
    /// Opens a model; `None` is the tenant's default.
    ///
    /// # Errors
    ///
    /// What the host's `open` fails with, and [`Error::Internal`] if the model's tokenizer cannot be used.
    pub fn open(name: Option<&str>) -> Result<Self, Error> {
        let model = Model::open(name)?;
        let info = model.info();
        let encoder = kept_tokenizer(&info, || model.tokenizer())?;
        Ok(Self::new(model, info, encoder))
    }
}

impl<M: Inference> Scorer<M> {
    /// A scorer of these parts; [`Scorer::open`] takes the host's.
    pub fn new(model: M, info: ModelInfo, encoder: Rc<PairEncoder>) -> Self {
        Self { model, info, encoder }
    }

    /// The model's description.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The model's tokenizer.
    pub fn encoder(&self) -> &PairEncoder {
        &self.encoder
    }

    /// Scores every document for the query. Without documents, it does not call the model.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the document, if a pair does not fit and may not be cut; if the model computes
    /// no score, or several and `label` picks none; if not even the special tokens fit. Otherwise what the host's `run`
    /// fails with.
    pub fn score<D: AsRef<str>>(&self, query: &str, documents: &[D], options: &Options) -> Result<Scores, Error> {
        self.score_rows(query, documents, options, |query, document, rows| query.push_pair(document, rows))
    }

    /// Scores every passage of every document for the query. The logits are those of the first document's passages, in
    /// their order, then those of the next; the numbers say how many passages each document has. A document that lost
    /// tokens counts once as truncated.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score), but a document is too long only if it has more passages than it may.
    pub fn score_passages<D: AsRef<str>>(
        &self,
        query: &str,
        documents: &[D],
        options: &Options,
        passages: &Passages,
    ) -> Result<(Scores, Vec<usize>), Error> {
        let mut counts = Vec::with_capacity(documents.len());
        let scores = self.score_rows(query, documents, options, |query, document, rows| {
            let pushed = query.push_passages(document, passages, rows)?;
            counts.push(pushed.passages);
            Ok(pushed.is_cut)
        })?;
        Ok((scores, counts))
    }

    /// Scores the rows that `push` makes of each document; it returns whether it cut a text.
    fn score_rows<D: AsRef<str>>(
        &self,
        query: &str,
        documents: &[D],
        options: &Options,
        mut push: impl FnMut(&mut Query<'_>, &str, &mut Rows) -> Result<bool, PairError>,
    ) -> Result<Scores, Error> {
        let mut scores = Scores { logits: Vec::with_capacity(documents.len()), usage: NO_USAGE };
        if documents.is_empty() {
            return Ok(scores);
        }
        let label = self.label(options.label)?;
        let mut query = self.query(query, options)?;
        let mut rows = Rows::default();
        for (index, document) in documents.iter().enumerate() {
            let was_cut =
                push(&mut query, document.as_ref(), &mut rows).map_err(|error| invalid_document(index, &error))?;
            scores.usage.truncated += u32::from(was_cut);
            if rows.ids.len() >= MAX_TOKENS_PER_RUN {
                rows = self.run(rows, &mut scores.usage, |row| scores.logits.push(row[label]))?;
            }
        }
        self.run(rows, &mut scores.usage, |row| scores.logits.push(row[label]))?;
        Ok(scores)
    }

    /// The longest row, in tokens.
    pub(crate) fn max_tokens(&self, options: &Options) -> usize {
        options.max_tokens.map_or(self.info.max_tokens, |asked| asked.min(self.info.max_tokens)) as usize
    }

    /// Tokenises the query, to be paired with documents as the options say.
    fn query(&self, query: &str, options: &Options) -> Result<Query<'_>, Error> {
        let cut = match options.truncation {
            Truncation::None => Cut::Nothing,
            Truncation::LongestFirst => Cut::LongestFirst,
            Truncation::DocumentOnly => Cut::DocumentOnly,
        };
        let mut query = self.encoder.query(query, self.max_tokens(options), cut).map_err(|error| invalid(&error))?;
        query.cut_from(options.cut_end);
        query.limit_sides(
            options.max_query_tokens.map(|tokens| tokens as usize),
            options.max_document_tokens.map(|tokens| tokens as usize),
        );
        Ok(query)
    }

    /// Sends `rows` to the model, hands on the outputs of each, and returns the rows emptied.
    pub(crate) fn run(&self, rows: Rows, usage: &mut Usage, each: impl FnMut(&[f32])) -> Result<Rows, Error> {
        if rows.is_empty() {
            return Ok(rows);
        }
        if rows.offsets.windows(2).any(|row| row[0] == row[1]) {
            let why = "a row has no token: its texts are empty, and the tokenizer puts no token around them";
            return Err(Error::InvalidInput(why.to_owned()));
        }
        let token_rows = TokenRows { ids: rows.ids, offsets: rows.offsets, second_segment: rows.second_segment };
        let numbers = self.model.run(&token_rows)?;
        let mut rows =
            Rows { ids: token_rows.ids, offsets: token_rows.offsets, second_segment: token_rows.second_segment };
        let outputs = self.info.outputs as usize;
        if numbers.len() != rows.len() * outputs {
            return Err(Error::Internal(format!(
                "model {} computed {} numbers for {} rows of {outputs}",
                self.info.name,
                numbers.len(),
                rows.len(),
            )));
        }
        numbers.chunks_exact(outputs).for_each(each);
        usage.tokens += rows.ids.len() as u64;
        usage.rows += rows.len() as u32;
        rows.clear();
        Ok(rows)
    }

    /// The model's output to rank by: the only one, or the one selected. With several labels there is no default,
    /// because the first one may mean anything.
    fn label(&self, selected: Option<u32>) -> Result<usize, Error> {
        let ModelInfo { name, task, outputs, .. } = &self.info;
        if *task != Task::CrossEncoder || *outputs == 0 {
            return Err(Error::InvalidInput(format!(
                "model {name} is not a cross-encoder: it computes no score to rank by"
            )));
        }
        match selected {
            None if *outputs == 1 => Ok(0),
            None => Err(Error::InvalidInput(format!(
                "model {name} has {outputs} labels: select one with the setting {SETTING_LABEL}, counted from 0, or add the \
                 model again with one chosen (`assay model add --label`)"
            ))),
            Some(label) if label < *outputs => Ok(label as usize),
            Some(label) => Err(Error::InvalidInput(format!(
                "setting {SETTING_LABEL} is {label}, but the labels of model {name} are 0 to {}",
                outputs - 1
            ))),
        }
    }
}

/// Loads the default model's tokenizer, uses it once, and tidies the heap, so that the snapshot that follows is ready
/// to serve. Call it from `Guest::prepare`.
///
/// Reports no failure, because a component that traps cannot say why. The host sends a deployment a trial request
/// before it serves, and that fails with the reason.
pub fn prepare() {
    if let Ok(scorer) = Scorer::open(None) {
        // The snapshot then includes what the tokenizer builds on first use.
        let mut rows = Rows::default();
        let _unused = scorer
            .encoder
            .query("warm-up: naïve 東京 [UNK]", 512, Cut::LongestFirst)
            .and_then(|mut query| query.push_pair("A document, unaffable.", &mut rows));
    }
    #[cfg(target_arch = "wasm32")]
    crate::heap::settle();
}

/// Scores every document with the tenant's default model, applies the activation, and ranks. The standard guest does
/// just this.
///
/// With `top-n` 0, or without documents, the answer is empty and nothing is computed.
///
/// # Errors
///
/// As [`Scorer::open`] and [`Scorer::score`].
pub fn rerank(request: &Request) -> Result<Response, Error> {
    let options = Options::of(request)?;
    let scorer = Scorer::open(None)?;
    answer(&scorer, request, &options)
}

fn answer<M: Inference>(scorer: &Scorer<M>, request: &Request, options: &Options) -> Result<Response, Error> {
    let scores = scorer.score(&request.query, wanted(request), options)?;
    Ok(Response { hits: hits(&scores.logits, request.top_n, request.activation), usage: scores.usage })
}

/// The documents that a request needs scores of: none if it wants no hit.
#[must_use]
pub fn wanted(request: &Request) -> &[String] {
    match request.top_n {
        Some(0) => &[],
        _ => &request.documents,
    }
}

/// The best `top_n` logits, or all, as hits with the scores that were asked for.
///
/// Ranks the logits themselves: an activation rounds different ones to the same score, and those would come out in the documents' order.
#[must_use]
pub fn hits(logits: &[f32], top_n: Option<u32>, activation: Activation) -> Vec<Hit> {
    let mut hits = rank(logits, top_n);
    for hit in &mut hits {
        activate(std::slice::from_mut(&mut hit.score), activation);
    }
    hits
}

/// Applies the activation to logits, in place.
pub fn activate(logits: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::Sigmoid => logits.iter_mut().for_each(|logit| *logit = sigmoid(*logit)),
    }
}

/// The best `top_n` scores, or all, as hits: descending, equal scores in the order of the documents, NaN last.
#[must_use]
pub fn rank(scores: &[f32], top_n: Option<u32>) -> Vec<Hit> {
    let wanted = top_n.map_or(usize::MAX, |top_n| top_n as usize);
    order(scores).into_iter().take(wanted).map(|index| Hit { index: index as u32, score: scores[index] }).collect()
}

pub(crate) fn invalid(error: &PairError) -> Error {
    Error::InvalidInput(error.to_string())
}

pub(crate) fn invalid_document(index: usize, error: &PairError) -> Error {
    Error::InvalidInput(format!("document {index}: {error}"))
}

/// The tokenizer of a model: the kept one, or a new one that is kept from now on.
fn kept_tokenizer(info: &ModelInfo, load: impl FnOnce() -> Vec<u8>) -> Result<Rc<PairEncoder>, Error> {
    let kept = TOKENIZERS.with_borrow(|kept| {
        kept.iter().find(|(revision, _)| *revision == info.revision).map(|(_, encoder)| Rc::clone(encoder))
    });
    if let Some(encoder) = kept {
        return Ok(encoder);
    }
    let encoder = PairEncoder::from_owned_json(load())
        .map_err(|error| Error::Internal(format!("model {}: {error}", info.name)))?;
    let encoder = Rc::new(encoder);
    TOKENIZERS.with_borrow_mut(|kept| {
        if kept.len() == MAX_KEPT_TOKENIZERS {
            kept.remove(0);
        }
        kept.push((info.revision.clone(), Rc::clone(&encoder)));
    });
    Ok(encoder)
}
