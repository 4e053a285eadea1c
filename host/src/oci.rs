//! Components in OCI registries, as the media types for WebAssembly have it: an image manifest whose one layer is the
//! component, with a config that lists what it imports and exports.
//!
//! The only module that speaks to a registry. What is fetched is named by its digest, and held to it. Credentials are
//! those of Docker's `config.json`, helpers included, and are never told.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde_json::json;
use tokio::io::AsyncWrite;
use wasmparser::{Parser, Payload};

/// What a reference begins with.
pub(crate) const SCHEME: &str = "oci://";

/// The layer of a component.
const LAYER: &str = "application/wasm";

/// Its config.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// Longest reference.
const MAX_REFERENCE_BYTES: usize = 512;

/// Most time to connect, and between two pieces of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most time of a whole transfer.
const MAX_TRANSFER: Duration = Duration::from_secs(600);

/// Why a component was not fetched or published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// The reference is malformed, or names what may change.
    #[error("{reference:?}: {why}")]
    Reference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry does not have it, refuses it, or answers nonsense.
    #[error("{reference}: {why}")]
    Registry {
        /// What was asked for.
        reference: String,
        /// What happened.
        why: String,
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
    /// It took too long.
    #[error("{reference}: the registry took longer than {} s", MAX_TRANSFER.as_secs())]
    TimedOut {
        /// What was asked for.
        reference: String,
    },
    /// Docker's credentials cannot be read.
    #[error("Docker's credentials for {registry}: {source}")]
    Credentials {
        /// The registry.
        registry: String,
        /// What is wrong.
        source: CredentialRetrievalError,
    },
}

/// Whether an argument names a component in a registry.
#[must_use]
pub(crate) fn is_reference(argument: &str) -> bool {
    argument.starts_with(SCHEME)
}

/// Fetches a component of at most `limit_bytes` by its digest: `oci://HOST/NAME@sha256:…`.
///
/// # Errors
/// See [`OciError`].
pub(crate) async fn fetch(argument: &str, limit_bytes: u64) -> Result<Vec<u8>, OciError> {
    let reference = parse(argument)?;
    if reference.digest().is_none() {
        let why = "a tag can come to mean another component: name its digest, as NAME@sha256:…, which `assay guest push` \
                   prints";
        return Err(OciError::Reference { reference: argument.to_owned(), why: why.to_owned() });
    }
    within(argument, async {
        let client = client(&reference);
        let auth = credentials(&reference)?;
        let registry = |error| registry_error(argument, &error);
        let no = |why: String| OciError::NoComponent { reference: argument.to_owned(), why };
        let (manifest, _) = client.pull_image_manifest(&reference, &auth).await.map_err(registry)?;
        let [layer] = &manifest.layers[..] else {
            return Err(no(format!("it has {} layers, and a component is one", manifest.layers.len())));
        };
        if layer.media_type != LAYER {
            return Err(no(format!("its layer is {:.100}, and not {LAYER}", layer.media_type)));
        }
        let bytes = u64::try_from(layer.size).map_err(|_| no(format!("its size is {}", layer.size)))?;
        if bytes > limit_bytes {
            return Err(OciError::TooLarge { reference: argument.to_owned(), bytes, limit_bytes });
        }
        let mut component = Bounded { bytes: Vec::new(), most: bytes };
        client.pull_blob(&reference, layer, &mut component).await.map_err(registry)?;
        Ok(component.bytes)
    })
    .await
}

/// Publishes a component as `oci://HOST/NAME:TAG`. Gives the reference with the digest that it has there.
///
/// # Errors
/// See [`OciError`].
pub(crate) async fn push(argument: &str, component: Vec<u8>) -> Result<String, OciError> {
    let reference = parse(argument)?;
    if reference.digest().is_some() {
        let why = "what is published gets its digest from its content: name a tag, as NAME:TAG";
        return Err(OciError::Reference { reference: argument.to_owned(), why: why.to_owned() });
    }
    let (imports, exports) = interfaces(&component)
        .map_err(|why| OciError::NoComponent { reference: "the file".to_owned(), why: why.to_string() })?;
    let layer = ImageLayer::new(component, LAYER.to_owned(), None);
    let config = json!({
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer.sha256_digest()],
        "component": {"imports": imports, "exports": exports},
    });
    let config = Config::new(config.to_string(), CONFIG.to_owned(), None);
    within(argument, async {
        let client = client(&reference);
        let auth = credentials(&reference)?;
        let registry = |error| registry_error(argument, &error);
        client.auth(&reference, &auth, RegistryOperation::Push).await.map_err(registry)?;
        let mut manifest = OciImageManifest::build(std::slice::from_ref(&layer), &config, None);
        manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
        client.push(&reference, &[layer], config, &auth, Some(manifest)).await.map_err(registry)?;
        let digest = client.fetch_manifest_digest(&reference, &auth).await.map_err(registry)?;
        Ok(format!("{SCHEME}{}/{}@{digest}", reference.registry(), reference.repository()))
    })
    .await
}

/// What happened at a registry, with its causes.
fn registry_error(argument: &str, error: &OciDistributionError) -> OciError {
    let mut why = format!("{error:.300}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        why = format!("{why}: {error:.300}");
        cause = error.source();
    }
    OciError::Registry { reference: argument.to_owned(), why }
}

async fn within<T>(argument: &str, work: impl Future<Output = Result<T, OciError>>) -> Result<T, OciError> {
    let late = |_| OciError::TimedOut { reference: argument.to_owned() };
    tokio::time::timeout(MAX_TRANSFER, work).await.map_err(late)?
}

fn parse(argument: &str) -> Result<Reference, OciError> {
    let wrong = |why: String| OciError::Reference { reference: argument.chars().take(200).collect(), why };
    let rest = argument.strip_prefix(SCHEME).unwrap_or(argument);
    if rest.len() > MAX_REFERENCE_BYTES {
        return Err(wrong(format!("it has {} bytes, and a reference may have {MAX_REFERENCE_BYTES}", rest.len())));
    }
    // Without a host, a reference would mean one that nobody named.
    let host = rest.split('/').next().unwrap_or_default();
    if !rest.contains('/') || !(host.contains(['.', ':']) || host == "localhost") {
        return Err(wrong("name the registry's host: oci://HOST/NAME@sha256:…".to_owned()));
    }
    rest.parse().map_err(|error: oci_client::ParseError| wrong(error.to_string()))
}

/// A client for the reference's registry. Registries on this machine speak HTTP, all others TLS.
fn client(reference: &Reference) -> Client {
    // Another part of the program may have chosen it already.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let registry = reference.resolve_registry();
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    let protocol = if is_here { ClientProtocol::Http } else { ClientProtocol::Https };
    Client::new(ClientConfig {
        protocol,
        // A list of images for several platforms is none of ours.
        platform_resolver: None,
        connect_timeout: Some(PATIENCE),
        read_timeout: Some(PATIENCE),
        user_agent: concat!("assay/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// Docker's credentials for the registry; without any, nobody's.
fn credentials(reference: &Reference) -> Result<RegistryAuth, OciError> {
    let registry = reference.resolve_registry();
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::NoCredentialConfigured) => {
            Ok(RegistryAuth::Anonymous)
        }
        // Said of a file that is not there, too.
        Err(CredentialRetrievalError::ConfigReadError) if !has_docker_config() => Ok(RegistryAuth::Anonymous),
        Err(source) => Err(OciError::Credentials { registry: registry.to_owned(), source }),
    }
}

fn has_docker_config() -> bool {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    dir.is_some_and(|dir| dir.join("config.json").exists())
}

/// What a component imports and exports.
fn interfaces(component: &[u8]) -> wasmparser::Result<(Vec<String>, Vec<String>)> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // Sections of components within it are between their beginning and their end.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// Takes no more bytes than were promised.
struct Bounded {
    bytes: Vec<u8>,
    most: u64,
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len() as u64 + piece.len() as u64 > self.most {
            return Poll::Ready(Err(io::Error::other("the registry sends more than its manifest promises")));
        }
        self.bytes.extend_from_slice(piece);
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_a_host_and_what_they_mean() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for reference in ["localhost/a/b:1", "127.0.0.1:5000/guest:latest", "ghcr.io/acme/guest"] {
            parse(&format!("oci://{reference}")).unwrap();
        }
        let pinned = parse(&format!("oci://ghcr.io/acme/guest@{digest}")).unwrap();
        assert_eq!((pinned.registry(), pinned.digest()), ("ghcr.io", Some(&digest[..])));
        for (wrong, why) in [
            ("oci://guest:1", "host"),
            ("oci://acme/guest:1", "host"),
            ("oci://ghcr.io/", ""),
            ("oci://ghcr.io/A B", ""),
            ("oci://ghcr.io/a@sha256:12", ""),
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(wrong), "{error}");
        }
        assert!(parse(&format!("oci://ghcr.io/{}", "a".repeat(600))).unwrap_err().to_string().contains("512"));
    }

    #[tokio::test]
    async fn a_tag_is_not_fetched_and_a_digest_is_not_published() {
        let error = fetch("oci://localhost/guest:1", 1).await.unwrap_err().to_string();
        assert!(error.contains("sha256"), "{error}");
        let digest = format!("oci://localhost/guest@sha256:{}", "0".repeat(64));
        let error = push(&digest, Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("TAG"), "{error}");
        let error = push("oci://localhost/guest:1", b"no wasm".to_vec()).await.unwrap_err().to_string();
        assert!(error.contains("no WebAssembly component"), "{error}");
    }
}
