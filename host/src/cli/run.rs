//! `assay run`: run a component that calls tenants.
//!
//! Tenants are those of the server that runs on the data directory; where none runs, they are loaded into this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytesize::ByteSize;

use super::engine::EngineArgs;
use super::error::CliError;
use super::link::LinkArg;
use super::orders::{PlatformArgs, check_tenant, open_platform};
use super::pair::name_and_value;
use super::patience::Patience;
use crate::guest::{
    CallerComponent, CallerSetting, DEFAULT_MAX_CALLER_MEMORY_BYTES, Link, Links, Reranks, read_component,
};
use crate::tenant::client::AdminClient;
use crate::tenant::{Activity, DEFAULT_MAX_NAMED_TENANTS, RegistryError, TenantName};

/// Least memory of a component: one page of WebAssembly.
const MIN_MEMORY_BYTES: u64 = 64 << 10;

/// Most memory of a component: all that 32-bit WebAssembly addresses, for each of its memories.
const MAX_MEMORY_BYTES: u64 = 16 << 30;

/// Runs a component that calls tenants, with each of its imports of assay:rerank/reranker served by a tenant.
///
/// The component is a program: it exports wasi:cli/run. It gets standard input, output and error, the arguments after
/// its name and the variables that --env names, and no files and no network. It may import the interface under labels,
/// `import news: assay:rerank/reranker@0.2.0;`, and an import without a --link is served by the tenant that has the
/// label's name. Calls are requests of the tenant like any other, under its limits. They go to the server that runs on
/// the data directory, or else the tenants are loaded here. docs/components.md has an example.
///
/// The exit code is the component's. Before it starts: 2 bad input, 1 anything else; 1 if it traps.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tenant behind an import, by the import's label; TENANT alone is for the import without a label. May be
    /// repeated
    #[arg(long = "link", value_name = "LABEL=TENANT")]
    links: Vec<LinkArg>,
    /// A variable of the component's environment. May be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = name_and_value)]
    environment: Vec<(String, String)>,
    /// Most memory of the component
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(DEFAULT_MAX_CALLER_MEMORY_BYTES as u64))]
    memory: ByteSize,
    #[command(flatten)]
    engine: EngineArgs,
    /// The component, and all that follows it as its arguments
    // In one, so that options after the component are the component's.
    #[arg(value_names = ["COMPONENT.wasm", "ARGUMENT"], required = true, num_args = 1..)]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    component: Vec<String>,
}

/// The tenant of each import.
type Tenants = BTreeMap<Option<String>, TenantName>;

pub(super) fn run(args: Args, data_dir: &Path) -> Result<ExitCode, CliError> {
    let size = args.memory.as_u64();
    let max_memory_bytes = match usize::try_from(size) {
        Ok(bytes) if (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(&size) => bytes,
        _ => {
            return Err(CliError::bad_input(format!(
                "--memory is {}, and may be {} to {}",
                args.memory,
                ByteSize(MIN_MEMORY_BYTES),
                ByteSize(MAX_MEMORY_BYTES)
            )));
        }
    };
    let mut words = args.component.into_iter();
    let component = words.next().unwrap_or_default();
    if component.starts_with('-') {
        return Err(CliError::bad_input(format!(
            "{component:.60} is no option of `assay run`: `assay run --help` has them"
        )));
    }
    let (component, arguments) = (PathBuf::from(component), words.collect());
    // Checks everything that is checked quickly before anything slow.
    let device = args.engine.options(data_dir)?;
    let wasm = read_component(&component)?;
    let name = component.display().to_string();
    let patience = Patience::new("the component is compiled, as it is not kept from an earlier run");
    let caller = CallerComponent::load(&data_dir.join("compiled"), &name, &wasm)?;
    drop(patience);
    let tenants = tenants(&args.links, caller.labels()).map_err(|error| error.at(&name))?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
    // Holds what the tenants run on until the component has ended.
    let mut platform = None;
    let links = if tenants.is_empty() {
        Links::default()
    } else if AdminClient::connect(data_dir)?.is_some() {
        served_links(&tenants, data_dir)?
    } else {
        let options = PlatformArgs { device, guest_memory: None, max_named_tenants: DEFAULT_MAX_NAMED_TENANTS };
        let platform = platform.insert(open_platform(data_dir, options, runtime.handle())?);
        platform.begin()?;
        let names: Vec<TenantName> = tenants.values().cloned().collect();
        // What they call themselves must serve too.
        if let Some((name, error)) = platform.activate_these(&platform.reached_from(&names)).into_iter().next() {
            return Err(CliError::from(error).at(&format!("tenant {name}")));
        }
        let live = |name: &TenantName| match platform.activity(name) {
            Some(Activity::Serving(tenant)) => Ok(Link::new(name.as_str(), tenant)),
            _ => Err(CliError::from(RegistryError::NoTenant(name.clone()))),
        };
        linked(&tenants, live)?
    };
    let setting = CallerSetting { arguments, environment: args.environment, max_memory_bytes };
    let ended = runtime.block_on(caller.run(links, setting));
    // Tenants' guests use the runtime's timers: they end first.
    drop(platform);
    // A thread may still wait for standard input, which cannot be interrupted.
    runtime.shutdown_background();
    ended.map(ExitCode::from).map_err(|fault| CliError::failed(fault.to_string()))
}

/// The tenant of each import: as `links` say, else the one that has the label's name.
fn tenants(links: &[LinkArg], labels: &[Option<String>]) -> Result<Tenants, CliError> {
    let mut tenants = Tenants::new();
    for LinkArg { label, tenant } in links {
        if !labels.contains(label) {
            let named: Vec<&str> =
                labels.iter().map(|label| label.as_deref().unwrap_or("one without a label")).collect();
            let imports = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
            return Err(CliError::bad_input(match label {
                Some(label) => format!("--link {label}={tenant}: it imports no reranker {label}; it imports {imports}"),
                None => format!("--link {tenant}: it imports no reranker without a label; it imports {imports}"),
            }));
        }
        if tenants.insert(label.clone(), tenant.clone()).is_some() {
            let label = label.as_deref().map_or_else(String::new, |label| format!("{label}="));
            return Err(CliError::bad_input(format!("--link {label}{tenant}: this import has a tenant already")));
        }
    }
    for label in labels.iter().filter(|&label| !links.iter().any(|link| link.label == *label)) {
        let tenant = match label {
            None => Err("it imports a reranker without a label: name its tenant with --link TENANT".to_owned()),
            Some(label) => label.parse().map_err(|error| {
                format!("it imports a reranker {label}, which is no tenant's name ({error}): add --link {label}=TENANT")
            }),
        };
        tenants.insert(label.clone(), tenant.map_err(CliError::bad_input)?);
    }
    Ok(tenants)
}

/// A link for each import. A missing tenant is told with the import that asks for it.
fn linked(tenants: &Tenants, link: impl Fn(&TenantName) -> Result<Link, CliError>) -> Result<Links, CliError> {
    let each = tenants.iter().map(|(label, tenant)| {
        let place = label.as_ref().map_or("import without a label".to_owned(), |label| format!("import {label}"));
        Ok((label.clone(), link(tenant).map_err(|error| error.at(&place))?))
    });
    each.collect()
}

/// Links to tenants of the server that runs on the data directory.
#[cfg(unix)]
fn served_links(tenants: &Tenants, data_dir: &Path) -> Result<Links, CliError> {
    linked(tenants, |name| {
        check_tenant(name, data_dir)?;
        let tenant: Arc<dyn Reranks> = Arc::new(crate::tenant::ServedTenant::new(data_dir, name.clone()));
        Ok(Link::new(name.as_str(), tenant))
    })
}

/// Without Unix sockets no server is found.
#[cfg(not(unix))]
fn served_links(_tenants: &Tenants, _data_dir: &Path) -> Result<Links, CliError> {
    Err(CliError::failed("this system has no Unix sockets: stop the server first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn decide(links: &[&str], labels: &[&str]) -> Result<Vec<(String, String)>, String> {
        let links: Vec<LinkArg> = links.iter().map(|link| link.parse().unwrap()).collect();
        let labels: Vec<_> = labels.iter().map(|text| label(text)).collect();
        let tenants = tenants(&links, &labels).map_err(|error| error.to_string())?;
        Ok(tenants.into_iter().map(|(label, tenant)| (label.unwrap_or_default(), tenant.to_string())).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|&(label, tenant)| (label.to_owned(), tenant.to_owned())).collect()
    }

    #[test]
    fn an_import_is_served_by_its_link_or_else_by_the_tenant_of_its_name() {
        assert_eq!(
            decide(&["news=acme-7", "plain"], &["news", "law", ""]),
            Ok(pairs(&[("", "plain"), ("law", "law"), ("news", "acme-7")]))
        );
        assert_eq!(decide(&[], &[]), Ok(Vec::new()));
    }

    #[test]
    fn a_link_that_nothing_imports_and_an_import_that_nothing_serves_are_refused_by_name() {
        let refused = |links: &[&str], labels: &[&str], parts: &[&str]| {
            let error = decide(links, labels).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        refused(&["nwes=acme"], &["news", "law"], &["no reranker nwes", "imports news, law"]);
        refused(&["acme"], &["news"], &["--link acme", "without a label", "imports news"]);
        refused(&["acme"], &[], &["imports none"]);
        refused(&["news=a", "news=b"], &["news"], &["news=b", "already"]);
        refused(&[], &[""], &["without a label", "--link TENANT"]);
    }
}
