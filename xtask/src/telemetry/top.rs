//! `assay top` in tmux, on a server under load: its screen agrees with the metrics, moves, and takes keys.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Program, Watched, until};
use crate::clients::output;
use crate::step::run;

/// The series that the screen shows as answered.
const ANSWERED: &str = r#"assay_requests_total{tenant="acme",outcome="answered"}"#;

/// Runs the checks.
///
/// # Errors
/// tmux cannot be had, or a check failed.
pub(super) fn check(watched: &Watched) -> Result<()> {
    let tmux = Program::find(&watched.folder, "tmux", "usr/bin/tmux")?;
    // A server of its own, so that no other session is touched.
    let socket = watched.folder.join("tmux.socket");
    let command = || {
        let mut command = tmux.command();
        command.arg("-S").arg(&socket);
        command
    };
    let top = crate::assay(&watched.root, &watched.data_dir);
    let mut start = command();
    start.args(["-f", "/dev/null", "new-session", "-d", "-x", "140", "-y", "40", "-s", "top"]);
    run(start.arg(top.get_program()).args(top.get_args()).arg("top"))?;
    let checked = screens(watched, &command);
    // It ends with its only session; `q` may have ended that already.
    let _ = command().arg("kill-server").output();
    checked
}

fn screens(watched: &Watched, tmux: &dyn Fn() -> Command) -> Result<()> {
    let screen = || output(tmux().args(["capture-pane", "-p", "-t", "top"]));
    let least = watched.value(ANSWERED)?;
    let first = until("a screen with the tenant", || answered(&screen().ok()?).filter(|answered| *answered >= least))?;
    let most = watched.value(ANSWERED)?;
    ensure!(first <= most, "the screen says {first} answered requests, the metrics {most} later");
    until("another number", || answered(&screen().ok()?).filter(|answered| *answered > first))?;
    println!("{}", screen()?.trim_end());
    run(tmux().args(["send-keys", "-t", "top", "q"]))?;
    until("the end of `assay top`", || {
        let sessions = tmux().arg("has-session").output().ok()?;
        (!sessions.status.success()).then_some(())
    })
    .context("after the key q")
}

/// The last number of the tenant's row.
fn answered(screen: &str) -> Option<f64> {
    let row = screen.lines().find(|line| line.trim_start().starts_with("acme"))?;
    row.split_whitespace().last()?.parse().ok()
}
