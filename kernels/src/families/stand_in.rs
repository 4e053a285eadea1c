//! Models of random weights: what measurements compute where no model is at hand. Their scores mean nothing. One is in
//! memory, in the default model's shape; files of others are made from the names and shapes of their tensors.

use std::convert::Infallible;

use super::{Config, ConfigError, Names, QueryKeyValue, read_config};
use crate::architecture::Architecture;
use crate::weights::{LayerModule, Linear, Model, Module, NormWeights, Source, Weights};

/// MiniLM-L6, a cross-encoder.
const CONFIG: &[u8] =
    br#"{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30522,
    "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
    "max_position_embeddings": 512, "num_labels": 1}"#;

/// The default model's architecture.
///
/// # Panics
/// Never: a test reads the configuration.
#[must_use]
pub fn stand_in_architecture() -> Architecture {
    match read_config(CONFIG) {
        Ok(architecture) => architecture,
        Err(error) => unreachable!("{error}"),
    }
}

/// A model of `architecture` with random weights, the same each time.
#[must_use]
pub fn stand_in(architecture: Architecture) -> Model {
    let Ok(weights) = Weights::collect(&architecture, &mut Random(1));
    Model { architecture, weights }
}

/// Small numbers from a linear congruential generator.
struct Random(u64);

impl Random {
    fn numbers(&mut self, count: usize, most: f32) -> Vec<f32> {
        let next = |_| {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * most
        };
        (0..count).map(next).collect()
    }
}

impl Source for Random {
    type Error = Infallible;

    fn table(&mut self, _: Module, rows: usize, width: usize) -> Result<Vec<f32>, Self::Error> {
        Ok(self.numbers(rows * width, 1.0))
    }

    fn linear(&mut self, _: Module, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Self::Error> {
        // States keep their size from layer to layer, and so logits are about 1.
        let weight = self.numbers(outputs * inputs, (3.0 / inputs as f32).sqrt());
        Ok(Linear { weight: weight.into(), bias: bias.then(|| self.numbers(outputs, 0.2)), inputs })
    }

    fn norm(&mut self, _: Module, width: usize, bias: bool) -> Result<NormWeights, Self::Error> {
        Ok(NormWeights { weight: vec![1.0; width], bias: bias.then(|| self.numbers(width, 0.2)) })
    }
}

/// The tensors that files of a configuration have, by name and shape.
///
/// # Errors
/// As [`read_config`].
pub fn stand_in_tensors(config: &[u8]) -> Result<Vec<(String, Vec<usize>)>, ConfigError> {
    let config = Config::parse(config)?;
    let architecture = config.architecture(None, None)?;
    let mut list = Listed { names: &config.family.names, architecture: &architecture, tensors: Vec::new() };
    let Ok(_) = Weights::collect(&architecture, &mut list);
    Ok(list.tensors)
}

/// Lists what it is asked for, and gives nothing.
struct Listed<'a> {
    names: &'a Names,
    architecture: &'a Architecture,
    tensors: Vec<(String, Vec<usize>)>,
}

impl Listed<'_> {
    fn add(&mut self, module: Module, shape: Vec<usize>, bias: bool) {
        let name = self.names.of(module);
        if bias {
            self.tensors.push((format!("{name}.bias"), vec![shape[0]]));
        }
        self.tensors.push((format!("{name}.weight"), shape));
    }
}

impl Source for Listed<'_> {
    type Error = Infallible;

    fn table(&mut self, module: Module, rows: usize, width: usize) -> Result<Vec<f32>, Infallible> {
        self.add(module, vec![rows, width], false);
        Ok(Vec::new())
    }

    fn linear(&mut self, module: Module, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Infallible> {
        let attention = &self.architecture.block.attention;
        let outputs = match (module, self.names.query_key_value) {
            // All three are in the query's tensor.
            (Module::Layer(_, LayerModule::Query), QueryKeyValue::Fused(_)) => {
                Some(outputs + 2 * attention.key_value_width())
            }
            (Module::Layer(_, LayerModule::Key | LayerModule::Value), QueryKeyValue::Fused(_)) => None,
            _ => Some(outputs),
        };
        if let Some(outputs) = outputs {
            self.add(module, vec![outputs, inputs], bias);
        }
        Ok(Linear { weight: Vec::new().into(), bias: None, inputs })
    }

    fn norm(&mut self, module: Module, width: usize, bias: bool) -> Result<NormWeights, Infallible> {
        self.add(module, vec![width], bias);
        Ok(NormWeights { weight: Vec::new(), bias: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{PackedBatch, Row};
    use crate::reference;

    #[test]
    fn the_default_models_shape_has_logits_that_differ() {
        let mut architecture = stand_in_architecture();
        assert_eq!((architecture.hidden_size, architecture.layers.len()), (384, 6));
        // Two layers and a short table are enough here.
        architecture.layers.truncate(2);
        architecture.vocab_size = 100;
        let model = stand_in(architecture);
        let mut batch = PackedBatch::default();
        for row in 0..4u32 {
            batch.push(Row { ids: &[row, 50 + row, 99 - row], second_segment: 1 }).unwrap();
        }
        let logits = reference::forward(&model, &batch);
        let spread = logits.iter().copied().fold(f64::MIN, f64::max) - logits.iter().copied().fold(f64::MAX, f64::min);
        assert!(spread > 0.1 && logits.iter().all(|logit| logit.abs() < 10.0), "{logits:?}");
    }
}
