//! A larger model of the same kind, for timing: a stored model with its layers several times over.
//!
//! Its scores mean nothing. What it costs, and how its memory and its batches compare with the other's, is that of a real
//! model of this depth.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use assay::model::store::StoredModel;
use assay::model::{ModelStore, Source};
use candle_core::{Device, Tensor, safetensors};
use serde_json::Value;

/// Keys of `config.json` that tell how many layers there are.
const LAYER_COUNTS: [&str; 2] = ["num_hidden_layers", "n_layers"];

/// Makes the model in a store of its own below `dir`, with its layers `times` over.
///
/// # Errors
/// The model's files do not tell their layers, or cannot be read or written.
pub(crate) fn deepen(stored: &StoredModel, times: usize, dir: &Path) -> Result<StoredModel> {
    let (made, made_adapter) = (dir.join("model"), dir.join("adapter"));
    std::fs::create_dir_all(&made)?;
    std::fs::copy(stored.dir().join("tokenizer.json"), made.join("tokenizer.json"))?;
    let (config, layers) = deeper_config(&std::fs::read(stored.dir().join("config.json"))?, times)?;
    std::fs::write(made.join("config.json"), config)?;
    let weights = "model.safetensors";
    deepen_file(&stored.dir().join(weights), &made.join(weights), layers, times)?;
    let adapter = match stored.adapter_dir() {
        None => None,
        Some(adapter) => {
            let (config, weights) = ("adapter_config.json", "adapter_model.safetensors");
            std::fs::create_dir_all(&made_adapter)?;
            std::fs::copy(adapter.join(config), made_adapter.join(config))?;
            deepen_file(&adapter.join(weights), &made_adapter.join(weights), layers, times)?;
            Some((made_adapter.as_path(), Source::Embedded))
        }
    };
    let name = format!("{}-{times}-times-the-layers", stored.manifest.name);
    Ok(ModelStore::new(&dir.join("store")).add(&name, &made, Source::Embedded, adapter)?.model)
}

/// The configuration of a model with its layers `times` over, and how many it had.
fn deeper_config(config: &[u8], times: usize) -> Result<(String, usize)> {
    let mut config: Value = serde_json::from_slice(config).context("config.json")?;
    let key = LAYER_COUNTS.into_iter().find(|&key| config[key].is_u64());
    let key = key.with_context(|| format!("config.json has none of {}", LAYER_COUNTS.join(", ")))?;
    let layers = config[key].as_u64().and_then(|layers| usize::try_from(layers).ok()).unwrap_or(0);
    config[key] = (layers * times).into();
    Ok((config.to_string(), layers))
}

fn deepen_file(from: &Path, to: &Path, layers: usize, times: usize) -> Result<()> {
    let tensors = safetensors::load(from, &Device::Cpu).with_context(|| from.display().to_string())?;
    let deep: HashMap<String, Tensor> = tensors
        .iter()
        .flat_map(|(name, tensor)| names(name, layers, times).map(|name| (name, tensor.clone())))
        .collect();
    ensure!(deep.len() > tensors.len(), "{} has no tensors of layers", from.display());
    safetensors::save(&deep, to).with_context(|| to.display().to_string())
}

/// The names under which a tensor is in the deeper model: one for each copy of its layer, or its own.
fn names(name: &str, layers: usize, times: usize) -> impl Iterator<Item = String> {
    let parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    let of_layer = |pair: &[String]| {
        let layer = pair[1].parse::<usize>().ok().filter(|&layer| layer < layers)?;
        ["layer", "layers"].contains(&pair[0].as_str()).then_some(layer)
    };
    let place = parts.windows(2).enumerate().find_map(|(place, pair)| Some((place + 1, of_layer(pair)?)));
    (0..if place.is_some() { times } else { 1 }).map(move |copy| {
        let mut parts = parts.clone();
        if let Some((place, layer)) = place {
            parts[place] = (layer + copy * layers).to_string();
        }
        parts.join(".")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_copy_for_each_time_and_the_rest_stays() {
        let all = |name: &str| names(name, 6, 3).collect::<Vec<_>>();
        assert_eq!(all("bert.encoder.layer.5.output.dense.weight").len(), 3);
        assert_eq!(
            all("encoder.layer.1.attention.self.query.bias"),
            [1, 7, 13].map(|layer| format!("encoder.layer.{layer}.attention.self.query.bias"))
        );
        assert_eq!(all("transformer.layer.0.ffn.lin1.weight")[2], "transformer.layer.12.ffn.lin1.weight");
        for other in ["embeddings.word_embeddings.weight", "classifier.weight", "layer.out_proj.6.weight"] {
            assert_eq!(all(other), [other]);
        }
    }

    #[test]
    fn the_configuration_tells_all_layers() {
        let (config, layers) = deeper_config(br#"{"num_hidden_layers": 6, "hidden_size": 8}"#, 4).unwrap();
        assert_eq!((config.as_str(), layers), (r#"{"hidden_size":8,"num_hidden_layers":24}"#, 6));
        assert!(deeper_config(b"{}", 4).is_err());
    }

    #[test]
    fn tensors_of_layers_are_written_several_times() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let tensor = Tensor::new(&[1.5_f32, 2.0], &Device::Cpu).unwrap();
        let tensors =
            ["encoder.layer.0.w", "encoder.layer.1.w", "head.w"].map(|name| (name.to_owned(), tensor.clone()));
        safetensors::save(&HashMap::from(tensors), &from).unwrap();
        deepen_file(&from, &to, 2, 2).unwrap();
        let mut names: Vec<String> = safetensors::load(&to, &Device::Cpu).unwrap().into_keys().collect();
        names.sort();
        let layers = [0, 1, 2, 3].map(|layer| format!("encoder.layer.{layer}.w"));
        assert_eq!(names, [layers.as_slice(), &["head.w".to_owned()]].concat());
    }
}
