//! `adapter_config.json`: what PEFT says about an adapter's tensors.
//!
//! Every field is known to affect the weights, known not to, or refused by name unless its value turns it off. A field
//! of a later PEFT is therefore never ignored silently.

use std::fmt;
use std::path::Path;

use regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{ADAPTER_CONFIG_FILE, CheckpointError, MAX_CONFIG_BYTES, files};
use crate::families::shown;

/// Fields that only training uses, and those that say in another way what the tensors' names say.
///
/// `fan_in_fan_out` concerns layers of another class than these families have; PEFT turns it off for theirs.
const INERT_FIELDS: [&str; 20] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "use_cache",
    "torch_dtype",
    "dtype",
];

/// Fields that this module reads.
const READ_FIELDS: [&str; 14] = [
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "init_lora_weights",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
];

/// PEFT's rank and alpha where the file names none.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;

/// Largest accepted rank.
const MAX_RANK: usize = 4096;

/// Initialisations that leave the base model as it is.
const PLAIN_INITIALISATIONS: [&str; 4] = ["eva", "gaussian", "mica", "orthogonal"];

/// The fields of PEFT's `adapter_config.json` that affect the weights.
pub(super) struct AdapterConfig {
    rank: usize,
    alpha: f64,
    is_rank_stabilized: bool,
    /// `use_dora`: each updated module has a magnitude.
    pub(super) has_magnitudes: bool,
    /// `lora_bias`: each update has a bias.
    pub(super) has_update_biases: bool,
    /// The biases that the file has in place of the base model's.
    pub(super) biases: Biases,
    /// `modules_to_save`: ends of the names of modules that the file has whole.
    pub(super) replaced: Vec<String>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    targets: Targets,
}

/// The modules that PEFT gives an update, where the file lists them: it drops the tensors of others when it loads an
/// adapter. Patterns are not looked at; PEFT itself saves what they name.
#[derive(Debug)]
struct Targets {
    /// Ends of names.
    named: Option<Vec<String>>,
    excluded: Vec<String>,
    layers: Option<Vec<u64>>,
}

impl Targets {
    fn read(fields: &Map<String, Value>) -> Self {
        let texts = |field: &str| {
            let listed = fields.get(field).and_then(Value::as_array);
            listed.map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
        };
        let layers = match fields.get("layers_to_transform") {
            Some(Value::Array(layers)) => Some(layers.iter().filter_map(Value::as_u64).collect()),
            Some(layer) => layer.as_u64().map(|layer| vec![layer]),
            None => None,
        };
        Self { named: texts("target_modules"), excluded: texts("exclude_modules").unwrap_or_default(), layers }
    }

    /// The field that leaves a module out.
    fn field_without(&self, module: &str) -> Option<&'static str> {
        let is_end =
            |end: &String| module.strip_suffix(end.as_str()).is_some_and(|it| it.is_empty() || it.ends_with('.'));
        if self.excluded.iter().any(is_end) {
            return Some("exclude_modules");
        }
        // A name that is listed whole counts in every layer.
        match &self.named {
            Some(named) if named.iter().any(|name| name == module) => return None,
            Some(named) if !named.iter().any(is_end) => return Some("target_modules"),
            _ => {}
        }
        let layer = module.split('.').rev().skip(1).find_map(|part| part.parse::<u64>().ok());
        let is_in = |layers: &Vec<u64>| layer.is_some_and(|layer| layers.contains(&layer));
        (!self.layers.as_ref().is_none_or(is_in)).then_some("layers_to_transform")
    }
}

/// The field `bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// None.
    None,
    /// Those of updated modules.
    Updated,
    /// All of the model.
    All,
}

impl AdapterConfig {
    pub(super) fn read(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(ADAPTER_CONFIG_FILE);
        let bytes = files::read(&path, MAX_CONFIG_BYTES)?;
        Self::parse(&bytes).map_err(|message| CheckpointError::Adapter { path, message })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let not_read = |error| format!("is not an adapter's configuration: {error}");
        let fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(not_read)?;
        match &fields.get("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            Some(other) => return Err(format!("peft_type {} is not supported, only LORA", plain(other))),
            None => return Err("is not an adapter's configuration: it has no peft_type".to_owned()),
        }
        check_initialisation(fields.get("init_lora_weights").unwrap_or(&Value::Null))?;
        for (field, value) in &fields {
            let is_known = INERT_FIELDS.contains(&field.as_str()) || READ_FIELDS.contains(&field.as_str());
            if !is_known && !is_off(value) {
                return Err(format!(
                    "{} is {}, which is not supported; merge the adapter with PEFT (merge_and_unload)",
                    shown(field),
                    plain(value)
                ));
            }
        }
        let config: Fields = serde_json::from_slice(bytes).map_err(not_read)?;
        config.check(Targets::read(&fields))
    }

    /// The field that leaves out a module whose update the file has; `module` is the name that PEFT knows.
    pub(super) fn field_without(&self, module: &str) -> Option<&'static str> {
        self.targets.field_without(module)
    }

    /// The rank of a module's update, and what the update is multiplied by. `module` is the name that PEFT knows.
    pub(super) fn rank_and_scale(&self, module: &str) -> (usize, f64) {
        let rank = matching(&self.ranks, module).unwrap_or(self.rank);
        let alpha = matching(&self.alphas, module).unwrap_or(self.alpha);
        let divisor = rank as f64;
        (rank, alpha / if self.is_rank_stabilized { divisor.sqrt() } else { divisor })
    }
}

/// Refuses an adapter of another base model than the one that people have: some initialisations subtract the adapter's
/// start from the base model's weights, and what PEFT saves by default belongs to the rest.
fn check_initialisation(value: &Value) -> Result<(), String> {
    let name = match value {
        Value::Null | Value::Bool(_) => return Ok(()),
        Value::String(name) if PLAIN_INITIALISATIONS.contains(&name.to_lowercase().as_str()) => return Ok(()),
        Value::String(name) => name.to_lowercase(),
        other => return Err(format!("init_lora_weights is {}, which is not supported", plain(other))),
    };
    let is_convertible = ["pissa", "olora", "corda", "lora_ga"].contains(&name.as_str()) || name.starts_with("pissa_");
    if is_convertible {
        return Err(format!(
            "init_lora_weights is {}: training changed the base model too, and this file has only the adapter; save it \
             with save_pretrained(DIR, path_initial_model_for_weight_conversion=…), which makes it fit its first base",
            shown(&name)
        ));
    }
    Err(format!(
        "init_lora_weights is {}, which may change the base model; merge the adapter with PEFT, over the base that it was \
         trained with",
        shown(&name)
    ))
}

/// Whether a value turns its field off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A value for a message.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

/// The value of the first pattern that matches, as PEFT looks it up.
fn matching<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

#[derive(serde::Deserialize)]
struct Fields {
    r: Option<usize>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    lora_bias: Option<bool>,
    bias: Option<String>,
    rank_pattern: Option<Ordered<usize>>,
    alpha_pattern: Option<Ordered<f64>>,
    modules_to_save: Option<Vec<String>>,
}

impl Fields {
    fn check(self, targets: Targets) -> Result<AdapterConfig, String> {
        let (rank, alpha) = (self.r.unwrap_or(DEFAULT_RANK), self.lora_alpha.unwrap_or(DEFAULT_ALPHA));
        let (ranks, alphas) = (self.rank_pattern.unwrap_or_default().0, self.alpha_pattern.unwrap_or_default().0);
        for &rank in ranks.iter().map(|(_, rank)| rank).chain([&rank]) {
            if !(1..=MAX_RANK).contains(&rank) {
                return Err(format!("r {rank} makes no adapter, supported are 1 to {MAX_RANK}"));
            }
        }
        let biases = match self.bias.as_deref() {
            None | Some("none") => Biases::None,
            Some("lora_only") => Biases::Updated,
            Some("all") => Biases::All,
            Some(other) => return Err(format!("bias is {}, supported are none, lora_only and all", shown(other))),
        };
        Ok(AdapterConfig {
            rank,
            alpha,
            is_rank_stabilized: self.use_rslora.unwrap_or(false),
            has_magnitudes: self.use_dora.unwrap_or(false),
            has_update_biases: self.lora_bias.unwrap_or(false),
            biases,
            replaced: self.modules_to_save.unwrap_or_default(),
            ranks: compiled("rank_pattern", ranks)?,
            alphas: compiled("alpha_pattern", alphas)?,
            targets,
        })
    }
}

/// Patterns as PEFT reads them: of a module's whole name, or of its last parts.
fn compiled<T>(field: &str, patterns: Vec<(String, T)>) -> Result<Vec<(Regex, T)>, String> {
    let compile = |(pattern, value): (String, T)| match Regex::new(&format!(r"^(.*\.)?({pattern})$")) {
        Ok(regex) => Ok((regex, value)),
        Err(_) => Err(format!(
            "{field} has the pattern {}, which cannot be read here; merge the adapter with PEFT (merge_and_unload)",
            shown(&pattern)
        )),
    };
    patterns.into_iter().map(compile).collect()
}

/// A JSON object in the file's order: of several patterns that match, PEFT takes the first.
#[derive(Debug)]
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of patterns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &[(&str, Value)]) -> Result<AdapterConfig, String> {
        let mut config = serde_json::json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8 });
        for (field, value) in changes {
            config[*field] = value.clone();
        }
        AdapterConfig::parse(config.to_string().as_bytes())
    }

    #[test]
    fn of_several_patterns_that_match_the_first_in_the_file_counts() {
        let text =
            r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"layer.1.*.query": 3, "query": 2}}"#;
        let config = AdapterConfig::parse(text.as_bytes()).unwrap();
        let rank = |module: &str| config.rank_and_scale(module).0;
        assert_eq!(rank("bert.encoder.layer.1.attention.self.query"), 3);
        assert_eq!(rank("bert.encoder.layer.0.attention.self.query"), 2);
        assert_eq!(rank("bert.encoder.layer.0.attention.self.subquery"), 4);
        assert_eq!(config.rank_and_scale("bert.encoder.layer.1.attention.self.query").1, 8.0 / 3.0);
    }

    #[test]
    fn an_update_of_a_module_that_the_file_leaves_out_is_found() {
        let module = "bert.encoder.layer.1.attention.self.query";
        let left_out = |field: &str, value: Value| parse(&[(field, value)]).unwrap().field_without(module);
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for (field, kept, dropped) in [
            ("target_modules", json(r#"["key", "query"]"#), json(r#"["key", "self"]"#)),
            ("exclude_modules", json(r#"["layer.0.attention.self.query", "uery"]"#), json(r#"["self.query"]"#)),
            ("layers_to_transform", json("[0, 1]"), json("[0]")),
            ("layers_to_transform", json("1"), json("0")),
        ] {
            assert_eq!((left_out(field, kept), left_out(field, dropped)), (None, Some(field)), "{field}");
        }
        // A pattern, or null.
        assert_eq!(left_out("target_modules", json(r#"".*value""#)), None);
        assert_eq!(left_out("layers_to_transform", Value::Null), None);
    }

    #[test]
    fn null_fields_are_as_absent() {
        let fields =
            ["r", "lora_alpha", "use_rslora", "use_dora", "bias", "rank_pattern", "modules_to_save", "lora_bias"];
        let changes: Vec<_> = fields.iter().map(|field| (*field, Value::Null)).collect();
        assert_eq!(parse(&changes).unwrap().rank_and_scale("query"), (8, 1.0));
    }

    #[test]
    fn a_pattern_that_is_no_pattern_is_refused() {
        let pattern = serde_json::json!({ "(?=query)": 2 });
        let message = parse(&[("rank_pattern", pattern)]).err().unwrap();
        assert!(message.contains("rank_pattern has the pattern (?=query)"), "{message}");
    }
}
