//! Where the standard library for wasm comes from.
//!
//! Guests are built for `wasm32-unknown-unknown`, whose standard library does not come with every Rust.
//! [`WasmStd::find`] tries three routes, in this order:
//!
//! 1. `installed`: it is already there.
//! 2. `rustup`: `rustup target add` fetches it.
//! 3. `source`: cargo compiles it along with the guests, from the sources in the toolchain (`rustup component add
//!    rust-src`) or, where there are none, from Debian's `rust-src` of the same version, unpacked under `target/`. For
//!    machines that reach a Debian mirror but not rustup's server.
//!
//! [`ROUTE_VARIABLE`] forces one of them. Only rustup writes outside `target/`. The mirror is the one that apt is
//! configured with.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// The target that guests are built for.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Environment variable that forces a route: `installed`, `rustup` or `source`.
pub(crate) const ROUTE_VARIABLE: &str = "ASSAY_WASM_STD";

/// rustup fetches 20 MB; without a way to its server it would wait much longer than this before it gave up.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);

/// apt fetches an index of a few MB, and then 45 MB.
const APT_LIMIT: Duration = Duration::from_secs(300);

/// Debian's suites that carry current Rust sources, the likeliest first.
const DEBIAN_SUITES: [&str; 3] = ["trixie-backports", "testing", "unstable"];

/// Signs all of Debian's suites; apt's own trusted keys serve where the file is missing.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A standard library for [`TARGET`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WasmStd {
    /// Compiled, and where rustc looks for it.
    Installed,
    /// To be compiled from the sources that are part of the toolchain.
    ToolchainSource,
    /// To be compiled from sources elsewhere: the path of rust's `library` folder.
    Source(PathBuf),
}

impl WasmStd {
    /// Finds one, and fetches it if it must. What is fetched goes to `target` in `root`, the folder of the root
    /// workspace.
    ///
    /// # Errors
    /// No route works, or the one that [`ROUTE_VARIABLE`] forces does not; the error says why, and what to do by hand.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        let routes: Vec<Route> = match std::env::var(ROUTE_VARIABLE) {
            Ok(name) => vec![Route::from_name(&name)?],
            Err(_) => vec![Route::Installed, Route::Rustup, Route::Source],
        };
        let mut reasons = String::new();
        for route in routes {
            match route.take(root) {
                Ok(wasm_std) => return Ok(wasm_std),
                Err(reason) => reasons.push_str(&format!("\n  {}: {reason:#}", route.name())),
            }
        }
        bail!(
            "no standard library for {TARGET}:{reasons}\n\
             install one by hand: `rustup target add {TARGET}`, or `rustup component add rust-src`, or your distribution's package of either"
        )
    }

    /// Makes a `cargo build` use it.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        if *self == Self::Installed {
            return;
        }
        // Compiling std is unstable; this variable allows it on a stable cargo.
        cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        if let Self::Source(library) = self {
            // Cargo has no other setting for sources outside the toolchain, and the toolchain is not ours to write to.
            cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        }
    }
}

impl fmt::Display for WasmStd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed => formatter.write_str("std installed"),
            Self::ToolchainSource => formatter.write_str("std from the toolchain's sources"),
            Self::Source(library) => write!(formatter, "std from the sources in {}", library.display()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Installed,
    Rustup,
    Source,
}

impl Route {
    fn from_name(name: &str) -> Result<Self> {
        [Self::Installed, Self::Rustup, Self::Source]
            .into_iter()
            .find(|route| route.name() == name)
            .with_context(|| format!("{ROUTE_VARIABLE} is {name:?}, but can be installed, rustup or source"))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Rustup => "rustup",
            Self::Source => "source",
        }
    }

    fn take(self, root: &Path) -> Result<WasmStd> {
        match self {
            Self::Installed => installed(),
            Self::Rustup => {
                println!("wasm std: rustup target add {TARGET}");
                run_within(Command::new("rustup").args(["target", "add", TARGET]), RUSTUP_LIMIT)?;
                installed()
            }
            Self::Source => source(root),
        }
    }
}

fn installed() -> Result<WasmStd> {
    let libraries = PathBuf::from(rustc(&["--print", "target-libdir", "--target", TARGET])?);
    let is_std = |name: &str| name.starts_with("libstd-") && name.ends_with(".rlib");
    let found = fs::read_dir(&libraries)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .any(|entry| is_std(&entry.file_name().to_string_lossy()));
    ensure!(found, "no libstd in {}", libraries.display());
    Ok(WasmStd::Installed)
}

fn source(root: &Path) -> Result<WasmStd> {
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if is_library(&sysroot.join("lib/rustlib/src/rust/library")) {
        return Ok(WasmStd::ToolchainSource);
    }
    let version = rustc(&["--version"])?;
    let version = version.split(' ').nth(1).context("rustc does not tell its version")?;
    let folder = root.join("target").join("wasm-std").join(version);
    let library = folder.join("library");
    if !is_library(&library) {
        fetch_from_debian(version, &folder)?;
        ensure!(is_library(&library), "Debian's rust-src {version} has no standard library where it used to be");
    }
    Ok(WasmStd::Source(library))
}

fn is_library(folder: &Path) -> bool {
    // Cargo builds std by this lock file and fails without.
    folder.join("Cargo.lock").is_file() && folder.join("std").is_dir()
}

/// Downloads Debian's `rust-src` of a version and leaves its `library` in `folder`. apt works on lists of its own
/// there, so that it needs no rights and leaves the system's as they are.
fn fetch_from_debian(version: &str, folder: &Path) -> Result<()> {
    for part in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // No packages are installed, as far as this apt knows.
    fs::write(folder.join("status"), "")?;
    let mirrors = debian_mirrors()?;
    for (suite, mirror) in DEBIAN_SUITES.iter().flat_map(|suite| mirrors.iter().map(move |mirror| (suite, mirror))) {
        println!("wasm std: looking for rust-src {version} in Debian's {suite}");
        let signed_by = match Path::new(DEBIAN_KEYRING).exists() {
            true => format!("[signed-by={DEBIAN_KEYRING}] "),
            false => String::new(),
        };
        fs::write(folder.join("sources.list"), format!("deb {signed_by}{mirror} {suite} main\n"))?;
        if let Err(reason) = run_within(apt("apt-get", folder).args(["-qq", "update"]), APT_LIMIT) {
            println!("wasm std: {suite} cannot be read: {reason:#}");
            continue;
        }
        let offered = output_of(apt("apt-cache", folder).args(["madison", "rust-src"]))?;
        let Some(package_version) = package_version(&offered, version) else {
            continue;
        };
        println!("wasm std: downloading rust-src {package_version}");
        let package = format!("rust-src={package_version}");
        run_within(apt("apt-get", folder).args(["-qq", "download", &package]), APT_LIMIT)?;
        return unpack(version, folder);
    }
    Err(anyhow!("Debian has no rust-src {version} in {}", DEBIAN_SUITES.join(", ")))
}

/// Picks, of what `apt-cache madison` offers (`package | version | where`), the package of an upstream version.
fn package_version<'madison>(offered: &'madison str, version: &str) -> Option<&'madison str> {
    offered
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|offer| offer.strip_prefix(version).is_some_and(|rest| rest.starts_with(['+', '-', '~'])))
}

/// The mirrors of the Debian archive that this machine's apt is configured with.
pub(crate) fn debian_mirrors() -> Result<Vec<String>> {
    let listed = output_of(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))
        .context("apt is not there, or not configured")?;
    let mut mirrors: Vec<String> = listed
        .lines()
        .map(|uri| uri.trim().trim_end_matches('/').to_owned())
        .filter(|uri| uri.ends_with("/debian"))
        .collect();
    mirrors.sort();
    mirrors.dedup();
    ensure!(!mirrors.is_empty(), "apt is configured with no mirror of Debian");
    Ok(mirrors)
}

/// A command of apt's that keeps everything it reads and writes in `folder`, and works there.
fn apt(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    let path = |name: &str| folder.join(name).display().to_string();
    for option in [
        format!("Dir::Etc::sourcelist={}", path("sources.list")),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State={}", path("state")),
        format!("Dir::State::status={}", path("status")),
        format!("Dir::Cache={}", path("cache")),
        "Acquire::Languages=none".to_owned(),
        // Root's apt would otherwise work as a user who may not enter `target`.
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command
}

/// Unpacks the package, moves its `library` into place and drops the compiler's sources, which are ten times its size.
fn unpack(version: &str, folder: &Path) -> Result<()> {
    let package = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt left no package")?;
    let unpacked = folder.join("unpacked");
    run_within(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked), APT_LIMIT)?;
    // A rename happens whole or not at all: an interrupted run starts over.
    fs::rename(unpacked.join(format!("usr/src/rustc-{version}/library")), folder.join("library"))
        .with_context(|| format!("{} has another layout than expected", package.display()))?;
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&package)?;
    Ok(())
}

fn rustc(arguments: &[&str]) -> Result<String> {
    output_of(Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).args(arguments))
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{} ended with {}", command.get_program().display(), output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Runs a command to its end, or ends it once `limit` has passed.
fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let name = command.get_program().display().to_string();
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {name}"))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{name} ended with {status}");
            return Ok(());
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("{name} did not end within {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_upstream_version_is_taken() {
        let offered = "rust-src | 1.96.1+dfsg1-2 | somewhere\n rust-src | 1.95.0+dfsg1-2~bpo13+1 | somewhere\n";
        assert_eq!(package_version(offered, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(package_version(offered, "1.95"), None);
        assert_eq!(package_version(offered, "1.9"), None);
        assert_eq!(package_version("", "1.95.0"), None);
    }

    #[test]
    fn a_route_that_does_not_exist_is_refused_by_name() {
        assert_eq!(Route::from_name("source").ok(), Some(Route::Source));
        let error = Route::from_name("magic").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("magic") && error.contains(ROUTE_VARIABLE), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_does_not_end_is_ended() {
        let started = Instant::now();
        let error = run_within(Command::new("sleep").arg("60"), Duration::from_millis(200));
        assert!(error.is_err_and(|error| error.to_string().contains("did not end")));
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
