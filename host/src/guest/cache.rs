//! Compiled components on disk.
//!
//! Loading compiled code runs it, so anyone who can write these files can run code in the host. Therefore the directory
//! is private to the host's user, nothing is copied into it, and a file is used only under the name that this host gave
//! it: the component's hash, the revision of the model that it was prepared with, and a hash of all that the compiler
//! depends on.
#![allow(unsafe_code, reason = "loading compiled code cannot be checked; see the argument above")]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::durable::{self, Durability};
use crate::sweep::{DroppedKind, GRACE, Sweep};

/// Extension of a file that says why there can be no snapshot.
const NO_SNAPSHOT: &str = "no-snapshot";

/// The extension that earlier versions of this program used, also where the next try would have succeeded.
const BEFORE_NO_SNAPSHOT: &str = "impossible";

/// Longest cause that is read.
const MAX_CAUSE_BYTES: u64 = 4 << 10;

/// A private directory of compiled components.
#[derive(Debug, Clone)]
pub(super) struct CompiledCache {
    dir: PathBuf,
}

/// A component in one of its compiled forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// Compiled as it is.
    Plain {
        /// The component's SHA-256.
        component: &'a str,
    },
    /// Compiled with its memory as `prepare` left it.
    Prepared {
        /// The component's SHA-256.
        component: &'a str,
        /// The model's revision.
        revision: &'a str,
    },
}

impl CompiledCache {
    /// The cache in `dir`. Makes the directory if necessary, and closes it to other users.
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The compiled form of a component, if the cache has it.
    pub(super) fn get(&self, engine: &Engine, form: Form<'_>) -> Option<Component> {
        let path = self.path(engine, form, "cwasm");
        if !path.is_file() {
            return None;
        }
        // SAFETY: only `compile` writes into the private directory. The file holds what the same compiler made of the
        // component with this hash, and it was complete when it was renamed to this path.
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => Some(component),
            Err(_) => {
                // Another build of wasmtime wrote it: compile again.
                drop(std::fs::remove_file(&path));
                None
            }
        }
    }

    /// Compiles a component and keeps it under the given form.
    pub(super) fn compile(&self, engine: &Engine, form: Form<'_>, wasm: &[u8]) -> wasmtime::Result<Component> {
        let component = Component::new(engine, wasm)?;
        let compiled = component.serialize()?;
        // If the file cannot be written, the next start compiles again.
        let _ = durable::replace(&self.path(engine, form, "cwasm"), &compiled, Durability::Process);
        Ok(component)
    }

    /// Records that there can be no snapshot, and why.
    pub(super) fn keep_no_snapshot(&self, engine: &Engine, form: Form<'_>, cause: &str) {
        // As above.
        let _ = durable::replace(&self.path(engine, form, NO_SNAPSHOT), cause.as_bytes(), Durability::Process);
    }

    /// Why there can be no snapshot; `None` if nothing is recorded.
    pub(super) fn no_snapshot(&self, engine: &Engine, form: Form<'_>) -> Option<String> {
        let mut cause = Vec::new();
        let file = std::fs::File::open(self.path(engine, form, NO_SNAPSHOT)).ok()?;
        file.take(MAX_CAUSE_BYTES).read_to_end(&mut cause).ok()?;
        Some(String::from_utf8_lossy(&cause).into_owned())
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
            let Some((stem, extension @ ("cwasm" | NO_SNAPSHOT | BEFORE_NO_SNAPSHOT))) = name.rsplit_once('.') else {
                continue;
            };
            let is_needed = match stem.split('-').collect::<Vec<_>>()[..] {
                _ if extension == BEFORE_NO_SNAPSHOT => false,
                // A program's, most often, which belongs to no tenant and may be run again.
                [component, by] => {
                    by == compatibility && (is_held(component, "") || !sweep.is_older_than(&path, GRACE))
                }
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
