//! `assay tenant`: deploys guests, changes limits, rolls back, and manages keys.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::component::ComponentArgs;
use super::error::CliError;
use super::link::LinkArg;
use super::loaded::loaded_models;
use super::output::print_once;
use super::{orders, table};
use crate::device::ModelStatus;
use crate::durable::read_at_most;
use crate::model::ModelRevision;
use crate::tenant::admin::{Command as AdminCommand, Description, OpenedModel, Reply, Served, ShownLink, Stored};
use crate::tenant::{Deployment, KeyRecord, LimitsError, MAX_LIMITS_BYTES, TenantLimits, TenantName};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Deploy a component, a model or both: checked, compiled, prepared and tested before they serve
    Deploy(Deploy),
    /// List the tenants
    List(Json),
    /// Show a tenant's versions, limits, use and history
    Show(Show),
    /// Go back to an earlier version, at once
    Rollback(Rollback),
    /// Change limits
    #[command(subcommand)]
    Limits(Limits),
    /// Make, list and revoke the keys that open a tenant
    #[command(subcommand)]
    Key(Key),
    /// Remove a tenant with its versions and keys; its history stays
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The tenant
    name: TenantName,
    /// Let requests in work end; they are stopped otherwise
    #[arg(long)]
    drain: bool,
    /// Remove it although other tenants call it: their calls fail from now on
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// The tenant, created if it does not exist
    name: TenantName,
    #[command(flatten)]
    component: ComponentArgs,
    /// A limits file, see docs/limits.toml [default: the limits of the current version]
    #[arg(long, value_name = "FILE.toml")]
    limits: Option<PathBuf>,
    /// The model that the guest gets when it names none: NAME is its newest revision here, and NAME@DIGITS the one that
    /// begins with these digits [default: the model and revision of the current version]
    #[arg(long, value_name = "NAME[@REVISION]")]
    model: Option<String>,
    /// Another model in the limits, at a revision other than the current version's; may be repeated
    #[arg(long = "other-model", value_name = "NAME[@REVISION]")]
    other_models: Vec<String>,
    /// The tenant behind an import of the component, by the import's label; TENANT alone is for the import without a
    /// label. That tenant's limits must name this one among `callers`. May be repeated [default: the links of the
    /// current version]
    #[arg(long = "link", value_name = "LABEL=TENANT")]
    links: Vec<LinkArg>,
}

#[derive(Debug, Args)]
pub(super) struct Json {
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The tenant
    name: TenantName,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The tenant
    name: TenantName,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The tenant
    name: TenantName,
    /// The version [default: the one before the current]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Limits {
    /// Set the limits of a tenant, as a new version with the same component: all of them, so that a limit that the file
    /// does not name gets its default
    Set {
        /// The tenant
        name: TenantName,
        /// A limits file, see docs/limits.toml
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a key and print it; it is shown only once
    Create(One),
    /// List a tenant's keys by their ids
    List(One),
    /// Revoke a key
    Revoke {
        /// The tenant
        name: TenantName,
        /// The key's id
        id: String,
        /// Let requests in work end; they are stopped otherwise
        #[arg(long)]
        drain: bool,
    },
}

pub(super) fn run(command: Command, data_dir: &Path) -> Result<(), CliError> {
    let json =
        matches!(&command, Command::List(Json { json: true }) | Command::Show(Show { json: Json { json: true }, .. }));
    // Reads files before anything slow, so that a mistake in one is reported at once.
    let (command, component) = match command {
        Command::Deploy(Deploy { name, component, limits, model, other_models, links }) => {
            let limits = limits.as_deref().map(read_limits).transpose()?.map(Box::new);
            let wasm = component.read()?;
            let links = links.into_iter().map(Into::into).collect();
            (AdminCommand::Deploy { tenant: name, component: None, limits, model, other_models, links }, wasm)
        }
        Command::List(_) => (AdminCommand::List, None),
        Command::Show(Show { name, .. }) => (AdminCommand::Show { tenant: name }, None),
        Command::Rollback(Rollback { name, to }) => (AdminCommand::Rollback { tenant: name, to }, None),
        Command::Limits(Limits::Set { name, file }) => {
            (AdminCommand::SetLimits { tenant: name, limits: Box::new(read_limits(&file)?) }, None)
        }
        Command::Key(Key::Create(One { name })) => (AdminCommand::CreateKey { tenant: name }, None),
        Command::Key(Key::List(One { name })) => (AdminCommand::ListKeys { tenant: name }, None),
        Command::Key(Key::Revoke { name, id, drain }) => (AdminCommand::RevokeKey { tenant: name, id, drain }, None),
        Command::Remove(Remove { name, drain, force }) => (AdminCommand::Remove { tenant: name, drain, force }, None),
    };
    print(orders::execute(command, component.as_deref(), data_dir)?, json)
}

fn read_limits(path: &Path) -> Result<TenantLimits, CliError> {
    let place = path.display().to_string();
    let bad = |error: &dyn std::fmt::Display| CliError::bad_input(error.to_string()).at(&place);
    let read = read_at_most(path, MAX_LIMITS_BYTES as u64).map_err(|error| bad(&error))?;
    let text = read.map_err(|bytes| bad(&LimitsError::TooLarge { bytes }))?;
    let text = String::from_utf8(text).map_err(|_| bad(&"stream did not contain valid UTF-8"))?;
    TenantLimits::parse(&text).map_err(|error| bad(&error))
}

fn print(reply: Reply, json: bool) -> Result<(), CliError> {
    if let Reply::Refused(error) = reply {
        return Err(error.into());
    }
    if json {
        let value = match &reply {
            Reply::Tenant(description) => serde_json::to_string(description),
            Reply::Tenants(tenants) => serde_json::to_string(
                &tenants
                    .iter()
                    .map(|(tenant, deployment)| serde_json::json!({ "tenant": tenant, "deployment": deployment }))
                    .collect::<Vec<_>>(),
            ),
            other => serde_json::to_string(other),
        };
        println!("{}", value.map_err(|error| CliError::failed(error.to_string()))?);
        return Ok(());
    }
    match reply {
        Reply::Serving(served) => {
            let Served { deployment, no_snapshot, refused_callers, note } = *served;
            let models: Vec<String> = deployment.models().iter().map(model_name).collect();
            eprintln!(
                "version {} serves: component {:.16}, model {}",
                deployment.version,
                deployment.component,
                models.join(", ")
            );
            eprintln!("{}", starts(no_snapshot.as_deref()));
            if let Some(note) = note {
                eprintln!("note: {note}");
            }
            for caller in refused_callers {
                eprintln!("calls by {caller} are refused from now on: the limit `callers` does not name it");
            }
        }
        Reply::Tenants(tenants) => {
            let rows: Vec<_> =
                tenants.iter().map(|(tenant, current)| list_row(tenant.name.as_str(), current)).collect();
            print!("{}", table::columns(&["tenant", "version", "component", "model", "deployed", "by"], &rows));
        }
        Reply::Tenant(description) => print!("{}", describe(&description)),
        Reply::Key { secret, record } => {
            eprintln!("key {} of {}; it is not shown again:", record.id, record.tenant);
            print_once(&secret, || {
                let KeyRecord { id, tenant, .. } = &record;
                format!("the key {id} was made and not shown: `assay tenant key revoke {tenant} {id}` takes it away")
            })?;
        }
        Reply::Keys(keys) => {
            let rows: Vec<_> = keys.into_iter().map(|key| vec![key.id, time(key.created_ms), key.by]).collect();
            print!("{}", table::columns(&["key", "created", "by"], &rows));
        }
        Reply::Removed { callers } => {
            for caller in callers {
                eprintln!("calls by {caller} fail from now on");
            }
        }
        // These are handled elsewhere, or print nothing.
        Reply::HeldModels(_)
        | Reply::Ready(_)
        | Reply::Observed(_)
        | Reply::OperatorKey { .. }
        | Reply::Device(_)
        | Reply::Swept(_)
        | Reply::Done
        | Reply::Refused(_) => {}
    }
    Ok(())
}

/// How a guest's instances start.
fn starts(no_snapshot: Option<&str>) -> String {
    match no_snapshot {
        None => "instances start from a snapshot of the prepared guest".to_owned(),
        Some(cause) => {
            format!("instances are prepared one by one, which is slow, because there is no snapshot: {cause}")
        }
    }
}

fn list_row(tenant: &str, current: &Deployment) -> Vec<String> {
    let component = format!("{:.16}", current.component);
    let model = model_name(&current.default_model());
    let (deployed, by) = (time(current.created_ms), current.by.clone());
    vec![tenant.to_owned(), current.version.to_string(), component, model, deployed, by]
}

/// A model's name with enough digits of its revision.
fn model_name(model: &ModelRevision) -> String {
    format!("{}@{:.16}", model.name, model.revision)
}

fn opened_row(opened: &OpenedModel, current: u64) -> Vec<String> {
    let mark = |version: &u64| format!("{version}{}", if *version == current { "*" } else { "" });
    let versions: Vec<String> = opened.versions.iter().map(mark).collect();
    let stored = match &opened.stored {
        Stored::Newest => "the newest here".to_owned(),
        Stored::Newer { revision } => format!("newer here: {revision:.16}"),
        Stored::Missing => "missing here".to_owned(),
    };
    vec![model_name(&opened.model), versions.join(", "), stored]
}

fn link_row(ShownLink { link, trouble }: &ShownLink) -> Vec<String> {
    let label = link.label.clone().unwrap_or_else(|| "(no label)".to_owned());
    let state = trouble.as_ref().map_or("are allowed".to_owned(), |trouble| format!("fail: {trouble}"));
    vec![label, link.tenant.to_string(), state]
}

fn describe(description: &Description) -> String {
    let Description { tenant, versions, history, models, usage, trouble, device, links, called_by } = description;
    let mut text = format!("{}\n\nversions\n", tenant.name);
    let mark = |version: u64| if version == tenant.current { "*" } else { "" };
    let rows: Vec<Vec<String>> = versions.iter().map(|version| list_row(mark(version.version), version)).collect();
    text += &table::columns(&["", "version", "component", "model", "deployed", "by"], &rows);
    text += "\nmodels\n";
    let rows: Vec<Vec<String>> = models.iter().map(|opened| opened_row(opened, tenant.current)).collect();
    text += &table::columns(&["model", "opened by version", "revision"], &rows);
    if !links.is_empty() {
        text += "\nlinks\n";
        let rows: Vec<Vec<String>> = links.iter().map(link_row).collect();
        text += &table::columns(&["import", "tenant", "calls"], &rows);
    }
    if !called_by.is_empty() {
        let names: Vec<&str> = called_by.iter().map(TenantName::as_str).collect();
        text += &format!("\ncalled by {}\n", names.join(", "));
    }
    if let Some(current) = versions.iter().find(|version| version.version == tenant.current) {
        let callers: Vec<&str> = current.limits.callers.iter().map(TenantName::as_str).collect();
        if !callers.is_empty() {
            text += &format!("\nmay be called by {}\n", callers.join(", "));
        }
        text += "\nlimits\n";
        let used = |limit: &str| usage.as_ref().and_then(|usage| used(usage, limit)).unwrap_or_else(|| "-".to_owned());
        let rows: Vec<Vec<String>> = current
            .limits
            .ranges()
            .iter()
            .map(|(limit, value, _)| vec![(*limit).to_owned(), value.to_string(), used(limit)])
            .collect();
        text += &table::columns(&["limit", "allowed", "used"], &rows);
    }
    if let Some(trouble) = trouble {
        text += &format!("\nnot being served: {trouble}\n");
    }
    if let Some(usage) = usage {
        let crate::tenant::Usage { answered, tokens, device_time_ms, guest_cpu_ms, .. } = usage;
        let crate::tenant::Usage { idle_instances, no_snapshot, .. } = usage;
        text += &format!(
            "\n{answered} requests answered, {tokens} tokens, {device_time_ms} ms of device time, {guest_cpu_ms} ms of guests' processor time\n"
        );
        let failures = [
            (usage.refused, "refused"),
            (usage.turned_away, "turned away for now"),
            (usage.cancelled, "cancelled"),
            (usage.late, "late"),
            (usage.guest_faults, "faults of the guest"),
            (usage.host_faults, "faults of the host"),
        ];
        let failures: Vec<String> = failures.map(|(count, kind)| format!("{count} {kind}")).to_vec();
        text += &format!("{} failed: {}\n", usage.failed, failures.join(", "));
        text += &format!("{}; {idle_instances} idle\n", starts(no_snapshot.as_deref()));
    }
    if let Some(device) = device {
        let mine = |loaded: &ModelStatus| {
            models.iter().any(|opened| (&opened.model.name, &opened.model.revision) == (&loaded.name, &loaded.revision))
        };
        text += &format!("\ndevice\n{}", loaded_models(device, &mine));
    }
    text += "\nhistory\n";
    let rows: Vec<Vec<String>> = history
        .iter()
        .map(|event| {
            let action = serde_json::to_value(event.action).ok();
            let action = action.and_then(|action| action.as_str().map(str::to_owned)).unwrap_or_default();
            let version = event.version.map_or_else(String::new, |version| version.to_string());
            let subject = event.subject.as_deref().map_or_else(String::new, |subject| format!("{subject:.16}"));
            vec![time(event.at_ms), event.by.clone(), action, version, subject]
        })
        .collect();
    text + &table::columns(&["when", "by", "what", "version", "of"], &rows)
}

/// The use of a limit: now, or the maximum so far.
fn used(usage: &crate::tenant::Usage, limit: &str) -> Option<String> {
    let most = |value: u64| Some(format!("{value} at most"));
    match limit {
        "max_concurrent_requests" => Some(usage.running.to_string()),
        "max_waiting_requests" => Some(usage.waiting.to_string()),
        "max_queued_tokens" => Some(usage.queued_tokens.to_string()),
        "burst_tokens" => Some(format!("{} left", usage.burst_tokens_left)),
        "max_documents" => most(usage.most_documents),
        "max_request_rows" => most(usage.most_request_rows),
        "max_request_tokens" => most(usage.most_request_tokens),
        "max_memory_bytes" => most(usage.most_memory_bytes),
        "max_guest_memory_bytes" => Some(usage.guest_memory_bytes.to_string()),
        "max_guest_cpu_ms" => most(usage.most_guest_cpu_ms),
        "max_wall_ms" => most(usage.most_wall_ms),
        _ => None,
    }
}

/// A time in UTC, to the second, in RFC 3339's format.
fn time(ms_since_1970: u64) -> String {
    let time = i64::try_from(ms_since_1970).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
