//! The two halves joined: a request's text through the encoder to the host's model and back.
//!
//! Tokenizers are kept between calls, by the revision of the model that they belong to: [`prepare`] fills that store before the guest's memory is snapshotted, and a request whose model has since been replaced loads the new tokenizer itself. No resource is kept: every request opens its model anew.

use std::cell::RefCell;
use std::rc::Rc;

use assay_bindings::{Activation, Error, Hit, Model, ModelInfo, Request, Response, Task, TokenRows, Truncation, Usage};

use crate::encode::{Cut, PairEncoder, PairError, Rows};
use crate::rank::{order, sigmoid};

/// The setting that picks a label, counted from 0, of a model that has several.
pub const SETTING_LABEL: &str = "label";

/// Rows are sent to the model once they hold this many tokens, and the rest in a further call: 4 MiB of ids, far under the 128 MiB that wasmtime lets one call copy by default, so that neither the copy nor the guest's own memory grows with the number of documents. Up to 2,048 of the longest rows still go in one call.
const MAX_TOKENS_PER_RUN: usize = 1 << 20;

/// Tokenizers kept at once; a guest that uses more models than this loads them again.
const MAX_KEPT_TOKENIZERS: usize = 4;

thread_local! {
    /// Tokenizers by model revision, the oldest first. A component has one thread.
    static TOKENIZERS: RefCell<Vec<(String, Rc<PairEncoder>)>> = const { RefCell::new(Vec::new()) };
}

/// The part of the contract's `model` that scoring needs: the host's resource in production, a stand-in in tests.
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

/// How pairs are scored.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest row in tokens; the model's own maximum where absent or larger than it.
    pub max_tokens: Option<u32>,
    /// What to do with pairs that do not fit.
    pub truncation: Truncation,
    /// Which label's logit is the score. A model with one label needs none.
    pub label: Option<u32>,
}

impl Options {
    /// What the request asks for, its setting [`SETTING_LABEL`] included.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if that setting is no number.
    pub fn of(request: &Request) -> Result<Self, Error> {
        let label = request
            .settings
            .iter()
            .rev()
            .find(|(name, _)| name == SETTING_LABEL)
            .map(|(name, value)| {
                value.parse().map_err(|_| {
                    Error::InvalidInput(format!(
                        "setting {name} is {value:?}, but must be the number of a label, counted from 0"
                    ))
                })
            })
            .transpose()?;
        Ok(Self { max_tokens: request.max_tokens, truncation: request.truncation, label })
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
    /// Joins a model, its description and its tokenizer; [`Scorer::open`] does this with the host's.
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

    /// Scores every document for the query. No documents cost nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the document, if a pair does not fit and may not be cut; if the model computes no score, or several and `label` picks none; if not even the special tokens fit. Otherwise what the host's `run` fails with.
    pub fn score<D: AsRef<str>>(&self, query: &str, documents: &[D], options: &Options) -> Result<Scores, Error> {
        let mut scores =
            Scores { logits: Vec::with_capacity(documents.len()), usage: Usage { tokens: 0, rows: 0, truncated: 0 } };
        if documents.is_empty() {
            return Ok(scores);
        }
        let label = self.label(options.label)?;
        let max_tokens = options.max_tokens.map_or(self.info.max_tokens, |asked| asked.min(self.info.max_tokens));
        let cut = match options.truncation {
            Truncation::None => Cut::Nothing,
            Truncation::LongestFirst => Cut::LongestFirst,
            Truncation::DocumentOnly => Cut::DocumentOnly,
        };
        let mut query = self.encoder.query(query, max_tokens as usize, cut).map_err(|error| invalid(&error))?;
        let mut rows = Rows::default();
        for (index, document) in documents.iter().enumerate() {
            let was_cut =
                query.push_pair(document.as_ref(), &mut rows).map_err(|error| invalid_document(index, &error))?;
            scores.usage.truncated += u32::from(was_cut);
            if rows.ids.len() >= MAX_TOKENS_PER_RUN {
                rows = self.run(rows, label, &mut scores)?;
            }
        }
        self.run(rows, label, &mut scores)?;
        Ok(scores)
    }

    /// Sends `rows` to the model, appends the label's logits to `scores`, and gives the emptied rows back for more.
    fn run(&self, rows: Rows, label: usize, scores: &mut Scores) -> Result<Rows, Error> {
        if rows.is_empty() {
            return Ok(rows);
        }
        let token_rows = TokenRows { ids: rows.ids, offsets: rows.offsets, second_segment: rows.second_segment };
        let numbers = self.model.run(&token_rows)?;
        let mut rows =
            Rows { ids: token_rows.ids, offsets: token_rows.offsets, second_segment: token_rows.second_segment };
        let outputs = self.info.outputs as usize;
        if numbers.len() != rows.len() * outputs {
            return Err(Error::Internal(format!(
                "model {} gave {} numbers for {} rows of {outputs}",
                self.info.name,
                numbers.len(),
                rows.len(),
            )));
        }
        scores.logits.extend(numbers.chunks_exact(outputs).map(|row| row[label]));
        scores.usage.tokens += rows.ids.len() as u64;
        scores.usage.rows += rows.len() as u32;
        rows.clear();
        Ok(rows)
    }

    /// Which of the model's outputs is the score: the only one, or the one picked. A model with several has no ranking score of its own, so that guessing would rank by whatever label happens to be first.
    fn label(&self, picked: Option<u32>) -> Result<usize, Error> {
        let ModelInfo { name, task, outputs, .. } = &self.info;
        if *task != Task::CrossEncoder || *outputs == 0 {
            return Err(Error::InvalidInput(format!(
                "model {name} is not a cross-encoder and gives no scores to rank by"
            )));
        }
        match picked {
            None if *outputs == 1 => Ok(0),
            None => Err(Error::InvalidInput(format!(
                "model {name} has {outputs} labels; pick the one to rank by with the setting {SETTING_LABEL}, counted from 0"
            ))),
            Some(label) if label < *outputs => Ok(label as usize),
            Some(label) => Err(Error::InvalidInput(format!(
                "setting {SETTING_LABEL} is {label}, but model {name} has {outputs}, counted from 0"
            ))),
        }
    }
}

/// Loads the default model's tokenizer and uses it once, so that the snapshot that follows holds it ready, and free memory in one piece. Call it from `Guest::prepare`.
///
/// A failure is not reported here, because a component has no way to say why it traps: the first request, which the host sends before it switches a deployment in, fails with the reason in words.
pub fn prepare() {
    if let Ok(scorer) = Scorer::open(None) {
        // What the tokenizer makes on first use belongs into the snapshot too.
        let mut rows = Rows::default();
        let _unused = scorer
            .encoder
            .query("warm-up: naïve 東京 [UNK]", 512, Cut::LongestFirst)
            .and_then(|mut query| query.push_pair("A document, unaffable.", &mut rows));
    }
    #[cfg(target_arch = "wasm32")]
    crate::heap::settle();
}

/// What the standard guest does: scores every document with the tenant's default model, applies the activation and ranks.
///
/// With `top-n` 0, or no documents, the answer is empty and nothing is computed: no hit could be returned, so none is paid for.
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
    let documents = match request.top_n {
        Some(0) => &[],
        _ => request.documents.as_slice(),
    };
    let mut scores = scorer.score(&request.query, documents, options)?;
    activate(&mut scores.logits, request.activation);
    Ok(Response { hits: rank(&scores.logits, request.top_n), usage: scores.usage })
}

/// Turns logits into the scores that were asked for, in place.
pub fn activate(logits: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::Sigmoid => logits.iter_mut().for_each(|logit| *logit = sigmoid(*logit)),
    }
}

/// The best `top_n` scores, or all, as hits: descending, equal scores in the documents' order, and what is not a number last.
#[must_use]
pub fn rank(scores: &[f32], top_n: Option<u32>) -> Vec<Hit> {
    let wanted = top_n.map_or(usize::MAX, |top_n| top_n as usize);
    order(scores).into_iter().take(wanted).map(|index| Hit { index: index as u32, score: scores[index] }).collect()
}

fn invalid(error: &PairError) -> Error {
    Error::InvalidInput(error.to_string())
}

fn invalid_document(index: usize, error: &PairError) -> Error {
    Error::InvalidInput(format!("document {index}: {error}"))
}

/// The tokenizer of a model, from the store or loaded into it.
fn kept_tokenizer(info: &ModelInfo, load: impl FnOnce() -> Vec<u8>) -> Result<Rc<PairEncoder>, Error> {
    let kept = TOKENIZERS.with_borrow(|kept| {
        kept.iter().find(|(revision, _)| *revision == info.revision).map(|(_, encoder)| Rc::clone(encoder))
    });
    if let Some(encoder) = kept {
        return Ok(encoder);
    }
    let encoder =
        PairEncoder::from_json(&load()).map_err(|error| Error::Internal(format!("model {}: {error}", info.name)))?;
    let encoder = Rc::new(encoder);
    TOKENIZERS.with_borrow_mut(|kept| {
        if kept.len() == MAX_KEPT_TOKENIZERS {
            kept.remove(0);
        }
        kept.push((info.revision.clone(), Rc::clone(&encoder)));
    });
    Ok(encoder)
}
