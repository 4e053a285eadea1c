//! Compiled components on disk.
//!
//! Loading compiled code runs it: whoever can write these files runs code in the host. So the directory is the host's
//! own and private to its user, nothing is ever copied into it, and a file is only used under the name that this host
//! gave it, made of the component's hash, of the model that it was prepared with, and of everything that the compiler
//! depends on.
#![allow(unsafe_code, reason = "loading compiled code cannot be checked; see the argument above")]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::durable::{self, Durability};
use crate::sweep::{DroppedKind, Sweep};

/// A private directory of compiled components.
#[derive(Debug, Clone)]
pub(super) struct CompiledCache {
    dir: PathBuf,
}

/// Which form of which component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// As it came.
    Plain {
        /// The component's SHA-256.
        component: &'a str,
    },
    /// With its memory as `prepare` left it.
    Prepared {
        /// The component's SHA-256.
        component: &'a str,
        /// The model's revision.
        revision: &'a str,
    },
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

    /// The compiled form of a component, if it is here.
    pub(super) fn get(&self, engine: &Engine, form: Form<'_>) -> Option<Component> {
        let path = self.path(engine, form, "cwasm");
        if !path.is_file() {
            return None;
        }
        // SAFETY: only `compile` writes into the private directory, and only what the same compiler made of the
        // component with this hash; the file was complete when it was renamed into slot.
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => Some(component),
            Err(_) => {
                // Left by another build of wasmtime after all: to be compiled afresh.
                drop(std::fs::remove_file(&path));
                None
            }
        }
    }

    /// Compiles a component and keeps it as the given form.
    pub(super) fn compile(&self, engine: &Engine, form: Form<'_>, wasm: &[u8]) -> wasmtime::Result<Component> {
        let component = Component::new(engine, wasm)?;
        let compiled = component.serialize()?;
        // A cache that cannot be written costs time at the next start, and nothing else.
        let _ = durable::replace(&self.path(engine, form, "cwasm"), &compiled, Durability::Process);
        Ok(component)
    }

    /// Notes that no snapshot can be taken of a form, and why.
    pub(super) fn keep_impossible(&self, engine: &Engine, form: Form<'_>, reason: &str) {
        // As above.
        let _ = durable::replace(&self.path(engine, form, "impossible"), reason.as_bytes(), Durability::Process);
    }

    /// Whether it was found that no snapshot can be taken of a form.
    pub(super) fn is_impossible(&self, engine: &Engine, form: Form<'_>) -> bool {
        self.path(engine, form, "impossible").is_file()
    }

    /// Removes code that this engine cannot load, and code of components and revisions that are not in `held`.
    pub(super) fn sweep(&self, engine: &Engine, held: &HashSet<(String, String)>, sweep: &mut Sweep) {
        let compatibility = compatibility(engine);
        let is_held = |component: &str, prefix: &str| {
            held.iter().any(|(held, revision)| held == component && revision.starts_with(prefix))
        };
        sweep.leftovers(&self.dir);
        for path in sweep.entries(&self.dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((stem, "cwasm" | "impossible")) = name.rsplit_once('.') else { continue };
            let is_needed = match stem.split('-').collect::<Vec<_>>()[..] {
                [component, by] => by == compatibility && is_held(component, ""),
                [component, revision, by] => by == compatibility && is_held(component, revision),
                // Not a file of ours.
                _ => true,
            };
            if !is_needed {
                sweep.file(DroppedKind::CompiledCode, name, &path);
            }
        }
    }

    fn path(&self, engine: &Engine, form: Form<'_>, extension: &str) -> PathBuf {
        let compatibility = compatibility(engine);
        self.dir.join(match form {
            Form::Plain { component } => format!("{component}-{compatibility}.{extension}"),
            Form::Prepared { component, revision } => {
                format!("{component}-{revision:.16}-{compatibility}.{extension}")
            }
        })
    }
}

/// Everything that the compiler depends on, as part of a file's name.
fn compatibility(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
