//! A cross-encoder's head in modules of its own, as sentence-transformers saves it: `modules.json` lists a bare
//! Transformer, a Pooling, and the Dense and LayerNorm modules that make scores of the pooled state. Each has a folder
//! with its settings and weights.
//!
//! Counts only if `config_sentence_transformers.json` says that a `CrossEncoder` saved the files, as
//! sentence-transformers has it. Modules that would compute something else than a [`Head`] are refused by name.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tensors::Tensors;
use super::{CheckpointError, MAX_CONFIG_BYTES, WEIGHTS_FILE, files};
use crate::architecture::{Activation, Dense, Head, Norm, NormKind, Pooling};
use crate::families::shown;
use crate::weights::Module;

/// Lists the modules.
pub const MODULES_FILE: &str = "modules.json";
/// sentence-transformers' settings of a model.
pub const SENTENCE_TRANSFORMERS_FILE: &str = "config_sentence_transformers.json";

/// A module's settings, in its folder.
const MODULE_CONFIG_FILE: &str = "config.json";

/// Most modules of a model.
const MAX_MODULES: usize = 16;

/// What PyTorch's LayerNorm adds to the variance unless told otherwise, which the module cannot.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The head that the modules make.
#[derive(Debug)]
pub(super) struct ModulesHead {
    pub(super) pooling: Pooling,
    pub(super) head: Head,
    dir: PathBuf,
    /// Folder of the pooling's settings.
    pooling_folder: String,
    /// Folder of each part of the head with weights.
    folders: Vec<(Module, String)>,
}

/// One module of the list.
struct Listed {
    class: String,
    folder: String,
    config: Value,
}

/// The files of the head of the model in `dir`, by their paths in it; none if its head is not in modules of its own.
///
/// # Errors
/// The modules cannot be read, or compute something that is not supported.
pub fn head_files(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let Some(head) = read(dir)? else { return Ok(Vec::new()) };
    let mut files = vec![MODULES_FILE.to_owned(), SENTENCE_TRANSFORMERS_FILE.to_owned()];
    files.push(format!("{}/{MODULE_CONFIG_FILE}", head.pooling_folder));
    for (_, folder) in &head.folders {
        files.extend([MODULE_CONFIG_FILE, WEIGHTS_FILE].map(|file| format!("{folder}/{file}")));
    }
    Ok(files)
}

/// The folders of modules that a `modules.json` names, whatever they hold: for those who fetch files.
///
/// # Errors
/// It is not a list of modules in folders of its own.
pub fn module_folders(modules: &[u8]) -> Result<Vec<String>, String> {
    let modules: Value = serde_json::from_slice(modules).map_err(|error| error.to_string())?;
    let listed = list(&modules)?;
    Ok(listed.into_iter().map(|(_, folder)| folder).filter(|folder| !folder.is_empty()).collect())
}

/// The head in `dir`'s modules; `None` if they have none.
pub(super) fn read(dir: &Path) -> Result<Option<ModulesHead>, CheckpointError> {
    let refused = |message: String| CheckpointError::Modules { path: dir.join(MODULES_FILE), message };
    let saved = read_json(&dir.join(SENTENCE_TRANSFORMERS_FILE))?;
    let modules = read_json(&dir.join(MODULES_FILE))?;
    if saved["model_type"] != "CrossEncoder" || modules.is_null() {
        return Ok(None);
    }
    let listed = list(&modules).map_err(refused)?;
    let [(first, root), rest @ ..] = listed.as_slice() else { return Ok(None) };
    if first != "Transformer" || rest.is_empty() {
        return Ok(None);
    }
    if !root.is_empty() {
        return Err(refused(format!("its Transformer is in the folder {}, supported is none", shown(root))));
    }
    let rest: Vec<Listed> = rest
        .iter()
        .map(|(class, folder)| {
            let config = read_json(&dir.join(folder).join(MODULE_CONFIG_FILE))?;
            Ok(Listed { class: class.clone(), folder: folder.clone(), config })
        })
        .collect::<Result<_, CheckpointError>>()?;
    make(dir, &rest).map(Some).map_err(refused)
}

/// A module's class: without the package, if it is sentence-transformers'. Another package's class of the same name is
/// another class.
#[must_use]
pub fn module_class(module: &Value) -> &str {
    let class = module["type"].as_str().unwrap_or_default();
    match class.starts_with("sentence_transformers.") {
        true => class.rsplit('.').next().unwrap_or_default(),
        false => class,
    }
}

/// The class and folder of each module.
fn list(modules: &Value) -> Result<Vec<(String, String)>, String> {
    let modules = modules.as_array().filter(|modules| modules.len() <= MAX_MODULES);
    let modules = modules.ok_or_else(|| format!("is not a list of at most {MAX_MODULES} modules"))?;
    modules
        .iter()
        .map(|module| {
            let class = module_class(module);
            let folder = module["path"].as_str().unwrap_or_default();
            // A name from the file becomes a path in this folder, and one in the store, which has others.
            let is_numbered = folder.starts_with(|first: char| first.is_ascii_digit());
            if folder.contains(['/', '\\', ':']) || !(folder.is_empty() || is_numbered) {
                return Err(format!("{} is not the name of a module's folder, such as 1_Pooling", shown(folder)));
            }
            Ok((class.to_owned(), folder.to_owned()))
        })
        .collect()
}

fn make(dir: &Path, modules: &[Listed]) -> Result<ModulesHead, String> {
    let classes: Vec<&str> = modules.iter().map(|module| module.class.as_str()).collect();
    let (dense, norm, classifier) = match (classes.as_slice(), modules) {
        (["Pooling", "Dense"], [_, classifier]) => (None, None, classifier),
        (["Pooling", "Dense", "Dense"], [_, dense, classifier]) => (Some(dense), None, classifier),
        (["Pooling", "Dense", "LayerNorm", "Dense"], [_, dense, norm, classifier]) => {
            (Some(dense), Some(norm), classifier)
        }
        _ => {
            return Err(format!(
                "its modules are Transformer, {}; supported after a Transformer are none, or Pooling, Dense and \
                 LayerNorm or only one of these, Dense",
                shown(&classes.join(", "))
            ));
        }
    };
    let pooling = &modules[0];
    let mut folders = Vec::new();
    let mut part = |module, listed: &Listed| match listed.folder.is_empty() {
        true => Err(format!("its {} has no folder", listed.class)),
        false => {
            folders.push((module, listed.folder.clone()));
            Ok(())
        }
    };
    if let Some(dense) = dense {
        part(Module::Dense, dense)?;
    }
    if let Some(norm) = norm {
        part(Module::DenseNorm, norm)?;
    }
    part(Module::Classifier, classifier)?;
    modules.iter().try_for_each(check_fields)?;
    let norm = norm.map(|_| Norm { kind: NormKind::Layer, eps: LAYER_NORM_EPS, bias: true });
    let dense = match dense {
        None => None,
        Some(dense) => Some(Dense { bias: bias(dense), activation: activation(dense)?, norm }),
    };
    for hidden in modules.iter().filter(|module| module.class == "Dense") {
        check_chain(hidden, std::ptr::eq(hidden, classifier))?;
    }
    if let Some(activation) = activation(classifier)? {
        return Err(format!("its last Dense has the activation {}, supported is Identity", activation.name()));
    }
    let labels = classifier.config["out_features"].as_u64().and_then(|labels| usize::try_from(labels).ok());
    let labels = labels.ok_or_else(|| "its last Dense has no out_features".to_owned())?;
    Ok(ModulesHead {
        pooling: pooling_of(&pooling.config)?,
        head: Head::Classifier { dense, labels, bias: bias(classifier) },
        dir: dir.to_owned(),
        pooling_folder: pooling.folder.clone(),
        folders,
    })
}

/// Refuses fields that are not known, unless their value turns them off: a later version may compute something else.
fn check_fields(module: &Listed) -> Result<(), String> {
    let known: &[&str] = match module.class.as_str() {
        "Dense" => &[
            "in_features",
            "out_features",
            "bias",
            "activation_function",
            "use_residual",
            "module_input_name",
            "module_output_name",
        ],
        "LayerNorm" => &["dimension"],
        _ => &["embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"],
    };
    for (field, value) in module.config.as_object().into_iter().flatten() {
        let is_known = known.contains(&field.as_str()) || field.starts_with("pooling_mode_");
        if !is_known && !value.is_null() && value != false {
            return Err(format!(
                "its {} has {} {}, which is not followed",
                module.class,
                shown(field),
                shown(&value.to_string())
            ));
        }
    }
    match module.config["include_prompt"] == false {
        true => Err("its Pooling has include_prompt false, supported is true".to_owned()),
        false => Ok(()),
    }
}

/// Refuses a Dense that does not read what the module before it made, or whose result the next one does not read.
fn check_chain(dense: &Listed, is_last: bool) -> Result<(), String> {
    const POOLED: &str = "sentence_embedding";
    const SCORES: &str = "scores";
    let input = dense.config["module_input_name"].as_str().unwrap_or(POOLED);
    let output = dense.config["module_output_name"].as_str().unwrap_or(input);
    let wanted = if is_last { SCORES } else { POOLED };
    if input != POOLED || output != wanted {
        return Err(format!(
            "a Dense makes {} of {}, supported is a chain: each makes {POOLED} of {POOLED}, the last one {SCORES}",
            shown(output),
            shown(input)
        ));
    }
    let (inputs, outputs) = (&dense.config["in_features"], &dense.config["out_features"]);
    if !is_last && inputs != outputs {
        return Err(format!(
            "a Dense has {inputs} inputs and {outputs} outputs, supported are as many for all but the last"
        ));
    }
    Ok(())
}

/// The pooling, by its name or, in older files, by flags.
fn pooling_of(config: &Value) -> Result<Pooling, String> {
    let flags = [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ];
    let mode = match &config["pooling_mode"] {
        Value::Null => {
            let set: Vec<&str> = flags.iter().filter(|(flag, _)| config[flag] == true).map(|&(_, mode)| mode).collect();
            set.join(", ")
        }
        Value::String(mode) => mode.clone(),
        other => other.to_string(),
    };
    match mode.as_str() {
        "cls" => Ok(Pooling::First),
        // Nothing set means the mean.
        "mean" | "" => Ok(Pooling::Mean),
        other => Err(format!("its pooling is {}, supported are cls and mean", shown(other))),
    }
}

fn bias(dense: &Listed) -> bool {
    dense.config["bias"] != false
}

/// A Dense module's activation.
fn activation(dense: &Listed) -> Result<Option<Activation>, String> {
    let config = &dense.config;
    if config["use_residual"] == true {
        return Err("a Dense with use_residual is not supported".to_owned());
    }
    // Files that name none get sentence-transformers' default.
    match config["activation_function"].as_str().unwrap_or("torch.nn.modules.activation.Tanh") {
        "torch.nn.modules.linear.Identity" => Ok(None),
        "torch.nn.modules.activation.GELU" => Ok(Some(Activation::Gelu)),
        "torch.nn.modules.activation.Tanh" => Ok(Some(Activation::Tanh)),
        "torch.nn.modules.activation.ReLU" => Ok(Some(Activation::Relu)),
        "torch.nn.modules.activation.SiLU" => Ok(Some(Activation::Silu)),
        other => Err(format!(
            "a Dense has the activation {}, supported are torch.nn's Identity, GELU, Tanh, ReLU and SiLU",
            shown(other)
        )),
    }
}

impl ModulesHead {
    /// The tensors of each part.
    pub(super) fn tensors(&self) -> Result<Vec<(Module, Tensors)>, CheckpointError> {
        let open = |(module, folder): &(Module, String)| {
            Ok((*module, Tensors::open(&[self.dir.join(folder).join(WEIGHTS_FILE)])?))
        };
        self.folders.iter().map(open).collect()
    }
}

/// A JSON file; null if it is not there.
fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    if path.symlink_metadata().is_err() {
        return Ok(Value::Null);
    }
    let bytes = files::read(path, MAX_CONFIG_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| CheckpointError::Modules {
        path: path.to_owned(),
        message: format!("cannot be read: {error}"),
    })
}
