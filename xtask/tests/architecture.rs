//! The invariants of ARCHITECTURE.md that are about who may name what, checked in the sources themselves.
//!
//! Reads every production source file as text: enough to see which module uses which, and no compiler needed. What a
//! module uses only in its tests is left out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules of the host from the outside in, with the modules that each may use. Everything may use what its row names
/// and nothing else, so that a request's path has one direction.
const HOST_MODULES: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "dashboard",
            "device",
            "durable",
            "guest",
            "http",
            "json",
            "limits",
            "machine",
            "metrics",
            "model",
            "oci",
            "rerank",
            "sweep",
            "telemetry",
            "tenant",
        ],
    ),
    ("embed", &["device", "model", "rerank", "tenant"]),
    ("http", &["dashboard", "json", "limits", "metrics", "rerank", "telemetry", "tenant"]),
    ("dashboard", &["device", "telemetry", "tenant"]),
    ("metrics", &["device", "rerank", "telemetry", "tenant"]),
    ("tenant", &["device", "durable", "guest", "limits", "model", "rerank", "sweep", "telemetry"]),
    ("guest", &["device", "durable", "limits", "model", "quiet", "rerank", "sweep", "telemetry"]),
    ("device", &["durable", "limits", "model", "telemetry"]),
    ("model", &["durable", "quiet", "redirect", "sweep"]),
    ("sweep", &["durable"]),
    ("json", &["rerank"]),
    ("limits", &["rerank"]),
    ("machine", &[]),
    ("durable", &[]),
    ("quiet", &[]),
    ("redirect", &[]),
    ("oci", &["model", "redirect"]),
    ("rerank", &[]),
    ("telemetry", &[]),
    // Checks for fuzzing: it looks at everything from outside.
    ("oracle", &["cli", "http", "json", "limits", "model", "rerank", "tenant"]),
];

/// Crates that only one place may name; one in two rows has two places.
const OWNERS: &[(&str, &str)] = &[
    ("wasmtime", "host/src/guest/"),
    ("wasmtime_wasi", "host/src/guest/"),
    ("wasmtime_wizer", "host/src/guest/"),
    ("hyper_util", "host/src/http/"),
    ("hyper", "host/src/http/"),
    ("docker_credential", "host/src/oci/"),
    ("opentelemetry", "host/src/telemetry/traces/"),
    ("opentelemetry_http", "host/src/telemetry/traces/"),
    ("opentelemetry_otlp", "host/src/telemetry/traces/"),
    ("opentelemetry_sdk", "host/src/telemetry/traces/"),
    ("prometheus_client", "host/src/metrics/"),
    ("redb", "host/src/tenant/registry"),
    ("termion", "host/src/cli/top"),
    ("tracing_appender", "host/src/telemetry/"),
    ("tracing_subscriber", "host/src/telemetry/"),
    ("ureq", "host/src/model/hub/"),
    ("ureq", "host/src/oci/"),
    ("ureq", "host/src/telemetry/traces/"),
    ("wgpu", "kernels/src/gpu/"),
];

/// Crates that `kernels` must do without: it knows neither text, WebAssembly, tenants nor HTTP.
const NOT_IN_KERNELS: &[&str] = &["assay", "axum", "hyper", "tokenizers", "tokio", "wasmtime"];

/// What the names of all families contain.
const FAMILIES: &[&str] = &["bert", "electra"];

/// Folders whose files must not use each other in a circle.
const ACYCLIC: &[&str] = &["bench/src", "guest/sdk/src", "host/src", "kernels/src", "xtask/src"];

#[test]
fn each_module_of_the_host_uses_only_the_modules_below_it() {
    let mut wrong = Vec::new();
    for source in sources("host/src") {
        let Some(module) = source.module.first() else { continue };
        let Some((_, allowed)) = HOST_MODULES.iter().find(|(name, _)| name == module) else {
            // `main.rs`.
            assert!(source.path.ends_with("main.rs"), "{} has no row in HOST_MODULES", source.path);
            continue;
        };
        for used in source.uses.iter().filter_map(|used| used.first()) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}, {module} may use {}", source.path, allowed.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_crate_with_an_owner_is_named_nowhere_else() {
    let mut wrong = Vec::new();
    for source in sources("host/src").into_iter().chain(sources("kernels/src")) {
        for (name, owner) in OWNERS {
            let mut owners = OWNERS.iter().filter(|(owned, _)| owned == name).map(|(_, owner)| owner);
            if source.names(name) && !owners.any(|owner| source.path.starts_with(owner)) {
                wrong.push(format!("{} names {name}, which belongs to {owner}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernels_know_no_text_no_wasm_no_tenants_and_no_http() {
    let manifest = std::fs::read_to_string(root().join("kernels/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap();
    for name in NOT_IN_KERNELS {
        let named = dependencies.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(name));
        assert!(!named, "kernels depends on {name}");
    }
}

#[test]
fn an_architecture_is_named_only_by_its_family() {
    // Tokenizers and files have such names of their own.
    let allowed = [
        "kernels/src/families/",
        "guest/sdk/src/encode/",
        "host/src/model/tokenizer/",
        "host/src/model/hugging_face.rs",
    ];
    let mut wrong = Vec::new();
    for folder in ["kernels/src", "kernels/wgsl", "host/src", "bench/src", "guest/sdk/src"] {
        for path in files(folder) {
            let name = relative(&path);
            let text = production(&std::fs::read_to_string(&path).unwrap());
            let names_one = FAMILIES.iter().any(|family| text.to_lowercase().contains(family));
            if names_one && !allowed.iter().any(|allowed| name.starts_with(allowed)) {
                wrong.push(name);
            }
        }
    }
    assert!(wrong.is_empty(), "these name a family:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_of_a_folder_use_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for crate_root in ACYCLIC {
        let sources = sources(crate_root);
        let folders: BTreeSet<&[String]> =
            sources.iter().flat_map(|source| (0..source.module.len()).map(|end| &source.module[..end])).collect();
        for folder in folders {
            for circle in circles_in(&edges(&sources, folder)) {
                circles.push(format!("{crate_root}/{}: {}", folder.join("/"), circle.join(", ")));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// A production source file of one crate.
struct Source {
    /// Path from the repository's root.
    path: String,
    /// The module that it is: `host/src/guest/call.rs` is `["guest", "call"]`.
    module: Vec<String>,
    /// Without comments and tests.
    text: String,
    /// Modules of its own crate that it uses.
    uses: BTreeSet<Vec<String>>,
}

impl Source {
    /// Whether the file names a crate in a path or a `use`.
    fn names(&self, name: &str) -> bool {
        let path = format!("{name}::");
        self.text.match_indices(&path).any(|(at, _)| !ends_in_word(&self.text[..at]))
    }
}

/// Every production source file below `folder`, the root of a crate's sources.
fn sources(folder: &str) -> Vec<Source> {
    let mut sources: Vec<Source> = files(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") && !is_test(path))
        .map(|path| {
            let text = production(&std::fs::read_to_string(&path).unwrap());
            let module = module_of(path.strip_prefix(root().join(folder)).unwrap());
            Source { path: relative(&path), module, text, uses: BTreeSet::new() }
        })
        .collect();
    let modules: BTreeSet<Vec<String>> = sources.iter().map(|source| source.module.clone()).collect();
    let exports: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>> =
        sources.iter().map(|source| (source.module.clone(), exports(source, &modules))).collect();
    for source in &mut sources {
        let paths = paths(&source.text, &source.module);
        source.uses = paths.iter().filter_map(|path| defining_module(path, &modules, &exports)).collect();
        source.uses.remove(&source.module);
    }
    sources
}

/// The module in which the item of a path is, following one `pub use`.
fn defining_module(
    path: &[String],
    modules: &BTreeSet<Vec<String>>,
    exports: &BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
) -> Option<Vec<String>> {
    let module = (0..=path.len()).rev().map(|end| &path[..end]).find(|module| modules.contains(*module))?;
    let item = path.get(module.len());
    let exported = item.and_then(|item| exports.get(module)?.get(item));
    Some(exported.cloned().unwrap_or_else(|| module.to_vec()))
}

/// The items that a module gives on from its own files, and which file each is in.
fn exports(source: &Source, modules: &BTreeSet<Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let mut exports = BTreeMap::new();
    for (at, _) in source.text.match_indices("pub use ").chain(source.text.match_indices("pub(super) use ")) {
        let tree = source.text[at..].split_once("use ").unwrap().1.split(';').next().unwrap();
        for path in expand(tree) {
            let mut full = source.module.clone();
            full.extend(path);
            if let (Some(item), Some(module)) = (full.last(), full.get(..full.len() - 1))
                && modules.contains(module)
            {
                exports.insert(item.clone(), module.to_vec());
            }
        }
    }
    exports
}

/// Every path of a file that begins with `crate`, `super` or `self`, from the crate's root.
fn paths(text: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            let before = &text[..at];
            if ends_in_word(before) || before.ends_with("::") {
                continue;
            }
            for path in expand(path_text(&text[at..])) {
                let mut full = module.to_vec();
                let mut rest = path.as_slice();
                while let Some((first, after)) = rest.split_first() {
                    match first.as_str() {
                        "crate" => full.clear(),
                        "super" => drop(full.pop()),
                        "self" => {}
                        _ => break,
                    }
                    rest = after;
                }
                full.extend(rest.iter().cloned());
                found.insert(full);
            }
        }
    }
    found
}

/// The path or use-tree at the beginning of a text.
fn path_text(text: &str) -> &str {
    let mut depth = 0;
    let end = text.find(|character: char| {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => {
                depth -= 1;
                return false;
            }
            _ => {}
        }
        depth == 0 && !(character.is_alphanumeric() || "_:".contains(character))
    });
    &text[..end.unwrap_or(text.len())]
}

/// Every path of a use-tree: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let (head, group) = match tree.split_once('{') {
        Some((head, rest)) => (head, rest.rsplit_once('}').map(|(inside, _)| inside)),
        None => (tree, None),
    };
    let head: Vec<String> = head
        .split("::")
        .map(|segment| segment.split(" as ").next().unwrap_or_default().trim().to_owned())
        .filter(|segment| !segment.is_empty() && segment != "*")
        .collect();
    let Some(group) = group else { return vec![head] };
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    let tails = parts.into_iter().filter(|part| !part.trim().is_empty()).flat_map(|part| expand(part.trim()));
    tails.map(|tail| head.iter().cloned().chain(tail).collect()).collect()
}

/// Which files and folders of `folder` use which others of it.
fn edges(sources: &[Source], folder: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let child = |module: &[String]| module.starts_with(folder).then(|| module.get(folder.len()).cloned()).flatten();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let Some(from) = child(&source.module) else { continue };
        let to = source.uses.iter().filter_map(|used| child(used)).filter(|to| *to != from);
        edges.entry(from.clone()).or_default().extend(to);
    }
    edges
}

/// Sets of nodes that reach each other, each once.
fn circles_in(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            for to in edges.get(node).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|node| (node, reach(node))).collect();
    let circles: BTreeSet<Vec<String>> = reached
        .iter()
        .filter(|(node, seen)| seen.contains(**node))
        .map(|(node, seen)| {
            let together = seen.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*node)));
            together.cloned().collect()
        })
        .collect();
    circles.into_iter().collect()
}

/// A source text without comments and without its tests, which a module at its end holds.
fn production(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let text = text.split("#[cfg(test)]\n#[path").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(|character| character.is_alphanumeric() || character == '_')
}

fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    module.pop_if(|last| matches!(last.as_str(), "mod" | "lib"));
    module
}

fn files(folder: &str) -> Vec<PathBuf> {
    let (mut found, mut next) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = next.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { next.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
