//! Compiled components on disk.
//!
//! Loading compiled code runs it: whoever can write these files runs code in the host. So the directory is the host's
//! own and private to its user, nothing is ever copied into it, and a file is only used under the name that this host
//! gave it, made of the component's hash and of everything that the compiler depends on.
#![allow(unsafe_code, reason = "loading compiled code cannot be checked; see the argument above")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::model::manifest::sha256_hex;

/// A private directory of compiled components.
#[derive(Debug, Clone)]
pub(super) struct CompiledCache {
    dir: PathBuf,
}

impl CompiledCache {
    /// The cache in `dir`, which is made if it is not there and closed to other users.
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The compiled form of a component, from the cache or else freshly compiled and then kept.
    pub(super) fn get_or_compile(&self, engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Component> {
        let path = self.path(engine, wasm);
        if path.is_file() {
            // SAFETY: only this function writes into the private directory, and only what the same compiler made of
            // the component with this hash; the file was complete when it was renamed into place.
            match unsafe { Component::deserialize_file(engine, &path) } {
                Ok(component) => return Ok(component),
                // Left by another build of wasmtime after all: compiled afresh below.
                Err(_) => drop(std::fs::remove_file(&path)),
            }
        }
        let component = Component::new(engine, wasm)?;
        let compiled = component.serialize()?;
        // A cache that cannot be written costs time at the next start, and nothing else.
        let _ = self.keep(&path, &compiled);
        Ok(component)
    }

    fn path(&self, engine: &Engine, wasm: &[u8]) -> PathBuf {
        let mut compatibility = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatibility);
        self.dir.join(format!("{}-{:016x}.cwasm", sha256_hex(wasm), compatibility.finish()))
    }

    fn keep(&self, path: &Path, compiled: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(compiled)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}
