//! What the doctor computes: a model, batches of made-up rows, and what a few rows must give by the float64 reference.

use std::time::{Duration, Instant};

use assay_kernels::{Architecture, CheckedBatch, Engine, Model, PackedBatch, Row, families, flops, reference};
use serde::Serialize;

use super::clock::Clock;
use crate::cli::error::CliError;
use crate::model::store::StoredModel;
use crate::model::{ModelError, ModelStore};

/// Tokens of a row in the batches that are timed, if the model takes as many.
const ROW_TOKENS: usize = 100;

/// Tokens of the rows whose numbers are checked, the first that the reference computes in a few seconds.
const CHECKED_TOKENS: [[usize; 2]; 3] = [[17, 47], [5, 17], [2, 5]];

/// What the reference computes a second at least.
const REFERENCE_FLOPS_PER_S: f64 = 2e8;

/// Longest time for the reference, if the clock has it.
const REFERENCE_TIME: Duration = Duration::from_secs(10);

/// Words of a stand-in whose numbers are checked: enough for its rows, and no more to make.
const CHECKED_WORDS: usize = 1_000;

/// What every device computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) subject: &'a Subject,
    /// `None` if the reference takes too long for the model, and for one layer of it too.
    pub(super) expected: Option<&'a Expected>,
    /// Rows of the batches that are timed, the fewest first.
    pub(super) rows: &'a [usize],
}

/// A model to compute.
#[derive(Debug)]
pub(super) struct Subject {
    stored: Option<StoredModel>,
    pub(super) architecture: Architecture,
    /// How long loading took, once it has been.
    pub(super) load_time: Duration,
}

/// A model's shape: all that decides how fast it is.
#[derive(Debug, Serialize)]
pub(super) struct Shape {
    /// Whether its weights are random, because no model is in the store.
    pub(super) stand_in: bool,
    family: &'static str,
    pub(super) layers: usize,
    pub(super) hidden: usize,
    heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocabulary: usize,
    longest_row: usize,
    outputs: usize,
    pub(super) row_tokens: usize,
}

/// Rows, and their numbers by the reference.
#[derive(Debug)]
pub(super) struct Expected {
    /// Fewer layers with random weights in the model's shape, if the model's own take the reference too long.
    stand_in: Option<Architecture>,
    rows: PackedBatch,
    numbers: Vec<f64>,
}

impl Subject {
    /// The model `name`; without a name the store's default, or a stand-in with random weights if there is none.
    pub(super) fn find(store: &ModelStore, name: Option<&str>) -> Result<Self, CliError> {
        let find = || -> Result<_, ModelError> {
            let stored = match name {
                Some(name) => Some(store.open(Some(name))?),
                None if store.default_name()?.is_some() => Some(store.open(None)?),
                None => None,
            };
            let architecture = match &stored {
                Some(stored) => stored.architecture()?,
                None => families::stand_in_architecture(),
            };
            Ok((stored, architecture))
        };
        let (stored, architecture) = find().map_err(|error| unusable(&error.into()))?;
        let mut subject = Self { stored, architecture, load_time: Duration::ZERO };
        // A damaged model is found before anything is measured, and the time tells what each load takes.
        let started = Instant::now();
        drop(subject.load().map_err(|error| unusable(&error))?);
        subject.load_time = started.elapsed();
        Ok(subject)
    }

    /// How it is called, for the person in front of the screen; not part of what is pasted elsewhere.
    pub(super) fn name(&self) -> String {
        match &self.stored {
            Some(stored) => stored.manifest.name.clone(),
            None => "no model in the store: random weights in the default model's shape".to_owned(),
        }
    }

    pub(super) fn load(&self) -> Result<Model, CliError> {
        match &self.stored {
            Some(stored) => Ok(stored.load()?),
            None => Ok(families::stand_in(self.architecture.clone())),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        let Architecture { block, layers, head: _, .. } = &self.architecture;
        Shape {
            stand_in: self.stored.is_none(),
            family: self.architecture.family,
            layers: layers.len(),
            hidden: self.architecture.hidden_size,
            heads: block.attention.heads,
            head_dim: block.attention.head_dim,
            intermediate: block.mlp.intermediate_size,
            vocabulary: self.architecture.vocab_size,
            longest_row: self.architecture.max_tokens,
            outputs: self.architecture.outputs(),
            row_tokens: self.row_tokens(),
        }
    }

    fn row_tokens(&self) -> usize {
        ROW_TOKENS.min(self.architecture.max_tokens)
    }

    /// A batch of `rows` rows, or as many of them as the engine takes in one.
    pub(super) fn batch(&self, engine: &dyn Engine, rows: usize) -> Result<CheckedBatch, CliError> {
        let most = engine.max_batch_tokens() / self.row_tokens();
        self.rows(&vec![self.row_tokens(); rows.min(most)])?.check(&engine.shape()).map_err(|error| unexpected(&error))
    }

    fn rows(&self, lengths: &[usize]) -> Result<PackedBatch, CliError> {
        rows_of(&self.architecture, lengths)
    }

    /// Rows to check engines with, and their numbers: the model's, or a stand-in's of fewer layers. `None` if the clock
    /// has no time for either.
    pub(super) fn expected(&self, clock: &mut Clock) -> Result<Option<Expected>, CliError> {
        let most = REFERENCE_TIME.min(clock.left() / 8);
        if let Some(lengths) = checked_tokens(&self.architecture, most) {
            let (model, rows) = (self.load()?, self.rows(&lengths)?);
            return Ok(Some(Expected { stand_in: None, numbers: reference::forward(&model, &rows), rows }));
        }
        let layers = self.architecture.layers.len();
        let fewer = std::iter::successors(Some(layers / 2), |layers| Some(layers / 2)).take_while(|&layers| layers > 0);
        for layers in fewer {
            let mut architecture = self.architecture.clone();
            architecture.layers.truncate(layers);
            architecture.vocab_size = architecture.vocab_size.min(CHECKED_WORDS);
            if let Some(lengths) = checked_tokens(&architecture, most) {
                let rows = rows_of(&architecture, &lengths)?;
                let numbers = reference::forward(&families::stand_in(architecture.clone()), &rows);
                return Ok(Some(Expected { stand_in: Some(architecture), rows, numbers }));
            }
        }
        clock.skip("checking numbers: the reference takes too long for one layer of this model".to_owned());
        Ok(None)
    }
}

/// The most tokens that the reference computes in a time.
fn checked_tokens(architecture: &Architecture, most: Duration) -> Option<[usize; 2]> {
    let time_of = |lengths: [usize; 2]| {
        let flops: u64 = lengths.iter().map(|&length| flops::row_flops(architecture, length)).sum();
        Duration::from_secs_f64(flops as f64 / REFERENCE_FLOPS_PER_S)
    };
    let lengths = CHECKED_TOKENS.map(|lengths| lengths.map(|length| length.min(architecture.max_tokens)));
    lengths.into_iter().find(|&lengths| time_of(lengths) <= most)
}

/// Rows of random ids.
fn rows_of(architecture: &Architecture, lengths: &[usize]) -> Result<PackedBatch, CliError> {
    let mut rows = PackedBatch::default();
    for (row, &length) in lengths.iter().enumerate() {
        let id = |place: usize| ((row * 7919 + place * 104_729) % architecture.vocab_size) as u32;
        let ids: Vec<u32> = (0..length).map(id).collect();
        rows.push(Row { ids: &ids, second_segment: length / 4 }).map_err(|error| unexpected(&error))?;
    }
    Ok(rows)
}

impl Expected {
    /// Layers of the stand-in, if one is checked.
    pub(super) fn stand_in_layers(&self) -> Option<usize> {
        self.stand_in.as_ref().map(|architecture| architecture.layers.len())
    }

    /// The stand-in, if it is not the model that is checked.
    pub(super) fn stand_in(&self) -> Option<Model> {
        self.stand_in.clone().map(families::stand_in)
    }

    /// How long an engine takes for the rows at a rate.
    pub(super) fn time_at(&self, architecture: &Architecture, flops_per_s: f64) -> Duration {
        let architecture = self.stand_in.as_ref().unwrap_or(architecture);
        Duration::from_secs_f64(flops::batch_flops(architecture, &self.rows) as f64 / flops_per_s)
    }

    /// The largest error of an engine's numbers, as a part of the largest number, at least 1. A number that is none is
    /// infinitely wrong.
    pub(super) fn largest_error(&self, engine: &mut dyn Engine) -> Result<f64, CliError> {
        let mut outputs = Vec::new();
        let batch = self.rows.clone().check(&engine.shape()).map_err(|error| unexpected(&error))?;
        engine.run(&batch, &mut outputs).map_err(|error| CliError::failed(error.to_string()))?;
        if outputs.len() != self.numbers.len() {
            return Ok(f64::INFINITY);
        }
        let largest = self.numbers.iter().fold(1.0f64, |largest, number| largest.max(number.abs()));
        let errors = outputs.iter().zip(&self.numbers).map(|(&actual, expected)| {
            let error = (f64::from(actual) - expected).abs();
            if error.is_nan() { f64::INFINITY } else { error }
        });
        Ok(errors.fold(0.0, f64::max) / largest)
    }
}

/// Why a model cannot be measured, with the ways on.
fn unusable(error: &CliError) -> CliError {
    CliError::bad_input(format!(
        "{error}; `assay model verify` says which files are damaged, --model measures another model, and an empty \
         --data-dir random weights"
    ))
}

/// An error of this program: rows of its own that a model does not take.
fn unexpected(error: &assay_kernels::BatchError) -> CliError {
    CliError::failed(format!("made-up rows do not fit the model: {error}"))
}
