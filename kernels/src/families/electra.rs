//! ELECTRA (Clark et al. 2020, <https://arxiv.org/abs/2003.10555>), as Hugging Face's
//! `ElectraForSequenceClassification` and `ElectraModel` implement it: BERT's layers, possibly narrower embeddings, and
//! a head with gelu.

use serde::Deserialize;
use serde_json::Value;

use super::bert::{BertConfig, ENCODER_NAMES};
use super::{ConfigError, Family, Kind, Names};
use crate::architecture::{Activation, Architecture};

pub(super) const FAMILY: Family = Family { kinds: &[Kind::new("electra", "Electra")], architecture, names: NAMES };

const NAMES: Names = Names {
    prefix: "electra.",
    projection: "embeddings_project",
    dense: "classifier.dense",
    classifier: "classifier.out_proj",
    ..ENCODER_NAMES
};

/// Fields of `config.json` other than BERT's.
#[derive(Debug, Deserialize)]
struct ElectraConfig {
    #[serde(default = "default_embedding_size")]
    embedding_size: usize,
}

fn default_embedding_size() -> usize {
    128
}

fn architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    let ElectraConfig { embedding_size } = ElectraConfig::deserialize(config)?;
    let mut architecture = BertConfig::deserialize(config)?.architecture("electra", Activation::Gelu, labels)?;
    // If it differs from the hidden size, a linear layer follows the embeddings' norm.
    architecture.embeddings.width = embedding_size;
    Ok(architecture)
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use crate::architecture::{Activation, Dense, Head};

    #[test]
    fn embeddings_have_their_own_width_and_the_head_has_gelu() {
        for (embedding_size, has_projection) in [(32, true), (48, false)] {
            let json = serde_json::json!({
                "architectures": ["ElectraForSequenceClassification"], "model_type": "electra", "vocab_size": 100,
                "embedding_size": embedding_size, "hidden_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 3, "intermediate_size": 100, "max_position_embeddings": 64,
            });
            let architecture = read_config(json.to_string().as_bytes()).unwrap();
            assert_eq!(architecture.embeddings.width, embedding_size);
            assert_eq!(architecture.has_projection(), has_projection);
            let dense = Some(Dense { bias: true, activation: Some(Activation::Gelu), norm: None });
            assert_eq!(architecture.head, Head::Classifier { dense, labels: 2, bias: true });
        }
    }
}
