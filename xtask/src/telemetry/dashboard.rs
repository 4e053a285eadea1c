//! Debian's Chromium on the dashboard of a server under load: no line in the console, no request to elsewhere, and
//! numbers that move and agree with what `/metrics` says before and after. Leaves pictures in light, dark and a phone's
//! width below `target/telemetry`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::chromium::Page;
use super::{Program, Watched, until};

/// The series that the page shows as answered.
const ANSWERED: &str = r#"assay_requests_total{tenant="acme",outcome="answered"}"#;

/// Pictures: name, width and height, and colours.
const PICTURES: [(&str, u32, u32, &str); 3] =
    [("light", 1_280, 1_500, "light"), ("dark", 1_280, 1_500, "dark"), ("phone", 390, 2_600, "light")];

/// Runs the checks.
///
/// # Errors
/// Chromium cannot be had, or a check failed.
pub(super) fn check(watched: &Watched) -> Result<()> {
    let chromium = Program::find(&watched.folder, "chromium", "usr/lib/chromium/chromium")?;
    let mut page = Page::open(&chromium, &watched.folder.join("chromium-profile"))?;
    let url = format!("http://{}/dashboard#key={}", watched.address, watched.operator_key);
    let least = watched.value(ANSWERED)?;
    page.send("Page.navigate", &json!({ "url": url }))?;
    let first = until("the page's numbers", || answered(&mut page).filter(|shown| *shown >= least))?;
    let most = watched.value(ANSWERED)?;
    ensure!(first <= most, "the page says that {first} requests were answered, the metrics say {most} later");
    let second = until("other numbers", || answered(&mut page).filter(|shown| *shown > first))?;
    let row = page.value_of("document.getElementById('tenants').textContent")?;
    ensure!(row.as_str().is_some_and(|row| row.contains("acme")), "the table of tenants lacks acme: {row}");
    for (name, width, height, colours) in PICTURES {
        let features = json!([{ "name": "prefers-color-scheme", "value": colours }]);
        page.send("Emulation.setEmulatedMedia", &json!({ "features": features }))?;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        page.send("Emulation.setDeviceMetricsOverride", &size)?;
        let too_wide = page.value_of("document.documentElement.scrollWidth > document.documentElement.clientWidth")?;
        ensure!(too_wide == false, "the page is wider than a window of {width} pixels");
        let picture = watched.folder.join(format!("dashboard-{name}.png"));
        save(page.send("Page.captureScreenshot", &json!({}))?["data"].as_str().context("no picture")?, &picture)?;
        println!("{}", picture.display());
    }
    ensure!(page.logged.is_empty(), "the console has lines: {:#?}", page.logged);
    let own = |url: &&String| url.starts_with(&format!("http://{}/", watched.address)) || url.starts_with("data:");
    let elsewhere: Vec<&String> = page.asked.iter().filter(|url| !own(url)).collect();
    ensure!(elsewhere.is_empty(), "the page asked elsewhere: {elsewhere:?}");
    ensure!(page.asked.iter().any(|url| url.contains("/dashboard/events")), "the page asked for no numbers");
    println!("{first} and then {second} answered requests, as the metrics have them; the console is empty, and all");
    println!("{} requests went to the server", page.asked.len());
    Ok(())
}

/// The number of answered requests that the page shows.
fn answered(page: &mut Page) -> Option<f64> {
    let text = page.value_of("document.getElementById('total-answered')?.textContent").ok()?;
    text.as_str()?.replace(',', "").parse().ok()
}

/// Writes a file that is given in Base64.
fn save(base64: &str, file: &Path) -> Result<()> {
    let mut decoder = Command::new("base64");
    let mut decoder = decoder.arg("-d").stdin(Stdio::piped()).stdout(std::fs::File::create(file)?).spawn()?;
    decoder.stdin.take().context("a pipe")?.write_all(base64.as_bytes())?;
    ensure!(decoder.wait()?.success(), "base64 failed");
    Ok(())
}
