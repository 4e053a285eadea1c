//! TLS with a certificate and a key from files, which are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The only protocol that is spoken.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Largest file: a hundred times a usual chain.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    loaded: RwLock<Loaded>,
}

struct Loaded {
    acceptor: TlsAcceptor,
    /// Of the two files, when they were read.
    stamps: [Stamp; 2],
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("stamps", &self.stamps).finish_non_exhaustive()
    }
}

/// By what a file is seen to have changed: its time and its length.
type Stamp = Option<(SystemTime, u64)>;

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has no PEM section of the right kind.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: tokio_rustls::rustls::pki_types::pem::Error,
    },
    /// A file is too large to be a certificate or a key.
    #[error("{} has {bytes} bytes, a certificate chain or a key may have {MAX_PEM_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The certificate's file has no certificate.
    #[error("{} has no certificate in PEM form", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key is not the certificate's, or of a kind that is not supported.
    #[error("{} and {} do not belong together: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: tokio_rustls::rustls::Error,
    },
}

impl Tls {
    /// Reads a certificate chain and its private key, both PEM files.
    ///
    /// # Errors
    /// A file cannot be read, or they do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let loaded = RwLock::new(read(&certificate, &key)?);
        Ok(Self { certificate, key, loaded })
    }

    /// Reads the files again if they have changed. New connections get the new certificate. If the files are not good,
    /// the old one stays, and the error comes once for each change.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let stamps = [stamp(&self.certificate), stamp(&self.key)];
        if self.loaded.read().unwrap_or_else(PoisonError::into_inner).stamps == stamps {
            return Ok(Reloaded::Unchanged);
        }
        let read = read(&self.certificate, &self.key);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(read) => {
                *loaded = read;
                Ok(Reloaded::Changed)
            }
            Err(error) => {
                loaded.stamps = stamps;
                Err(error)
            }
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }
}

/// What reading the files again found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// The same files.
    Unchanged,
    /// Another certificate, which new connections get.
    Changed,
}

fn read(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        |source| TlsError::File { path, source }
    };
    // Before the files are read: a change in between is seen the next time.
    let stamps = [stamp(certificate), stamp(key)];
    for (path, stamp) in [certificate, key].into_iter().zip(&stamps) {
        if let Some((_, bytes)) = *stamp
            && bytes > MAX_PEM_BYTES
        {
            return Err(TlsError::TooLarge { path: path.to_owned(), bytes });
        }
    }
    let chain = CertificateDer::pem_file_iter(certificate).map_err(file(certificate))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(file(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: certificate.to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
    let pair = |source| TlsError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(pair)?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Loaded { acceptor: TlsAcceptor::from(Arc::new(config)), stamps })
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
