//! A LoRA adapter in PEFT's format, merged into the weights as they are read: `W' = W + (alpha / r) · B · A`
//! (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>), and modules that the adapter replaces whole
//! (`modules_to_save`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::tensors::Tensors;
use super::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CheckpointError, MAX_CONFIG_BYTES, read};

/// PEFT's prefix of every tensor name.
const PEFT_PREFIX: &str = "base_model.model.";

/// The fields of PEFT's `adapter_config.json` that affect the weights.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, serde_json::Value>,
}

pub(super) struct Adapter<'a> {
    path: PathBuf,
    tensors: Tensors<'a>,
    rank: usize,
    scale: f64,
    /// Every tensor's shape, and whether it has been used yet.
    used: RefCell<BTreeMap<String, (Vec<usize>, bool)>>,
}

impl<'a> Adapter<'a> {
    pub(super) fn new(dir: &Path, weights: &'a [u8]) -> Result<Self, CheckpointError> {
        let path = dir.join(ADAPTER_CONFIG_FILE);
        let unsupported = |message: String| CheckpointError::Adapter { path: path.clone(), message };
        let config: AdapterConfig = serde_json::from_slice(&read(&path, MAX_CONFIG_BYTES)?)
            .map_err(|error| unsupported(format!("is not an adapter's configuration: {error}")))?;
        if config.peft_type != "LORA" {
            return Err(unsupported(format!("peft_type {} is not supported, only LORA", config.peft_type)));
        }
        if !(1..=4096).contains(&config.r) || !config.lora_alpha.is_finite() {
            return Err(unsupported(format!("r {} and lora_alpha {} make no adapter", config.r, config.lora_alpha)));
        }
        let other_bias = config.bias.as_deref().is_some_and(|bias| bias != "none");
        let patterns = !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty();
        for (field, set) in [
            ("use_dora", config.use_dora),
            ("fan_in_fan_out", config.fan_in_fan_out),
            ("bias", other_bias),
            ("rank_pattern or alpha_pattern", patterns),
        ] {
            if set {
                return Err(unsupported(format!(
                    "{field} is set, which is not supported; merge the adapter with PEFT"
                )));
            }
        }
        let rank = config.r as f64;
        let scale = config.lora_alpha / if config.use_rslora { rank.sqrt() } else { rank };
        let path = dir.join(ADAPTER_WEIGHTS_FILE);
        let tensors = Tensors::new(&path, weights)?;
        let used = RefCell::new(tensors.names().map(|(name, shape)| (name, (shape, false))).collect());
        Ok(Self { path, tensors, rank: config.r, scale, used })
    }

    /// Outputs of a linear layer that the adapter replaces whole; `None` if the adapter does not replace it.
    pub(super) fn outputs(&self, module: &str) -> Option<usize> {
        let used = self.used.borrow();
        used.get(&peft_name(&format!("{module}.weight"))).and_then(|(shape, _)| shape.first().copied())
    }

    pub(super) fn replaces(&self, name: &str) -> bool {
        self.used.borrow().contains_key(&peft_name(name))
    }

    pub(super) fn replacement(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        self.take(&peft_name(name), shape)
    }

    /// Adds the low-rank update of `module` to its weight, `[outputs, inputs]`.
    pub(super) fn merge(
        &self,
        module: &str,
        weight: &mut [f32],
        outputs: usize,
        inputs: usize,
    ) -> Result<(), CheckpointError> {
        let [a_name, b_name] = ["A", "B"].map(|side| peft_name(&format!("{module}.lora_{side}.weight")));
        if !self.used.borrow().contains_key(&a_name) && !self.used.borrow().contains_key(&b_name) {
            return Ok(());
        }
        let a = self.take(&a_name, &[self.rank, inputs])?;
        let b = self.take(&b_name, &[outputs, self.rank])?;
        // Summed in f64, so that the merged weight is rounded only once.
        let mut update = vec![0f64; inputs];
        for (weight, b) in weight.chunks_exact_mut(inputs).zip(b.chunks_exact(self.rank)) {
            update.fill(0.0);
            for (&b, a) in b.iter().zip(a.chunks_exact(inputs)) {
                for (update, &a) in update.iter_mut().zip(a) {
                    *update += f64::from(b) * f64::from(a);
                }
            }
            for (weight, update) in weight.iter_mut().zip(&update) {
                *weight = (f64::from(*weight) + self.scale * update) as f32;
            }
        }
        Ok(())
    }

    /// Refuses an adapter with tensors that do not fit the model: it was made for another model.
    pub(super) fn check_all_used(&self) -> Result<(), CheckpointError> {
        match self.used.borrow().iter().find(|(_, (_, used))| !used) {
            None => Ok(()),
            Some((name, _)) => Err(CheckpointError::Adapter {
                path: self.path.clone(),
                message: format!("tensor {name} fits nothing in the model: the adapter was made for another one"),
            }),
        }
    }

    fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let values = self.tensors.load(name, shape)?;
        if let Some((_, used)) = self.used.borrow_mut().get_mut(name) {
            *used = true;
        }
        Ok(values)
    }
}

fn peft_name(name: &str) -> String {
    format!("{PEFT_PREFIX}{name}")
}
