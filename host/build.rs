//! Puts into the program what it hands on: the standard guest, and the files of which `assay guest new` makes a guest.
//!
//! `cargo xtask build` builds the standard guest first. Without it the program asks for `--guest`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files below the repository whose text goes into the program, for `host/src/cli/guest.rs`.
const SOURCES: [&str; 9] = [
    "guest/templates/rust",
    "guest/templates/python",
    "guest/templates/js",
    "guest/Cargo.toml",
    "guest/Cargo.lock",
    "guest/bindings/Cargo.toml",
    "guest/bindings/src",
    "guest/sdk/Cargo.toml",
    "guest/sdk/src",
];

/// The contract: the files of its newest version alone.
const CONTRACT: &str = "wit";

fn main() {
    // Where the package lies now: this program may have been compiled while it lay elsewhere.
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    embed_standard_guest(&package.join("../target/guests/components/standard.wasm"));
    let root = package.join("..");
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
        list(&root.join(source), true, &mut files);
    }
    println!("cargo::rerun-if-changed={}", root.join(CONTRACT).display());
    list(&root.join(CONTRACT), false, &mut files);
    files.sort();
    let mut table = "&[\n".to_owned();
    for file in &files {
        let name = file.strip_prefix(&root).unwrap_or(file).to_string_lossy().replace('\\', "/");
        writeln!(table, "({name:?}, include_str!({:?})),", file.to_string_lossy()).expect("a string takes all");
    }
    table.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("guest_sources.rs");
    fs::write(&out, table).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}

fn embed_standard_guest(component: &Path) {
    println!("cargo::rustc-check-cfg=cfg(standard_guest)");
    println!("cargo::rerun-if-changed={}", component.display());
    if component.is_file() {
        println!("cargo::rustc-cfg=standard_guest");
        println!("cargo::rustc-env=ASSAY_STANDARD_GUEST={}", component.display());
    }
}

/// The files at `path`: itself, or those in it and, if `deep`, in its folders.
fn list(path: &Path, deep: bool, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else {
        files.push(path.to_owned());
        return;
    };
    for entry in entries.flatten().map(|entry| entry.path()) {
        // What building a template in its place leaves is no part of it.
        let is_built =
            entry.file_name().is_some_and(|name| name == "target" || name == ".venv" || name == "node_modules");
        if entry.is_file() || (deep && !is_built) {
            list(&entry, deep, files);
        }
    }
}
