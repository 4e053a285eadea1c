//! A LoRA adapter in PEFT's format, merged into the weights as they are read.
//!
//! | what the adapter has | what the weights become |
//! | --- | --- |
//! | `lora_A`, `lora_B` | `W' = W + scale · B · A` (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>) |
//! | `lora_magnitude_vector` | `W'` with rows of that length (DoRA, Liu 2024, <https://arxiv.org/abs/2402.09353>) |
//! | `lora_B.bias` | `b + scale · bias` |
//! | `lora_embedding_A`, `lora_embedding_B` | `W + scale · (B · A)ᵀ` of a table |
//! | a module's own tensors (`modules_to_save`, `bias`) | those |
//!
//! Every tensor of the file must be used, and everything that the configuration promises must be in the file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::adapter_config::{AdapterConfig, Biases};
use super::tensors::{Tensors, layer_of};
use super::{ADAPTER_WEIGHTS_FILE, CheckpointError};
use crate::families::{Names, shown};

/// PEFT's prefix of every tensor name.
const PEFT_PREFIX: &str = "base_model.model.";

pub(super) struct Adapter<'a> {
    path: PathBuf,
    config: AdapterConfig,
    tensors: Tensors,
    names: &'a Names,
    /// Whether the adapter was made for the family's bare encoder, whose names lack the family's prefix.
    is_bare: bool,
    /// Every tensor's shape, and whether it has been used yet.
    used: RefCell<BTreeMap<String, (Vec<usize>, bool)>>,
}

/// A module's weights, `[outputs, inputs]`, row-major.
pub(super) struct Matrix<'a> {
    pub(super) weight: &'a mut [f32],
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

impl<'a> Adapter<'a> {
    /// The adapter in `dir`, over a base model that may be a bare encoder.
    pub(super) fn new(dir: &Path, names: &'a Names, base_is_bare: bool) -> Result<Self, CheckpointError> {
        let path = dir.join(ADAPTER_WEIGHTS_FILE);
        let tensors = Tensors::open(std::slice::from_ref(&path))?;
        let config = AdapterConfig::read(dir)?;
        let used: BTreeMap<_, _> = tensors.names().map(|(name, shape)| (name, (shape, false))).collect();
        let prefixed = format!("{PEFT_PREFIX}{}", names.prefix);
        let is_bare = base_is_bare && !used.keys().any(|name| name.starts_with(&prefixed));
        let adapter = Self { path, config, tensors, names, is_bare, used: RefCell::new(used) };
        adapter.check_updates()?;
        Ok(adapter)
    }

    /// Refuses updates that PEFT would not apply.
    fn check_updates(&self) -> Result<(), CheckpointError> {
        for name in self.used.borrow().keys() {
            let Some(inner) = name.strip_prefix(PEFT_PREFIX) else { continue };
            let Some((module, _)) = inner.split_once(".lora_") else { continue };
            if let Some(field) = self.config.field_without(module) {
                return Err(self.refused(format!(
                    "{field} in its configuration leaves out {}, and the file has an update of it, which PEFT drops: \
                     save the adapter again with save_pretrained",
                    shown(module)
                )));
            }
            // The model reads the table itself, around what PEFT puts in its place.
            if module.ends_with("rel_embeddings") {
                return Err(self.refused(format!(
                    "it has an update of {}, which PEFT does not apply before it is merged: merge the adapter with PEFT",
                    shown(module)
                )));
            }
        }
        Ok(())
    }

    /// Outputs of a linear layer that the adapter replaces whole; `None` if the adapter does not replace it.
    pub(super) fn outputs(&self, module: &str) -> Option<usize> {
        let used = self.used.borrow();
        used.get(&self.peft_name(&format!("{module}.weight"))).and_then(|(shape, _)| shape.first().copied())
    }

    /// Whether the file has the tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.used.borrow().contains_key(&self.peft_name(name))
    }

    /// The tensor in place of the base model's; `None` where the adapter leaves it.
    pub(super) fn replacement(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, CheckpointError> {
        let module = name.strip_suffix(".bias");
        // The bias of a module that is updated too.
        let inner = module.map(|module| format!("{module}.base_layer.bias"));
        for name in std::iter::once(name).chain(inner.as_deref()) {
            if self.has(name) {
                return self.take(name, shape).map(Some);
            }
        }
        if let Some(field) = self.promise(name, module) {
            return Err(self.refused(format!(
                "it has no {name}, which {field} in its configuration says it replaces: the base model's own would \
                 rank; save the adapter again with save_pretrained"
            )));
        }
        Ok(None)
    }

    /// The field of the configuration that says that the file has the tensor.
    fn promise(&self, name: &str, module_of_bias: Option<&str>) -> Option<&'static str> {
        let modules = name.match_indices('.').map(|(end, _)| &name[..end]);
        let is_saved = |module: &str| self.config.replaced.iter().any(|saved| module.ends_with(saved.as_str()));
        if modules.into_iter().any(is_saved) {
            return Some("modules_to_save");
        }
        match (self.config.biases, module_of_bias) {
            (Biases::All, Some(_)) => Some("bias"),
            (Biases::Updated, Some(module)) if self.has(&format!("{module}.lora_A.weight")) => Some("bias"),
            _ => None,
        }
    }

    /// Adds the low-rank update of `module` to its weight.
    pub(super) fn merge(&self, module: &str, matrix: &mut Matrix<'_>) -> Result<(), CheckpointError> {
        let [a_name, b_name] = ["A", "B"].map(|side| format!("{module}.lora_{side}.weight"));
        let magnitude = format!("{module}.lora_magnitude_vector");
        if !self.has(&a_name) && !self.has(&b_name) {
            return Ok(());
        }
        let (rank, scale) = self.rank_and_scale(module);
        let Matrix { outputs, inputs, .. } = *matrix;
        let a = self.take(&a_name, &[rank, inputs])?;
        let b = self.take(&b_name, &[outputs, rank])?;
        let magnitudes = match self.config.has_magnitudes {
            false => None,
            true if !self.has(&magnitude) => {
                return Err(self.refused(format!(
                    "use_dora is set in its configuration, and it has no {magnitude}; merge the adapter with PEFT"
                )));
            }
            true => Some(self.take(&magnitude, &[outputs])?),
        };
        // Summed in f64, so that the merged weight is rounded only once.
        let mut sum = vec![0f64; inputs];
        for (row, weight) in matrix.weight.chunks_exact_mut(inputs).enumerate() {
            sum.fill(0.0);
            for (&b, a) in b[row * rank..(row + 1) * rank].iter().zip(a.chunks_exact(inputs)) {
                for (sum, &a) in sum.iter_mut().zip(a) {
                    *sum += f64::from(b) * f64::from(a);
                }
            }
            for (sum, weight) in sum.iter_mut().zip(weight.iter()) {
                *sum = f64::from(*weight) + scale * *sum;
            }
            let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            let factor = magnitudes.as_ref().map_or(1.0, |magnitudes| f64::from(magnitudes[row]) / length);
            for (weight, sum) in weight.iter_mut().zip(&sum) {
                *weight = (factor * sum) as f32;
            }
        }
        self.check_finite(module, matrix.weight)
    }

    /// Adds the bias of the update of `module` to its bias.
    pub(super) fn merge_bias(&self, module: &str, bias: &mut [f32]) -> Result<(), CheckpointError> {
        let name = format!("{module}.lora_B.bias");
        if !self.has(&name) {
            return match self.config.has_update_biases && self.has(&format!("{module}.lora_B.weight")) {
                true => Err(self.refused(format!("lora_bias is set in its configuration, and it has no {name}"))),
                false => Ok(()),
            };
        }
        let (_, scale) = self.rank_and_scale(module);
        let update = self.take(&name, &[bias.len()])?;
        for (bias, update) in bias.iter_mut().zip(update) {
            *bias = (f64::from(*bias) + scale * f64::from(update)) as f32;
        }
        self.check_finite(module, bias)
    }

    /// Adds the low-rank update of an embedding table, whose rows are the matrix's outputs.
    pub(super) fn merge_table(&self, module: &str, matrix: &mut Matrix<'_>) -> Result<(), CheckpointError> {
        let [a_name, b_name] = ["A", "B"].map(|side| format!("{module}.lora_embedding_{side}"));
        if !self.has(&a_name) && !self.has(&b_name) {
            return Ok(());
        }
        if self.config.has_magnitudes {
            return Err(self.refused(format!("use_dora for the table {module} is not supported; merge it with PEFT")));
        }
        let (rank, scale) = self.rank_and_scale(module);
        let Matrix { outputs: rows, inputs: width, .. } = *matrix;
        let a = self.take(&a_name, &[rank, rows])?;
        let b = self.take(&b_name, &[width, rank])?;
        for (row, weight) in matrix.weight.chunks_exact_mut(width).enumerate() {
            for (weight, b) in weight.iter_mut().zip(b.chunks_exact(rank)) {
                let update: f64 = b.iter().enumerate().map(|(k, &b)| f64::from(b) * f64::from(a[k * rows + row])).sum();
                *weight = (f64::from(*weight) + scale * update) as f32;
            }
        }
        self.check_finite(module, matrix.weight)
    }

    /// Refuses an adapter with tensors that do not fit the model, by the likeliest cause.
    pub(super) fn check_all_used(&self, layers: usize) -> Result<(), CheckpointError> {
        let used = self.used.borrow();
        match used.iter().find(|(name, (_, is_used))| !is_used && !is_repeated(&used, name)) {
            None => Ok(()),
            Some((name, _)) => Err(self.refused(format!("tensor {} {}", shown(name), self.cause(name, layers)))),
        }
    }

    /// Why a tensor fits nothing.
    fn cause(&self, name: &str, layers: usize) -> String {
        let raw = [".default.", ".modules_to_save.", ".original_module."];
        if raw.iter().any(|part| name.contains(part)) || name.ends_with(".default") {
            return "is named as in the state_dict of a PEFT model in memory: save the adapter with \
                    save_pretrained(DIR) of that model"
                .to_owned();
        }
        let Some(inner) = name.strip_prefix(PEFT_PREFIX) else {
            return format!("does not begin with {PEFT_PREFIX}: this is no adapter of PEFT");
        };
        if inner.contains(".lora_magnitude_vector") {
            return "belongs to DoRA, and use_dora is not set in the adapter's configuration".to_owned();
        }
        if inner.contains(".token_adapter.") || inner.contains("lora_ES") || inner.contains("lora_diag") {
            return "is of a kind that is not supported; merge the adapter with PEFT".to_owned();
        }
        if let Some(layer) = layer_of(inner, &self.names.layers()).filter(|&layer| layer >= layers) {
            return format!(
                "is for layer {layer}, and the model's layers are 0 to {}: the adapter was made for another one",
                layers.saturating_sub(1)
            );
        }
        if !self.is_bare && self.names.is_of_encoder(inner) {
            return format!(
                "lacks the prefix {}: the adapter was trained over the bare encoder; add it over that, or name its \
                 tensors as the classifier's",
                self.names.prefix
            );
        }
        "fits nothing in the model: the adapter was made for another one, or over layers that transformers names otherwise \
         than this file (GTE): merge it there with merge_and_unload() and add the merged model"
            .to_owned()
    }

    /// The rank of a module's update, and what the update is multiplied by.
    fn rank_and_scale(&self, module: &str) -> (usize, f64) {
        self.config.rank_and_scale(self.peft_module(module))
    }

    fn check_finite(&self, module: &str, values: &[f32]) -> Result<(), CheckpointError> {
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(self.refused(format!("merged into {module}, it gives a weight that is not finite"))),
        }
    }

    fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let name = self.peft_name(name);
        let values = self.tensors.load(&name, shape)?;
        if let Some((_, used)) = self.used.borrow_mut().get_mut(&name) {
            *used = true;
        }
        Ok(values)
    }

    fn peft_name(&self, name: &str) -> String {
        peft_name(self.peft_module(name))
    }

    /// A module's name in the model that the adapter was made for.
    fn peft_module<'n>(&self, name: &'n str) -> &'n str {
        if self.is_bare { name.strip_prefix(self.names.prefix).unwrap_or(name) } else { name }
    }

    fn refused(&self, message: String) -> CheckpointError {
        CheckpointError::Adapter { path: self.path.clone(), message }
    }
}

/// Whether the tensor is one of the two copies that PEFT saves, with `bias` all, of a replaced module's bias.
fn is_repeated<T>(tensors: &BTreeMap<String, T>, name: &str) -> bool {
    let module = name.strip_suffix(".modules_to_save.bias").or_else(|| name.strip_suffix(".original_module.bias"));
    module.is_some_and(|module| tensors.contains_key(&format!("{module}.bias")))
}

/// PEFT's name of a model's tensor.
pub(super) fn peft_name(name: &str) -> String {
    format!("{PEFT_PREFIX}{name}")
}
