//! What the service says of itself: the model, the limits, and what exists.

use serde_json::json;

use super::routes;
use crate::tenant::LiveTenant;

/// The model that a caller may name, as OpenAI lists models.
pub(super) fn models(tenant: &LiveTenant) -> Vec<u8> {
    let (model, created) = (tenant.model(), tenant.deployment().created_ms / 1_000);
    let model = json!({
        "id": model.name, "object": "model", "created": created, "owned_by": "assay",
        "revision": model.revision, "max_tokens": model.max_tokens,
    });
    json!({ "object": "list", "data": [model] }).to_string().into_bytes()
}

/// The model and the limits, as text-embeddings-inference tells them.
pub(super) fn info(tenant: &LiveTenant) -> Vec<u8> {
    let (model, limits) = (tenant.model(), &tenant.deployment().limits);
    let names = model.output_names();
    let labels: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(label, name)| (label.to_string(), json!(name))).collect();
    let ids: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(label, name)| (name.clone(), json!(label.to_string()))).collect();
    json!({
        "model_id": model.name,
        "model_sha": model.revision,
        "model_type": { "reranker": { "id2label": labels, "label2id": ids } },
        "max_concurrent_requests": limits.max_concurrent_requests,
        "max_input_length": model.max_tokens,
        "max_batch_tokens": limits.max_request_tokens,
        "max_client_batch_size": limits.max_documents,
        "auto_truncate": true,
        "version": env!("CARGO_PKG_VERSION"),
    })
    .to_string()
    .into_bytes()
}

/// What exists.
pub(super) fn index() -> Vec<u8> {
    let routes = routes::ROUTES.iter();
    let routes: Vec<_> =
        routes.map(|route| json!({ "path": route.path, "methods": route.allowed(), "about": route.about })).collect();
    json!({ "service": "assay", "version": env!("CARGO_PKG_VERSION"), "paths": routes }).to_string().into_bytes()
}
