//! Components in OCI registries, as the media types for WebAssembly have it: an image manifest whose one layer is the
//! component, with a config that lists what it imports and exports.
//!
//! [`reference`] reads names, [`session`] speaks to a registry, bounded in bytes and time. What is fetched is named by its
//! digest, and held to it. Nothing that a registry says is told but codes and numbers.

mod reference;
mod session;

use serde::Deserialize;
use serde_json::json;
use wasmparser::{Parser, Payload};

pub(crate) use reference::{SCHEME, is_reference};

use self::reference::Reference;
use self::session::{Failure, Session};
use crate::model::manifest::sha256_hex;

/// The type of a manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The layer of a component.
const LAYER: &str = "application/wasm";

/// Its config.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// The tag of a reference without one.
const DEFAULT_TAG: &str = "latest";

/// Most bytes of a manifest, as registries have it.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Most characters of what a manifest says, in a message.
const MAX_SHOWN: usize = 100;

/// Why a component was not fetched or published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// The reference is malformed, or names what may change.
    #[error("{reference}: {why}")]
    Reference {
        /// What was given, cut.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry does not have it, refuses it, or answers nonsense.
    #[error("{reference}: {failure}")]
    Registry {
        /// What was asked for.
        reference: String,
        /// What happened.
        failure: Failure,
    },
    /// It is there, and no component.
    #[error("{reference} is no WebAssembly component: {why}")]
    NoComponent {
        /// What was asked for.
        reference: String,
        /// What it is.
        why: String,
    },
    /// It is larger than a component may be.
    #[error("{reference} has {bytes} bytes, and a component may have {limit_bytes}")]
    TooLarge {
        /// What was asked for.
        reference: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

/// What of a manifest counts.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: i64,
}

/// Fetches a component of at most `limit_bytes` by its digest: `oci://HOST/NAME@sha256:…`.
///
/// # Errors
/// See [`OciError`].
pub(crate) fn fetch(argument: &str, limit_bytes: u64) -> Result<Vec<u8>, OciError> {
    let reference = Reference::parse(argument)?;
    let Some(digest) = &reference.digest else {
        return Err(reference.refused(
            "a tag can come to mean another component: name its digest, as oci://HOST/NAME@sha256:…, which `assay guest \
             push` prints",
        ));
    };
    let mut session = Session::new(&reference).map_err(failed(&reference))?;
    let path = format!("manifests/{digest}");
    let manifest = session.get(&path, Some(MANIFEST), MAX_MANIFEST_BYTES).map_err(failed(&reference))?;
    check_digest(&manifest, digest).map_err(failed(&reference))?;
    let no = |why: String| OciError::NoComponent { reference: reference.to_string(), why };
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|_| no("its manifest is not that of an image".to_owned()))?;
    let [layer] = &manifest.layers[..] else {
        return Err(no(format!("it has {} layers, and a component is one", manifest.layers.len())));
    };
    if layer.media_type != LAYER {
        let shown: String = layer.media_type.escape_default().take(MAX_SHOWN).collect();
        return Err(no(format!("its layer is {shown}, and not {LAYER}")));
    }
    let bytes = u64::try_from(layer.size).map_err(|_| no(format!("its size is {}", layer.size)))?;
    if bytes > limit_bytes {
        return Err(OciError::TooLarge { reference: reference.to_string(), bytes, limit_bytes });
    }
    if !reference::is_digest(&layer.digest) {
        return Err(no("its layer has no digest of sha256".to_owned()));
    }
    let component = session.get(&format!("blobs/{}", layer.digest), None, bytes).map_err(failed(&reference))?;
    check_digest(&component, &layer.digest).map_err(failed(&reference))?;
    Ok(component)
}

/// Publishes a component, which messages call by `name`, as `oci://HOST/NAME:TAG`. Gives the reference with the digest that it has there.
///
/// # Errors
/// See [`OciError`].
pub(crate) fn push(argument: &str, name: &str, component: &[u8]) -> Result<String, OciError> {
    let reference = Reference::parse(argument)?;
    if reference.digest.is_some() {
        return Err(reference.refused("what is published gets its digest from its content: name oci://HOST/NAME:TAG"));
    }
    let (imports, exports) = interfaces(component)
        .map_err(|why| OciError::NoComponent { reference: name.to_owned(), why: why.to_owned() })?;
    let layer = json!({"mediaType": LAYER, "digest": digest(component), "size": component.len()});
    let config = json!({
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer["digest"]],
        "component": {"imports": imports, "exports": exports},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(config.as_bytes()), "size": config.len()},
        "layers": [layer],
    })
    .to_string();
    let mut session = Session::new(&reference).map_err(failed(&reference))?;
    for blob in [component, config.as_bytes()] {
        session.put_blob(&digest(blob), blob).map_err(failed(&reference))?;
    }
    let tag = reference.tag.as_deref().unwrap_or(DEFAULT_TAG);
    session.put_manifest(tag, MANIFEST, manifest.as_bytes()).map_err(failed(&reference))?;
    let Reference { host, name, .. } = &reference;
    Ok(format!("{SCHEME}{host}/{name}@{}", digest(manifest.as_bytes())))
}

/// Makes errors of what fails at a reference's registry.
fn failed(reference: &Reference) -> impl Fn(Failure) -> OciError + '_ {
    |failure| OciError::Registry { reference: reference.to_string(), failure }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn check_digest(bytes: &[u8], expected: &str) -> Result<(), Failure> {
    if digest(bytes) == expected { Ok(()) } else { Err(Failure::OtherDigest) }
}

/// What a component imports and exports.
///
/// # Errors
/// It is none; the error says what it is.
fn interfaces(component: &[u8]) -> Result<(Vec<String>, Vec<String>), &'static str> {
    if Parser::is_core_wasm(component) {
        return Err("it is a core module: build it for the target wasm32-wasip2");
    }
    if !Parser::is_component(component) {
        return Err("it has not its first bytes");
    }
    let damaged = |_| "it is damaged";
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // Sections of components within it are between their beginning and their end.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(damaged)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(damaged)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(damaged)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_not_fetched_and_a_digest_is_not_published() {
        let error = fetch("oci://localhost/guest:1", 1).unwrap_err().to_string();
        assert!(error.contains("sha256"), "{error}");
        let pinned = format!("oci://localhost/guest@sha256:{}", "0".repeat(64));
        let error = push(&pinned, "guest.wasm", &[]).unwrap_err().to_string();
        assert!(error.contains("TAG"), "{error}");
    }

    #[test]
    fn only_a_component_is_published() {
        for (bytes, why) in [
            (&b"no wasm"[..], "first bytes"),
            (b"\0asm\x01\0\0\0", "core module"),
            (b"\0asm\x0d\0\x01\0\xff\xff", "damaged"),
        ] {
            let error = push("oci://localhost/guest:1", "guest.wasm", bytes).unwrap_err().to_string();
            assert!(error.contains("guest.wasm is no WebAssembly component") && error.contains(why), "{error}");
        }
    }
}
