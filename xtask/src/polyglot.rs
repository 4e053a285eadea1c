//! `cargo xtask polyglot`: guests and callers in every language, as `assay guest new` makes them.
//!
//! In a folder outside of the repository it makes, builds and deploys one of each, and asks them the passages of
//! testdata/golden: every caller gets the scores of PyTorch from every guest, and those of the standard guest bit by bit.
//! Then it tells what each language costs, and takes a guest through Debian's OCI registry. Downloads go to the tools' own caches, and to the folder, which is removed.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clients::{Server, fresh_data_dir, output, post};
use crate::debian::Program;
use crate::step::{cargo, run, say};
use crate::{assay, target_dir};

/// The tenant with the standard guest. Guests in other languages than Rust are linked to it.
const BASE: &str = "base";

/// A caller's score and PyTorch's differ by no more.
const TOLERANCE: f64 = 1e-4;

/// Most time for a registry to listen.
const START_TIME: Duration = Duration::from_secs(30);

/// Documents of a timed request.
const DOCUMENTS: usize = 32;

/// Timed requests for each tenant, in turns.
const ROUNDS: usize = 40;

/// How a language is built, and where that leaves the component.
struct Language {
    name: &'static str,
    /// Of the program that builds, in the new folder.
    build: fn(&Path) -> Result<()>,
    /// A guest's and a caller's component.
    components: [&'static str; 2],
    is_linked: bool,
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "rust",
        build: |folder| {
            // rustup may be set to install no target by itself, and then its README has this.
            let mut rustup = Command::new("rustup");
            run(rustup.args(["target", "add", "wasm32-wasip2"]).env_remove("RUSTUP_TOOLCHAIN").current_dir(folder))?;
            run(cargo(folder).args(["build", "--release"]).env_remove("CARGO_TARGET_DIR"))
        },
        components: ["target/wasm32-wasip2/release/guest.wasm", "target/wasm32-wasip2/release/caller.wasm"],
        is_linked: false,
    },
    Language {
        name: "python",
        build: |folder| run(Command::new("python3").arg("build.py").current_dir(folder)),
        components: ["guest.wasm", "caller.wasm"],
        is_linked: true,
    },
    Language {
        name: "js",
        build: |folder| {
            run(Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(folder))?;
            run(Command::new("npm").args(["run", "--silent", "build"]).current_dir(folder))
        },
        components: ["guest.wasm", "caller.wasm"],
        is_linked: true,
    },
];

/// A query, its documents, and PyTorch's logits for them.
struct Case {
    query: String,
    documents: Vec<(String, f64)>,
}

/// Does all of it.
///
/// # Errors
/// Something cannot be built or deployed, or scores differ.
pub(crate) fn run_all(root: &Path) -> Result<()> {
    let data_dir = fresh_data_dir(&root.join("target/polyglot"))?;
    let apart = std::env::temp_dir().join(format!("assay-polyglot-{}", std::process::id()));
    std::fs::create_dir_all(&apart)?;
    let done = run_in(root, &data_dir, &apart);
    std::fs::remove_dir_all(&apart).with_context(|| apart.display().to_string())?;
    done
}

fn run_in(root: &Path, data_dir: &Path, apart: &Path) -> Result<()> {
    let limits = data_dir.join("base.toml");
    let callers: Vec<&str> = LANGUAGES.iter().map(|language| language.name).collect();
    std::fs::write(&limits, format!("callers = {callers:?}\n"))?;
    run(assay(root, data_dir).args(["tenant", "deploy", BASE, "--limits"]).arg(&limits))?;
    let mut built = Vec::new();
    for language in &LANGUAGES {
        say(&format!("{}: a guest and a caller", language.name));
        let [guest, caller] = make(root, apart, language)?;
        let mut deploy = assay(root, data_dir);
        deploy.args(["tenant", "deploy", language.name]).arg(&guest);
        run(if language.is_linked { deploy.args(["--link", BASE]) } else { &mut deploy })?;
        built.push((language.name, guest, caller));
    }
    let key = output(assay(root, data_dir).args(["tenant", "key", "create", BASE]))?.trim().to_owned();
    let server = Server::start_with(root, data_dir, key)?;
    let cases = cases(root)?;
    say("every caller asks every guest");
    for (name, _, caller) in &built {
        for tenant in [BASE, "rust", "python", "js"] {
            let mut pairs = 0;
            for case in &cases {
                pairs += compare(root, data_dir, &built[0].2, caller, tenant, case)
                    .with_context(|| format!("the {name} caller and the tenant {tenant}: {}", case.query))?;
            }
            println!("{name} caller, tenant {tenant}: {pairs} pairs as PyTorch has them, bits as the standard guest's");
        }
    }
    say(&format!("what a language costs: {DOCUMENTS} documents, medians of {ROUNDS} requests over HTTP in turns"));
    println!("{}", costs(root, data_dir, &server, &built, &cases)?);
    say("a guest goes through an OCI registry");
    through_registry(root, data_dir, &built[0].1)
}

/// Publishes a component in a registry on this machine, and deploys it from there by its digest.
fn through_registry(root: &Path, data_dir: &Path, guest: &Path) -> Result<()> {
    let folder = root.join("target/polyglot");
    let program = Program::find(&folder, "docker-registry", "usr/bin/docker-registry")?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (config, content) = (data_dir.join("registry.yml"), data_dir.join("registry"));
    let settings = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        content.display()
    );
    std::fs::write(&config, settings)?;
    let mut registry =
        program.command().arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let done = (|| {
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(began.elapsed() < START_TIME, "the registry did not start within {START_TIME:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let name = format!("oci://{address}/polyglot/rust:1");
        let pinned = output(assay(root, data_dir).args(["guest", "push"]).arg(guest).arg(name))?;
        run(assay(root, data_dir).args(["tenant", "deploy", "pushed", pinned.trim()]))
    })();
    registry.kill()?;
    registry.wait()?;
    done
}

/// A new guest and a new caller of a language, built.
fn make(root: &Path, apart: &Path, language: &Language) -> Result<[PathBuf; 2]> {
    let program = target_dir(root).join("release/assay");
    let mut made = [const { PathBuf::new() }; 2];
    for (at, kind) in ["guest", "caller"].into_iter().enumerate() {
        let name = format!("{}-{kind}", language.name);
        let mut new = Command::new(&program);
        new.args(["guest", "new", &name, "--lang", language.name]).current_dir(apart);
        run(if kind == "caller" { new.arg("--caller") } else { &mut new })?;
        (language.build)(&apart.join(&name))?;
        made[at] = apart.join(&name).join(language.components[at]);
    }
    Ok(made)
}

/// The golden passages by their queries: those that are cut as the templates cut.
fn cases(root: &Path) -> Result<Vec<Case>> {
    let golden: Value = serde_json::from_slice(&std::fs::read(root.join("testdata/golden/passages.json"))?)?;
    let mut cases: Vec<Case> = Vec::new();
    for case in golden["cases"].as_array().context("cases")? {
        let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let (query, document, logit) = (text("query"), text("document"), case["logits"][0].as_f64().context("logits")?);
        // An argument cannot hold a zero.
        if case["truncation"] != "longest_first" || query.contains('\0') || document.contains('\0') {
            continue;
        }
        match cases.iter_mut().find(|case| case.query == query) {
            Some(case) => case.documents.push((document, logit)),
            None => cases.push(Case { query, documents: vec![(document, logit)] }),
        }
    }
    ensure!(!cases.is_empty(), "testdata/golden/passages.json has no cases");
    Ok(cases)
}

/// Holds what a caller gets from a tenant to PyTorch's scores, and to what the caller in Rust gets from the standard
/// guest. Gives the number of pairs.
fn compare(root: &Path, data_dir: &Path, rust: &Path, caller: &Path, tenant: &str, case: &Case) -> Result<usize> {
    let got = ask(root, data_dir, caller, tenant, case)?;
    let expected = ask(root, data_dir, rust, BASE, case)?;
    ensure!(got == expected, "{got:?} and not {expected:?}");
    ensure!(got.len() == case.documents.len(), "{} answers for {} documents", got.len(), case.documents.len());
    for (score, document) in &got {
        let golden = case.documents.iter().find(|(text, _)| text == document).context("another document")?;
        let far = (f64::from(*score) - golden.1).abs();
        ensure!(far < TOLERANCE, "{score} for {document:?}, and PyTorch has {}", golden.1);
    }
    Ok(got.len())
}

/// What a caller prints: scores and documents, the best first.
fn ask(root: &Path, data_dir: &Path, caller: &Path, tenant: &str, case: &Case) -> Result<Vec<(f32, String)>> {
    let mut asking = assay(root, data_dir);
    asking.args(["run", "--link", tenant]).arg(caller).arg(&case.query);
    let printed = output(asking.args(case.documents.iter().map(|(text, _)| text)))?;
    let mut hits = Vec::new();
    let mut rest = printed.as_str();
    // A document may have lines of its own, so each is looked for as a whole.
    while !rest.is_empty() {
        let (score, after) = rest.split_once('\t').with_context(|| format!("no score in {rest:?}"))?;
        let document = case.documents.iter().map(|(text, _)| text).filter(|text| {
            after.strip_prefix(text.as_str()).is_some_and(|end| end.is_empty() || end.starts_with('\n'))
        });
        let document = document.max_by_key(|text| text.len()).with_context(|| format!("no document in {after:?}"))?;
        hits.push((score.parse().with_context(|| format!("{score:?} is no score"))?, document.clone()));
        rest = after[document.len()..].trim_start_matches('\n');
    }
    Ok(hits)
}

/// The table of what guests cost: size, how they start, memory, their processor time, and the time of a request.
fn costs(
    root: &Path,
    data_dir: &Path,
    server: &Server,
    built: &[(&str, PathBuf, PathBuf)],
    cases: &[Case],
) -> Result<String> {
    let query = &cases.first().context("no cases")?.query;
    let documents = cases.iter().flat_map(|case| &case.documents).map(|(text, _)| text).filter(|text| !text.is_empty());
    let documents: Vec<&String> = documents.cycle().take(DOCUMENTS).collect();
    let body = json!({"query": query, "documents": documents}).to_string();
    let mut tenants = vec![(BASE, server.key.clone(), None)];
    for (name, guest, _) in built {
        let key = output(assay(root, data_dir).args(["tenant", "key", "create", name]))?.trim().to_owned();
        tenants.push((*name, key, Some(guest)));
    }
    let address = server.url.strip_prefix("http://").context("the server speaks no plain HTTP")?;
    let usage = |name: &str| -> Result<Value> {
        let shown = output(assay(root, data_dir).args(["tenant", "show", "--json", name]))?;
        Ok(serde_json::from_str::<Value>(&shown)?["usage"].take())
    };
    let cpu = |usage: &Value| usage["guest_cpu_ms"].as_f64().context("usage");
    let before = tenants.iter().map(|(name, ..)| cpu(&usage(name)?)).collect::<Result<Vec<f64>>>()?;
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); tenants.len()];
    for _ in 0..ROUNDS {
        for ((_, key, _), times) in tenants.iter().zip(&mut times) {
            let began = Instant::now();
            let answer = post(address, "/v2/rerank", key, &body)?;
            times.push(began.elapsed());
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
    let mut table = "| guest | kB | starts from | memory (MiB) | its processor time a request (ms) | request (ms) |\n\
                     | --- | ---: | --- | ---: | ---: | ---: |\n"
        .to_owned();
    let median = |times: &[Duration]| {
        let mut sorted = times.to_vec();
        sorted.sort();
        sorted[sorted.len() / 2].as_secs_f64() * 1e3
    };
    for (((name, _, guest), times), before) in tenants.iter().zip(&times).zip(before) {
        let usage = usage(name)?;
        let memory = usage["most_memory_bytes"].as_f64().context("usage")? / f64::from(1 << 20);
        let start = if usage["is_snapshotted"] == true { "a snapshot" } else { "prepared instances" };
        let size = match guest {
            Some(guest) => (std::fs::metadata(guest)?.len() / 1000).to_string(),
            None => "-".to_owned(),
        };
        // The standard guest answers those that are linked to it, too.
        let linked = LANGUAGES.iter().filter(|language| *name == BASE && language.is_linked).count();
        let spent = (cpu(&usage)? - before) / (ROUNDS * (1 + linked)) as f64;
        let (took, name) = (median(times), if *name == BASE { "standard" } else { name });
        writeln!(table, "| {name} | {size} | {start} | {memory:.0} | {spent:.2} | {took:.0} |")?;
    }
    Ok(table)
}
