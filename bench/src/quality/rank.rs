//! The variants set up in this process: devices, models and guests, shared where variants have the same.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use assay::device::{Device, DeviceOptions, EngineChoice, EnginePrecision, LoadedModel};
use assay::model::store::StoredModel;
use assay::model::{ModelStore, Source};
use assay::rerank::{Hit, Request, Response, Truncation};

use tempfile::TempDir;

use super::QualityOptions;
use super::queries::Query;
use super::variant::{Rescore, Variant};
use crate::driver::{InProcessDriver, TenantSetup};
use crate::report::quality::VariantReport;

/// Every variant, ready to rank.
#[derive(Debug)]
pub(super) struct Contest {
    variants: Vec<Variant>,
    /// The model of each variant.
    models: Vec<Arc<LoadedModel>>,
    /// Has a tenant for each variant.
    driver: InProcessDriver,
    /// A store of models that were given as directories. Engines may read their files again.
    _store: Option<TempDir>,
}

/// A variant's answer to a query.
#[derive(Debug, Clone)]
pub(super) struct Ranking {
    /// Indexes of documents, best first, with scores that put them in this order.
    pub(super) scores: Vec<(usize, f32)>,
    pub(super) elapsed: Duration,
    pub(super) rows: u64,
    pub(super) tokens: u64,
    pub(super) truncated: u64,
}

impl Contest {
    /// Opens devices, and loads models and guests.
    ///
    /// # Errors
    /// A variant's engine, model or guest is not there or cannot be used; the error names the variant.
    pub(super) fn open(options: &QualityOptions) -> Result<Self> {
        let mut loader = Loader { options, devices: Vec::new(), models: Vec::new(), store: None };
        let mut setups = Vec::new();
        for variant in &options.variants {
            let model = loader.load(variant).with_context(|| format!("variant {}", variant.name))?;
            setups.push(TenantSetup { guest: variant.guest.clone(), model });
        }
        let store = loader.store;
        let models: Vec<Arc<LoadedModel>> = loader.models.into_iter().map(|(_, model)| model).collect();
        let compiled = options.data_dir.join("compiled");
        let (driver, _) = InProcessDriver::with_models(&models, options.guest.as_deref(), &setups, &compiled)?;
        let models = setups.iter().map(|setup| Arc::clone(&models[setup.model])).collect();
        Ok(Self { variants: options.variants.clone(), models, driver, _store: store })
    }

    /// The facts of a variant.
    pub(super) fn describe(&self, variant: usize) -> VariantReport {
        let (variant, model) = (&self.variants[variant], &self.models[variant]);
        let engine = model.engine();
        VariantReport {
            about: about(variant),
            model: model.name().to_owned(),
            model_revision: model.manifest().revision.clone(),
            engine: engine.name.to_owned(),
            device: engine.device.clone(),
            precision: engine.precision.to_owned(),
            threads: engine.threads,
            weights_bytes: model.memory().weights_bytes,
            ..VariantReport::default()
        }
    }

    /// Ranks a query's documents, in two stages if the variant has two.
    ///
    /// # Errors
    /// A request fails; the error names the query and the variant.
    pub(super) async fn rank(&self, variant: usize, query: &Query) -> Result<Ranking> {
        let documents = query.candidates.iter().map(|candidate| candidate.text.clone()).collect();
        let began = Instant::now();
        let first = self.send(variant, query, documents).await?;
        let mut ranking = Ranking {
            scores: scored(&first.hits),
            elapsed: Duration::ZERO,
            rows: first.usage.rows.into(),
            tokens: first.usage.tokens,
            truncated: first.usage.truncated.into(),
        };
        if let Some(Rescore { by, count }) = &self.variants[variant].rescore {
            let by = self.variants.iter().position(|other| other.name == *by).context("the second stage is there")?;
            let best: Vec<usize> = first.hits.iter().take(*count).map(|hit| hit.index as usize).collect();
            let texts = best.iter().filter_map(|&index| Some(query.candidates.get(index)?.text.clone())).collect();
            let second = self.send(by, query, texts).await?;
            let again = second.hits.iter().filter_map(|hit| best.get(hit.index as usize).copied());
            let rest = first.hits.iter().skip(*count).map(|hit| hit.index as usize);
            ranking.scores = by_place(again.chain(rest).collect());
            ranking.rows += u64::from(second.usage.rows);
            ranking.tokens += second.usage.tokens;
            ranking.truncated += u64::from(second.usage.truncated);
        }
        ranking.elapsed = began.elapsed();
        Ok(ranking)
    }

    async fn send(&self, variant: usize, query: &Query, documents: Vec<String>) -> Result<Response> {
        let Variant { name, max_tokens, truncation, settings, .. } = &self.variants[variant];
        let request = Request {
            query: query.text.clone(),
            documents,
            max_tokens: *max_tokens,
            truncation: truncation.unwrap_or_default(),
            settings: settings.clone(),
            ..Request::default()
        };
        match self.driver.rank(variant, request).await {
            Ok(response) => Ok(response),
            Err(failure) => bail!("{}: query {:?} with variant {name}: {}", query.place, query.id, failure.message),
        }
    }
}

/// The name of a model in a directory: the directory's own.
///
/// # Errors
/// It has none, as the root has.
pub fn dir_name(dir: &Path) -> Result<String> {
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let name = dir.file_name().with_context(|| format!("{} has no name", dir.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Scores that keep the guest's order: its own if they do, otherwise by place.
fn scored(hits: &[Hit]) -> Vec<(usize, f32)> {
    if hits.is_sorted_by(|left, right| left.score >= right.score) {
        return hits.iter().map(|hit| (hit.index as usize, hit.score)).collect();
    }
    by_place(hits.iter().map(|hit| hit.index as usize).collect())
}

/// Scores from the number of documents down to 1.
fn by_place(order: Vec<usize>) -> Vec<(usize, f32)> {
    let count = order.len();
    order.into_iter().enumerate().map(|(place, index)| (index, (count - place) as f32)).collect()
}

/// What a variant changes, in words.
fn about(variant: &Variant) -> String {
    let truncation = |truncation: &Truncation| match truncation {
        Truncation::LongestFirst => "the longer text is cut",
        Truncation::DocumentOnly => "the document is cut",
        Truncation::None => "nothing is cut",
    };
    let mut parts = Vec::new();
    parts.extend(
        variant
            .guest
            .as_ref()
            .map(|guest| format!("guest {}", guest.file_name().unwrap_or(guest.as_os_str()).to_string_lossy())),
    );
    parts.extend(variant.max_tokens.map(|tokens| format!("at most {tokens} tokens")));
    parts.extend(variant.truncation.as_ref().map(|cut| truncation(cut).to_owned()));
    parts.extend(variant.settings.iter().map(|(name, value)| format!("{name} = {value}")));
    parts.extend(variant.rescore.as_ref().map(|stage| format!("then {} for the first {}", stage.by, stage.count)));
    parts.join(", ")
}

/// Loads each model once for each device that it is to be on.
struct Loader<'a> {
    options: &'a QualityOptions,
    devices: Vec<(DeviceKey, Arc<Device>)>,
    models: Vec<(ModelKey, Arc<LoadedModel>)>,
    /// Of models that are given as directories.
    store: Option<TempDir>,
}

type DeviceKey = (EngineChoice, EnginePrecision);

/// A device, and the name of a model; `None` is the store's default.
type ModelKey = (DeviceKey, Option<String>);

impl Loader<'_> {
    /// The place of a variant's model in the list.
    fn load(&mut self, variant: &Variant) -> Result<usize> {
        let base = &self.options.device;
        let device = (variant.engine.unwrap_or(base.choice), variant.precision.unwrap_or(base.precision));
        let key = (device, variant.model.clone().or_else(|| self.options.model.clone()));
        if let Some(place) = self.models.iter().position(|(known, _)| *known == key) {
            return Ok(place);
        }
        let stored = self.stored(key.1.as_deref())?;
        let model = self.device(device)?.load(&stored)?;
        self.models.push((key, model));
        Ok(self.models.len() - 1)
    }

    /// A model of the store by its name, or one in a directory: that is added to a store which goes with the contest.
    fn stored(&mut self, name: Option<&str>) -> Result<StoredModel> {
        let data_dir = &self.options.data_dir;
        let Some(dir) = name.map(Path::new).filter(|dir| dir.is_dir()) else {
            return Ok(ModelStore::new(data_dir).open(name)?);
        };
        let store = match &self.store {
            Some(store) => store,
            None => {
                std::fs::create_dir_all(data_dir).with_context(|| data_dir.display().to_string())?;
                &*self.store.insert(tempfile::tempdir_in(data_dir).with_context(|| data_dir.display().to_string())?)
            }
        };
        let source = Source::Directory { path: std::path::absolute(dir)?.display().to_string() };
        let name = dir_name(dir)?;
        Ok(ModelStore::new(store.path()).add(&name, dir, source, None)?.model)
    }

    fn device(&mut self, key: DeviceKey) -> Result<Arc<Device>> {
        if let Some((_, device)) = self.devices.iter().find(|(known, _)| *known == key) {
            return Ok(Arc::clone(device));
        }
        let options = DeviceOptions { choice: key.0, precision: key.1, ..self.options.device.clone() };
        options.check()?;
        let device = Device::open(&options)?;
        self.devices.push((key, Arc::clone(&device)));
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(index: u32, score: f32) -> Hit {
        Hit { index, score }
    }

    #[test]
    fn scores_keep_the_order_of_the_guest() {
        assert_eq!(scored(&[hit(2, 0.5), hit(0, 0.5), hit(1, -1.0)]), [(2, 0.5), (0, 0.5), (1, -1.0)]);
        // A guest whose order is not that of its scores, such as one that spreads sources.
        assert_eq!(scored(&[hit(2, 0.5), hit(0, 0.9), hit(1, 0.1)]), [(2, 3.0), (0, 2.0), (1, 1.0)]);
    }
}
