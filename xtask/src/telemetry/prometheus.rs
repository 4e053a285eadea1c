//! Debian's Prometheus with the shipped configuration, filled in for a server under load: the files pass promtool's
//! checks, every alert rule is healthy, and every query of the Grafana dashboard and of the rules gives data.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Program, Watched, get, until};
use crate::clients::output;
use crate::step::run;

/// Seconds between scrapes here; 15 in the shipped file.
const INTERVAL_S: u32 = 1;

/// What `$__rate_interval` stands for here: enough scrapes for a rate.
const RATE_INTERVAL: &str = "10s";

/// Scrapes before the first query.
const SCRAPES: u32 = 12;

/// Runs the checks.
///
/// # Errors
/// Prometheus cannot be had, or a check failed.
pub(super) fn check(watched: &Watched) -> Result<()> {
    let find = |path| Program::find(&watched.folder, "prometheus", path);
    let (prometheus, promtool) = (find("usr/bin/prometheus")?, find("usr/bin/promtool")?);
    let shipped = watched.root.join("deploy/prometheus");
    run(promtool.command().args(["check", "rules"]).arg(shipped.join("assay.rules.yml")))?;
    let config = configuration(watched, &shipped)?;
    run(promtool.command().args(["check", "config"]).arg(&config))?;
    check_metrics(watched, &promtool)?;
    let running = Prometheus::start(watched, &prometheus, &config)?;
    let target = until("a healthy target", || running.healthy_target())?;
    ensure!(target == watched.address, "Prometheus scrapes {target}, and not {}", watched.address);
    until("enough scrapes", || {
        let count = running.query(&promtool, "count_over_time(up{job=\"assay\"}[1m])").ok()?;
        (count.first().copied()? >= f64::from(SCRAPES)).then_some(())
    })?;
    let rules = running.rules()?;
    for condition in &rules {
        running.query(&promtool, condition).with_context(|| format!("an alert rule: {condition}"))?;
    }
    let panels = panels(&shipped.with_file_name("grafana").join("assay.json"))?;
    let watched_values = rules.iter().map(|rule| ("an alert rule".to_owned(), without_threshold(rule)));
    let mut empty = Vec::new();
    let mut asked = 0;
    for (place, query) in watched_values.chain(panels) {
        let query = query.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*");
        let found = running.query(&promtool, &query).with_context(|| format!("{place}: {query}"))?;
        asked += 1;
        if found.is_empty() {
            empty.push(format!("{place}: {query}"));
        }
    }
    ensure!(empty.is_empty(), "these queries give no data:\n{}", empty.join("\n"));
    println!("{} alert rules and {asked} queries were evaluated, and each gives data", rules.len());
    Ok(())
}

/// The shipped configuration, for the watched server.
fn configuration(watched: &Watched, shipped: &Path) -> Result<std::path::PathBuf> {
    let text = std::fs::read_to_string(shipped.join("prometheus.yml"))?;
    let key = watched.data_dir.join("operator.key");
    let mut filled = text;
    for (from, to) in [
        ("/var/lib/assay/operator.key", key.display().to_string()),
        ("127.0.0.1:8790", watched.address.clone()),
        ("15s", format!("{INTERVAL_S}s")),
        ("[assay.rules.yml]", format!("[{}]", shipped.join("assay.rules.yml").display())),
    ] {
        ensure!(filled.contains(from), "deploy/prometheus/prometheus.yml has no {from}");
        filled = filled.replace(from, &to);
    }
    let path = watched.folder.join("prometheus.yml");
    std::fs::write(&path, filled)?;
    Ok(path)
}

/// The form of `/metrics`. promtool has advice, too, which does not fail it.
fn check_metrics(watched: &Watched, promtool: &Program) -> Result<()> {
    let file = watched.folder.join("metrics.txt");
    std::fs::write(&file, watched.metrics()?)?;
    run(promtool.command().args(["check", "metrics"]).stdin(std::fs::File::open(&file)?))
}

/// The name and the query of every panel of a Grafana dashboard.
fn panels(path: &Path) -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("the dashboard has no panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("a target has no query")?;
            found.push((format!("panel {}", panel["title"]), query.to_owned()));
        }
    }
    ensure!(!found.is_empty(), "the dashboard has no queries");
    Ok(found)
}

/// What a rule compares with its threshold, so that it gives data although no alert fires.
fn without_threshold(rule: &str) -> String {
    let compared = rule.rsplit_once(" == ").or_else(|| rule.rsplit_once(" > "));
    compared.map_or(rule, |(value, _)| value).to_owned()
}

/// A running Prometheus, ended with the value.
struct Prometheus {
    child: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(watched: &Watched, program: &Program, config: &Path) -> Result<Self> {
        let data = watched.folder.join("prometheus-data");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        // A port that is free now.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = std::fs::File::create(watched.folder.join("prometheus.log"))?;
        let mut command = program.command();
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={address}"));
        // Debian's package has its pages elsewhere, and none is asked for.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let running = Self { child, address };
        until("Prometheus' start", || get(&running.address, "/-/ready").ok())?;
        Ok(running)
    }

    fn api(&self, path: &str) -> Result<Value> {
        let answer: Value = serde_json::from_str(&get(&self.address, path)?)?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].clone())
    }

    /// The address of the target, once a scrape of it succeeded.
    fn healthy_target(&self) -> Option<String> {
        let data = self.api("/api/v1/targets").ok()?;
        let target = data["activeTargets"].get(0)?;
        (target["health"] == "up").then(|| target["labels"]["instance"].as_str().unwrap_or_default().to_owned())
    }

    /// The conditions of all alert rules, each of which was evaluated without an error.
    fn rules(&self) -> Result<Vec<String>> {
        let data = self.api("/api/v1/rules")?;
        let mut conditions = Vec::new();
        for rule in data["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array()) {
            for rule in rule {
                if rule["health"] != "ok" {
                    bail!("the rule {} is {}: {}", rule["name"], rule["health"], rule["lastError"]);
                }
                conditions.push(rule["query"].as_str().context("a rule has no query")?.to_owned());
            }
        }
        ensure!(!conditions.is_empty(), "Prometheus has no rules");
        Ok(conditions)
    }

    /// The values that a query has now.
    fn query(&self, promtool: &Program, query: &str) -> Result<Vec<f64>> {
        let mut command = promtool.command();
        command.args(["query", "instant", "-o", "json", &format!("http://{}", self.address), query]);
        let found: Value = serde_json::from_str(output(&mut command)?.trim())?;
        let values = found.as_array().context("promtool printed no list")?;
        Ok(values.iter().filter_map(|found| found["value"][1].as_str()?.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_without_its_threshold_is_what_it_watches() {
        assert_eq!(without_threshold(r#"up{job="assay"} == 0"#), r#"up{job="assay"}"#);
        assert_eq!(without_threshold("a / sum by (b) (rate(c[5m])) > 0.05"), "a / sum by (b) (rate(c[5m]))");
    }
}
