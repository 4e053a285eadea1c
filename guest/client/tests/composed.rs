//! The client composed with programs, as `wac plug` does it: what they then need is WASI alone. Leaves the composed
//! programs in `target/guests/composed`, where `cargo xtask clients` runs one against a server.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::path::{Path, PathBuf};

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, PackageId, plug};
use wit_component::DecodedWasm;

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests")
}

fn register(graph: &mut CompositionGraph, name: &str) -> PackageId {
    let path = target().join("components").join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: `cargo xtask build` makes it", path.display()));
    let package = Package::from_bytes(&format!("test:{name}"), None, bytes, graph.types_mut()).unwrap();
    graph.register_package(package).unwrap()
}

/// Keeps the composed component, and returns what it imports and exports.
fn keep(graph: &CompositionGraph, name: &str) -> (Vec<String>, Vec<String>) {
    let bytes = graph.encode(EncodeOptions::default()).unwrap();
    std::fs::create_dir_all(target().join("composed")).unwrap();
    std::fs::write(target().join("composed").join(format!("{name}.wasm")), &bytes).unwrap();
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&bytes).unwrap() else { panic!("no component") };
    let world = &resolve.worlds[world];
    let imports = world.imports.keys().map(|key| resolve.name_world_key(key)).collect();
    (imports, world.exports.keys().map(|key| resolve.name_world_key(key)).collect())
}

/// Checks that nothing is left of the contract but its plain types.
fn needs_wasi_alone((imports, exports): &(Vec<String>, Vec<String>)) {
    let others = imports.iter().filter(|name| !name.starts_with("wasi:") && !name.starts_with("assay:rerank/types@"));
    assert_eq!(others.count(), 0, "{imports:?}");
    assert!(imports.iter().any(|name| name.starts_with("wasi:http/outgoing-handler@0.2")), "{imports:?}");
    assert!(exports.iter().any(|name| name.starts_with("wasi:cli/run@0.2")), "{exports:?}");
}

#[test]
fn a_program_that_is_composed_with_the_client_needs_wasi_alone() {
    let mut graph = CompositionGraph::new();
    let (client, program) = (register(&mut graph, "client"), register(&mut graph, "rank"));
    plug(&mut graph, vec![client], program).unwrap();
    needs_wasi_alone(&keep(&graph, "rank"));
}

#[test]
fn a_program_with_labels_can_have_a_client_behind_each() {
    let mut graph = CompositionGraph::new();
    let (client, program) = (register(&mut graph, "client"), register(&mut graph, "ask"));
    let program = graph.instantiate(program);
    for label in ["news", "law"] {
        let client = graph.instantiate(client);
        let reranker = graph.alias_instance_export(client, "assay:rerank/reranker@0.2.0").unwrap();
        graph.set_instantiation_argument(program, label, reranker).unwrap();
    }
    let run = graph.alias_instance_export(program, "wasi:cli/run@0.2.0").unwrap();
    graph.export(run, "wasi:cli/run@0.2.0").unwrap();
    needs_wasi_alone(&keep(&graph, "ask"));
}
