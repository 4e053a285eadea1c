//! Builds the guests: wasm modules by cargo, components out of them by `wit-component`.
//!
//! A guest is any crate of the workspace in `guest/` that is a `cdylib`, the callers in `guest/callers` too. The folder's
//! name is the component's: `guest/standard` becomes `target/guests/components/standard.wasm`. Cargo and this module
//! leave alone what is up to date.
//!
//! Every component's imports are checked: a guest that imports anything beyond this project's own contract fails the
//! build, because it would carry code that no reranker needs. Conformance guests may import WASI, to show what they get
//! of it, and so may callers, which are programs, and the client, which is part of one. This module never runs a guest.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::WorldItem;

use crate::packages::packages;
use crate::step::cargo;
use crate::wasm_std::{TARGET, WasmStd};

/// The guests' own target folder, as seen from `guest/`.
pub(crate) const GUEST_TARGET: [&str; 2] = ["--target-dir", "../target/guests"];

/// What a guest may import: interfaces of our own package, at any version.
const ALLOWED_IMPORTS: &[&str] = &["assay:rerank/"];

/// What a conformance guest, a caller and the client may import.
const ALLOWED_IMPORTS_WITH_WASI: &[&str] = &["assay:rerank/", "wasi:"];

/// Folders of guests, and guests, that may import WASI.
const FOLDERS_WITH_WASI: [&str; 3] = ["callers", "client", "conformance"];

/// The guest workspace's profile for what is deployed, and the folder that cargo puts it in.
const PROFILE: &str = "component";

/// The guest that is part of the program.
const STANDARD: &str = "standard";

/// Which guests to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Every one.
    All,
    /// The standard guest alone, which takes a fraction of the time.
    Standard,
}

/// One guest of the workspace.
struct Guest {
    /// Its package.
    package: String,
    /// The component's name: that of its folder.
    name: String,
    /// The module that cargo leaves.
    module: PathBuf,
    /// Prefixes of what it may import.
    allowed_imports: &'static [&'static str],
}

/// Builds guests under `root`/guest and returns the components' paths, sorted by name.
///
/// `root` is the folder of the root workspace. Writes only to `root`/target; [`components_dir`] has the result.
///
/// # Errors
/// There is no wasm standard library ([`WasmStd::find`] says what to do then), a guest does not compile, or a guest
/// imports something that the contract lacks.
pub(crate) fn build_guests(root: &Path, which: Which) -> Result<Vec<PathBuf>> {
    let guests = find_guests(root)?;
    let wasm_std = WasmStd::find(root)?;
    let is_wanted = |guest: &&Guest| which == Which::All || guest.name == STANDARD;
    let wanted: Vec<&Guest> = guests.iter().filter(is_wanted).collect();
    compile(root, &wasm_std, which, &wanted)?;
    let components_dir = components_dir(root);
    let stamps_dir = target_dir(root).join("stamps");
    for folder in [&components_dir, &stamps_dir] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    remove_leftovers(&components_dir, &guests)?;
    wanted
        .into_iter()
        .map(|guest| {
            let component = components_dir.join(format!("{}.wasm", guest.name));
            make_component(guest, &component, &stamps_dir.join(&guest.name))
                .with_context(|| format!("guest {}", guest.name))
                .map(|()| component)
        })
        .collect()
}

/// Where [`build_guests`] leaves the components.
#[must_use]
pub(crate) fn components_dir(root: &Path) -> PathBuf {
    target_dir(root).join("components")
}

/// The guest workspace has a target folder of its own, so that it never waits for, or is rebuilt by, the host's builds.
fn target_dir(root: &Path) -> PathBuf {
    root.join("target").join("guests")
}

fn find_guests(root: &Path) -> Result<Vec<Guest>> {
    let guest_dir = root.join("guest");
    let modules = target_dir(root).join(TARGET).join(PROFILE);
    let mut guests = Vec::new();
    for package in packages(&guest_dir)? {
        let Some(module) = package.module else { continue };
        let with_wasi = FOLDERS_WITH_WASI.iter().any(|folder| package.dir.starts_with(guest_dir.join(folder)));
        guests.push(Guest {
            package: package.name,
            name: package.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            module: modules.join(format!("{module}.wasm")),
            allowed_imports: if with_wasi { ALLOWED_IMPORTS_WITH_WASI } else { ALLOWED_IMPORTS },
        });
    }
    guests.sort_by(|left, right| left.name.cmp(&right.name));
    ensure!(!guests.is_empty(), "no guests in {}", guest_dir.display());
    for pair in guests.windows(2) {
        ensure!(pair[0].name != pair[1].name, "two guests are named {}", pair[0].name);
    }
    Ok(guests)
}

fn compile(root: &Path, wasm_std: &WasmStd, which: Which, guests: &[&Guest]) -> Result<()> {
    println!("guests: cargo build for {TARGET}, {wasm_std}");
    let mut cargo = cargo(&root.join("guest"));
    cargo
        .args(["build", "--locked", "--profile", PROFILE, "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir(root));
    if which == Which::All {
        cargo.arg("--workspace");
    } else {
        cargo.args(guests.iter().flat_map(|guest| ["--package", &guest.package]));
    }
    // What the caller sets for the host's build would replace, not extend, the flags in guest/.cargo/config.toml.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    wasm_std.apply(&mut cargo);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the guests do not compile: cargo ended with {status}");
    Ok(())
}

fn make_component(guest: &Guest, component: &Path, stamp: &Path) -> Result<()> {
    let made_of = made_of(&guest.module)?;
    if component.is_file() && fs::read_to_string(stamp).is_ok_and(|stamp| stamp == made_of) {
        println!("guests: {} is up to date", guest.name);
        return Ok(());
    }
    let module = fs::read(&guest.module).with_context(|| format!("cannot read {}", guest.module.display()))?;
    let bytes = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .with_context(|| format!("{} does not become a component", guest.module.display()))?;
    check_imports(&bytes, guest.allowed_imports)?;
    // Renamed into place, so that no reader sees half a component.
    let unfinished = component.with_extension("wasm.part");
    fs::write(&unfinished, &bytes)
        .and_then(|()| fs::rename(&unfinished, component))
        .and_then(|()| fs::write(stamp, made_of))
        .with_context(|| format!("cannot write {}", component.display()))?;
    println!("guests: {}, {} kB, written to {}", guest.name, bytes.len().div_ceil(1000), component.display());
    Ok(())
}

/// What a component is made of: the module, and this program, whose encoder makes it. Compared as a whole and not by
/// which file is newer, because cargo may restore a module that it built long ago.
fn made_of(module: &Path) -> Result<String> {
    let state = |path: &Path| -> Result<String> {
        let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
        Ok(format!("{} bytes of {:?}", metadata.len(), metadata.modified()?))
    };
    Ok(format!("{}\n{}\n", state(module)?, state(&std::env::current_exe()?)?))
}

fn check_imports(component: &[u8], allowed: &[&str]) -> Result<()> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("it is a WIT package, not a component");
    };
    let foreign: Vec<String> = resolve.worlds[world]
        .imports
        .iter()
        .map(|(name, import)| match import {
            // An import under a label is what it implements.
            WorldItem::Interface { id, .. } => resolve.id_of(*id).unwrap_or_else(|| resolve.name_world_key(name)),
            _ => resolve.name_world_key(name),
        })
        .filter(|name| !allowed.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    ensure!(
        foreign.is_empty(),
        "it imports {}, but a guest may import {}* only; look for a dependency that reaches outside (random numbers, time, files), `cargo tree -i` in guest/ helps",
        foreign.join(", "),
        allowed.join("*, ")
    );
    Ok(())
}

/// Removes components of guests that are no more, so that no test finds them.
fn remove_leftovers(components_dir: &Path, guests: &[Guest]) -> Result<()> {
    let wanted: HashSet<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
    for entry in fs::read_dir(components_dir)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if !wanted.contains(name.as_ref()) {
            println!("guests: removing {}, whose guest is gone", path.display());
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
