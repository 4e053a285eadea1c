//! `cargo xtask clients`: real client libraries against a real server, with a tenant and its key. What they need is
//! installed below `target/clients`, at the versions that `clients/` pins.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::assay;
use crate::guest::GUEST_TARGET;
use crate::step::{cargo, run, say};

/// What schemathesis looks at in each answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// The files of requirements in `clients/`. Some packages cannot be installed together.
const GROUPS: [&str; 5] = ["cohere", "component", "frameworks", "infinity", "litellm"];

/// A program with the client in it.
const COMPOSED: &str = "target/guests/composed/rank.wasm";

/// The query and the documents of `clients/run.py`, which gets what the command line answers for them.
const QUERY: &str = "why is the sky blue";
const DOCUMENTS: [&str; 3] = [
    "Bread is baked from flour, water and yeast.",
    "Air scatters blue light more than red light.",
    "The sea looks blue because it reflects the sky.",
];

/// The address in the documentation's snippets.
const DOCUMENTED_URL: &str = "http://127.0.0.1:8790";

/// Limits that a few requests meet.
const NARROW: &str = "max_documents = 3\nmax_tokens_per_s = 1\nburst_tokens = 100\n";

/// Most time for a server to load one tenant.
const START_TIME: Duration = Duration::from_secs(60);

/// A running server, ended with the value.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) key: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server on a fresh data directory with the test model and one tenant, the standard guest.
    pub(crate) fn start(root: &Path, data_dir: &Path) -> Result<Self> {
        let key = deploy(root, data_dir, "acme", "")?;
        Self::start_with(root, data_dir, key)
    }

    /// The same on a data directory that has its tenants.
    pub(crate) fn start_with(root: &Path, data_dir: &Path, key: String) -> Result<Self> {
        let mut child = assay(root, data_dir).args(["serve", "--port", "0"]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let server = Self { child, url: url.unwrap_or_default(), key };
        if server.url.is_empty() {
            bail!("the server did not start: {line:?}");
        }
        let began = Instant::now();
        while !assay(root, data_dir).arg("ready").output()?.status.success() {
            if began.elapsed() > START_TIME {
                bail!("the server at {} was not ready within {START_TIME:?}", server.url);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

/// Deploys the standard guest under these limits, and makes a key.
fn deploy(root: &Path, data_dir: &Path, tenant: &str, limits: &str) -> Result<String> {
    let file = data_dir.join(format!("{tenant}.toml"));
    std::fs::write(&file, limits)?;
    run(assay(root, data_dir).args(["tenant", "deploy", tenant, "--limits"]).arg(&file))?;
    Ok(output(assay(root, data_dir).args(["tenant", "key", "create", tenant]))?.trim().to_owned())
}

/// Each group's Python.
pub(crate) struct Installed(Vec<(&'static str, PathBuf)>);

/// Installs what the clients need.
///
/// # Errors
/// Something cannot be installed.
pub(crate) fn install(root: &Path) -> Result<Installed> {
    let folder = root.join("target/clients");
    let pythons = GROUPS.map(|group| {
        let requirements = root.join("clients").join(group).with_extension("txt");
        Ok((group, venv(&folder.join(group), &requirements)?))
    });
    if has_npm() {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(root.join("clients").join(file), folder.join(file))?;
        }
        run(Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&folder))?;
    }
    Ok(Installed(pythons.into_iter().collect::<Result<_>>()?))
}

fn has_npm() -> bool {
    Command::new("npm").arg("--version").output().is_ok()
}

/// Composes a program with `guest/client`, unless the guests' tests have done so.
fn compose(root: &Path) -> Result<()> {
    if root.join(COMPOSED).is_file() {
        return Ok(());
    }
    say("composing a program with the client");
    let mut test = cargo(&root.join("guest"));
    test.args(["test", "--release", "--package", "assay-client", "--test", "composed"]).args(GUEST_TARGET);
    run(&mut test).context("`cargo xtask build` makes the components that it composes")
}

/// Runs every client, or those that are named.
///
/// # Errors
/// A client failed.
pub(crate) fn run_clients(root: &Path, Installed(pythons): &Installed, names: &[String]) -> Result<()> {
    compose(root)?;
    let folder = root.join("target/clients");
    let data_dir = fresh_data_dir(&folder)?;
    let expected = folder.join("expected.json");
    let mut rerank = assay(root, &data_dir);
    rerank.args(["rerank", "--json", "--scores", "sigmoid", "--query", QUERY]).args(DOCUMENTS);
    std::fs::File::create(&expected)?.write_all(output(&mut rerank)?.as_bytes())?;
    let server = Server::start(root, &data_dir)?;
    let narrow_key = deploy(root, &data_dir, "narrow", NARROW)?;
    // The snippets of the documentation are for a server without tenants.
    let keyless = Server::start_with(root, &fresh_data_dir(&folder.join("keyless"))?, String::new())?;
    say(&format!("running the Python clients against {}", server.url));
    let mut failed = Vec::new();
    for (group, python) in pythons {
        let mut clients = Command::new(python);
        clients.arg(root.join("clients/run.py")).args([&server.url, &server.key]).arg(&expected);
        clients.args([&keyless.url, *group]).args(names).env("ASSAY_NARROW_KEY", &narrow_key);
        failed.extend(run(&mut clients).err());
    }
    if let Some(error) = failed.pop() {
        return Err(error);
    }
    if names.is_empty() {
        say("running the npm client");
        npm(root, &folder, &server, &keyless, &expected)?;
    }
    Ok(())
}

/// Runs schemathesis, which makes requests of what `/openapi.json` says: no answer may be a 5xx, or one that the document
/// does not have.
///
/// # Errors
/// It cannot be installed, or found something.
pub(crate) fn run_schemathesis(root: &Path, seconds: u32) -> Result<()> {
    let folder = root.join("target/clients/schemathesis");
    let python = venv(&folder, &root.join("clients/schemathesis.txt"))?;
    let server = Server::start(root, &fresh_data_dir(&folder)?)?;
    let (document, key) = (format!("{}/openapi.json", server.url), format!("Authorization: Bearer {}", server.key));
    let mut program = Command::new(python.with_file_name("schemathesis"));
    program.args(["run", &document, "--header", &key, "--phases", "coverage,fuzzing", "--checks", CHECKS]);
    // Its examples and its cache stay below `target/`.
    run(program.args(["--max-time", &seconds.to_string()]).current_dir(&folder))
}

/// A Python environment in `folder` with what a file of requirements lists. Installed once for each content of the file.
///
/// # Errors
/// Python lacks venv, or a package cannot be installed.
pub(crate) fn venv(folder: &Path, requirements: &Path) -> Result<PathBuf> {
    let (venv, done) = (folder.join("venv"), folder.join("installed.txt"));
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let wanted = std::fs::read_to_string(requirements)?;
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    say(&format!("installing {} below {}", requirements.display(), folder.display()));
    std::fs::create_dir_all(folder)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    std::fs::write(&done, wanted)?;
    Ok(python)
}

/// A data directory with the test model and nothing else.
pub(crate) fn fresh_data_dir(folder: &Path) -> Result<PathBuf> {
    let (data_dir, models) = (folder.join("data"), testdata::data_dir().join("models"));
    if !models.is_dir() {
        bail!("{} is missing: `cargo xtask test` makes it", models.display());
    }
    if data_dir.exists() {
        std::fs::remove_dir_all(&data_dir)?;
    }
    std::fs::create_dir_all(&data_dir)?;
    run(Command::new("cp").arg("-r").arg(&models).arg(&data_dir))?;
    Ok(data_dir)
}

fn npm(root: &Path, folder: &Path, server: &Server, keyless: &Server, expected: &Path) -> Result<()> {
    if !has_npm() {
        eprintln!("skipped  cohere-ai (npm): npm is not installed");
        return Ok(());
    }
    std::fs::copy(root.join("clients/cohere.mjs"), folder.join("cohere.mjs"))?;
    let mut node = Command::new("node");
    run(node.arg("cohere.mjs").args([&server.url, &server.key]).arg(expected).current_dir(folder))?;
    // What the documentation says, as it stands there.
    let page = std::fs::read_to_string(root.join("docs/clients.md"))?;
    let snippet = page.split_once("```js\n").and_then(|(_, rest)| rest.split_once("```"));
    let (snippet, _) = snippet.context("docs/clients.md has no snippet of JavaScript")?;
    std::fs::write(folder.join("documented.mjs"), snippet.replace(DOCUMENTED_URL, &keyless.url))?;
    run(Command::new("node").arg("documented.mjs").current_dir(folder))
}

/// What a server answers to a request with JSON: the answer as it comes, head and body.
///
/// # Errors
/// The server cannot be reached.
pub(crate) fn post(address: &str, path: &str, key: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What a command prints.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}
