//! Prints a device's loaded models, for `assay devices` and `assay tenant show`.

use bytesize::ByteSize;

use super::table;
use crate::device::{DeviceStatus, ModelStatus};

/// A server's device and the selected models on it.
pub(super) fn loaded_models(status: &DeviceStatus, shown: &dyn Fn(&ModelStatus) -> bool) -> String {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let rows: Vec<Vec<String>> = status
        .models
        .iter()
        .filter(|model| shown(model))
        .map(|model| {
            vec![
                format!("{}@{:.16}", model.name, model.revision),
                model.precision.clone(),
                size(model.weights_bytes),
                size(model.arena_bytes),
                size(model.io_bytes),
                size(model.host_bytes),
                model.holders.to_string(),
                model.tokens.to_string(),
                format!("{} ms", model.device_time_ms),
            ]
        })
        .collect();
    let header =
        ["model", "precision", "weights", "activations", "buffers", "on host", "held by", "tokens", "device time"];
    let processor = status.processor.as_ref().map_or_else(String::new, |processor| loaded_models(processor, shown));
    format!(
        "{} {}, {}\n{}all models take {}; the budget is {}\n{processor}",
        status.engine,
        status.device,
        status.reason,
        if rows.is_empty() { "no model is loaded\n".to_owned() } else { table::columns(&header, &rows) },
        size(status.memory_used_bytes),
        status.memory_budget,
    )
}
