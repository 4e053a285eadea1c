//! The names of a family's tensors.

use crate::weights::{LayerModule, Module};

/// Names of modules. Those of a layer follow [`layer`](Self::layer) and the layer's number. An empty name means that
/// the family has no such module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Prefix of the encoder's modules. A bare encoder is stored without it.
    pub(crate) prefix: &'static str,
    pub(crate) word: &'static str,
    pub(crate) position: &'static str,
    pub(crate) token_type: &'static str,
    pub(crate) embedding_norm: &'static str,
    pub(crate) projection: &'static str,
    /// The table of relative positions.
    pub(crate) relative: &'static str,
    pub(crate) relative_norm: &'static str,
    /// Prefix of a layer's number.
    pub(crate) layer: &'static str,
    pub(crate) query_key_value: QueryKeyValue,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) intermediate: Intermediate,
    pub(crate) output: &'static str,
    pub(crate) output_norm: &'static str,
    pub(crate) final_norm: &'static str,
    /// The head's modules, by their full names.
    pub(crate) dense: &'static str,
    pub(crate) dense_norm: &'static str,
    pub(crate) classifier: &'static str,
}

/// How the projections of queries, keys and values are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum QueryKeyValue {
    /// Each by itself.
    Separate([&'static str; 3]),
    /// Stacked in one module.
    Fused(&'static str),
}

/// How the first linear layer of the feed-forward part is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Intermediate {
    /// One module. With a gate: what is activated, then the gate.
    One(&'static str),
    /// One module: the gate, then what is activated.
    GateFirst(&'static str),
}

impl Names {
    /// What the names of all layers' modules begin with; the layer's number follows.
    pub(crate) fn layers(&self) -> String {
        format!("{}{}", self.prefix, self.layer)
    }

    /// The name of a module, without `.weight` or `.bias`.
    pub(crate) fn of(&self, module: Module) -> String {
        let encoder = |name: &str| format!("{}{name}", self.prefix);
        match module {
            Module::Word => encoder(self.word),
            Module::Position => encoder(self.position),
            Module::TokenType => encoder(self.token_type),
            Module::EmbeddingNorm => encoder(self.embedding_norm),
            Module::Projection => encoder(self.projection),
            Module::Relative => encoder(self.relative),
            Module::RelativeNorm => encoder(self.relative_norm),
            Module::Layer(index, module) => encoder(&format!("{}{index}.{}", self.layer, self.of_layer(module))),
            Module::FinalNorm => encoder(self.final_norm),
            Module::Dense => self.dense.to_owned(),
            Module::DenseNorm => self.dense_norm.to_owned(),
            Module::Classifier => self.classifier.to_owned(),
        }
    }

    /// Whether a tensor's name is one of the encoder's without the family's prefix.
    pub(crate) fn is_of_encoder(&self, name: &str) -> bool {
        let is_module =
            |module: &str| !module.is_empty() && name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        let tables = [
            self.word,
            self.position,
            self.token_type,
            self.embedding_norm,
            self.projection,
            self.relative,
            self.relative_norm,
            self.final_norm,
        ];
        !self.prefix.is_empty() && (name.starts_with(self.layer) || tables.into_iter().any(is_module))
    }

    fn of_layer(&self, module: LayerModule) -> &'static str {
        match (module, self.query_key_value) {
            (LayerModule::Query, QueryKeyValue::Separate([query, ..])) => query,
            (LayerModule::Key, QueryKeyValue::Separate([_, key, _])) => key,
            (LayerModule::Value, QueryKeyValue::Separate([.., value])) => value,
            (LayerModule::Query | LayerModule::Key | LayerModule::Value, QueryKeyValue::Fused(name)) => name,
            (LayerModule::AttentionOutput, _) => self.attention_output,
            (LayerModule::AttentionNorm, _) => self.attention_norm,
            (LayerModule::Intermediate, _) => match self.intermediate {
                Intermediate::One(name) | Intermediate::GateFirst(name) => name,
            },
            (LayerModule::Output, _) => self.output,
            (LayerModule::OutputNorm, _) => self.output_norm,
        }
    }
}
