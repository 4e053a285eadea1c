//! RoBERTa (Liu et al. 2019, <https://arxiv.org/abs/1907.11692>), XLM-RoBERTa and CamemBERT, as Hugging Face's classes
//! of those names implement them: BERT's layers, with positions that begin after the padding's row.

use serde::Deserialize;
use serde_json::Value;

use super::bert::{BertConfig, ENCODER_NAMES};
use super::config::unsupported;
use super::{Code, ConfigError, Family, Intermediate, Kind, Names, OwnCode, QueryKeyValue};
use crate::architecture::{Activation, Architecture, Positions};

pub(super) const FAMILY: Family = Family {
    kinds: &[
        Kind::new("roberta", "Roberta"),
        Kind::new("xlm-roberta", "XLMRoberta"),
        Kind::new("camembert", "Camembert"),
    ],
    architecture,
    names: NAMES,
};

/// jina-reranker-v2: XLM-RoBERTa, which the code that its files name computes with other tensor names.
pub(super) const JINA: Family = Family {
    kinds: &[Kind { model_type: "xlm-roberta", class: "XLMRoberta", code: Code::Known(&JINA_CODE) }],
    architecture,
    names: JINA_NAMES,
};

const JINA_CODE: OwnCode = OwnCode {
    repositories: &["jinaai/jina-reranker-v2-base-multilingual", "jinaai/xlm-roberta-flash-implementation"],
    classes: &["configuration_xlm_roberta.XLMRobertaFlashConfig", "modeling_xlm_roberta.XLMRoberta"],
};

const JINA_NAMES: Names = Names {
    embedding_norm: "emb_ln",
    layer: "encoder.layers.",
    query_key_value: QueryKeyValue::Fused("mixer.Wqkv"),
    attention_output: "mixer.out_proj",
    attention_norm: "norm1",
    intermediate: Intermediate::One("mlp.fc1"),
    output: "mlp.fc2",
    output_norm: "norm2",
    ..NAMES
};

/// The encoder's own pooler is not used: the classifier has a dense layer.
const NAMES: Names =
    Names { prefix: "roberta.", dense: "classifier.dense", classifier: "classifier.out_proj", ..ENCODER_NAMES };

/// Fields of `config.json` other than BERT's.
#[derive(Debug, Deserialize)]
struct RobertaConfig {
    #[serde(default = "default_pad_token_id")]
    pad_token_id: Option<u32>,
}

fn default_pad_token_id() -> Option<u32> {
    Some(1)
}

fn architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    let bert = BertConfig::deserialize(config)?;
    let RobertaConfig { pad_token_id } = RobertaConfig::deserialize(config)?;
    let Some(padding_id) = pad_token_id else { return Err(unsupported("pad_token_id", "null", "a token id")) };
    let (rows, first) = (bert.max_position_embeddings, padding_id as usize + 1);
    if rows <= first {
        return Err(unsupported("max_position_embeddings", rows, "more than pad_token_id + 1"));
    }
    let mut architecture = bert.architecture("roberta", Activation::Tanh, labels)?;
    architecture.max_tokens = rows - first;
    architecture.embeddings.positions = Positions::Learned { rows, first, padding_id: Some(padding_id) };
    Ok(architecture)
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use super::*;
    use crate::architecture::TokenTypes;

    fn config(model_type: &str, class: &str, changes: &Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": [class], "model_type": model_type, "vocab_size": 100, "hidden_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100,
            "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "num_labels": 1,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        read_config(json.to_string().as_bytes())
    }

    #[test]
    fn positions_begin_after_the_paddings_row_and_shorten_the_longest_row() {
        for (model_type, class) in [
            ("roberta", "RobertaForSequenceClassification"),
            ("xlm-roberta", "XLMRobertaForSequenceClassification"),
            ("camembert", "CamembertForSequenceClassification"),
        ] {
            let architecture = config(model_type, class, &serde_json::json!({})).unwrap();
            let positions = Positions::Learned { rows: 514, first: 2, padding_id: Some(1) };
            assert_eq!((architecture.max_tokens, architecture.embeddings.positions), (512, positions));
            assert_eq!(architecture.embeddings.token_types, TokenTypes::One);
        }
    }

    #[test]
    fn padding_within_a_row_has_its_own_position_and_is_not_counted() {
        let positions = Positions::Learned { rows: 514, first: 2, padding_id: Some(1) };
        let rows: Vec<usize> = positions.indices(&[0, 7, 1, 1, 9, 2]).collect();
        assert_eq!(rows, [2, 3, 1, 1, 4, 5]);
    }

    #[test]
    fn a_class_of_another_type_is_refused() {
        let error = config("roberta", "XLMRobertaForSequenceClassification", &serde_json::json!({})).unwrap_err();
        assert!(matches!(error, ConfigError::Architecture { .. }), "{error}");
    }

    #[test]
    fn positions_without_room_for_a_row_are_refused() {
        let class = "RobertaForSequenceClassification";
        for changes in [
            serde_json::json!({ "max_position_embeddings": 2 }),
            serde_json::json!({ "pad_token_id": null }),
            serde_json::json!({ "pad_token_id": u32::MAX }),
        ] {
            assert!(config("roberta", class, &changes).is_err(), "{changes}");
        }
    }
}
