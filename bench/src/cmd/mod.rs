//! One file for each subcommand, and what they share.

pub(crate) mod compare;
pub(crate) mod history;
pub(crate) mod models;
pub(crate) mod overhead;
pub(crate) mod quality;
mod ranking;
pub(crate) mod run;
pub(crate) mod scenarios;

use std::path::PathBuf;

use anyhow::{Context, Result};
use assay::cli::EngineArgs;
use assay_bench::run::{Service, TargetOptions};
use etcetera::BaseStrategy;
use tokio_util::sync::CancellationToken;

/// Threads for guests and for this program's own tasks, as in `assay rerank`.
const WORKER_THREADS: usize = 2;

/// What requests are sent to.
#[derive(Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// Where models and compiled guests are kept [default: the user's data directory]
    #[arg(long, env = "ASSAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The model [default: the scenario's, or the store's default]
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    engine: EngineArgs,
    /// The guest of tenants that name none, in place of the standard one
    #[arg(long, value_name = "COMPONENT.wasm")]
    guest: Option<PathBuf>,
    /// A running `assay serve` to send requests to, such as http://127.0.0.1:8790
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Bearer key of each tenant in turn; the last one is used for the rest
    #[arg(
        long = "key",
        requires = "url",
        value_name = "KEY",
        env = "ASSAY_BENCH_KEYS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    keys: Vec<String>,
    /// Process id of a service on this machine, to sample its processor time and memory
    #[arg(long, requires = "url", value_name = "PID")]
    server_pid: Option<u32>,
}

/// The data directory that was named, or the user's own.
pub(crate) fn data_dir(named: Option<PathBuf>) -> Result<PathBuf> {
    match named {
        Some(dir) => Ok(dir),
        None => {
            Ok(etcetera::choose_base_strategy().context("name a directory with --data-dir")?.data_dir().join("assay"))
        }
    }
}

impl TargetArgs {
    fn options(self) -> Result<TargetOptions> {
        let data_dir = data_dir(self.data_dir)?;
        let (keys, pid) = (self.keys, self.server_pid);
        let service = self.url.map(|url| Service { url, keys, pid });
        let device = self.engine.options(&data_dir)?;
        Ok(TargetOptions { data_dir, model: self.model, device, guest: self.guest, service })
    }
}

/// Runs `work` with a token that Ctrl-C cancels; a second Ctrl-C ends the process at once.
fn until_interrupted<T>(work: impl AsyncFnOnce(CancellationToken) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let on_signal = stop.clone();
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                if on_signal.is_cancelled() {
                    std::process::exit(130);
                }
                on_signal.cancel();
            }
        });
        work(stop).await
    })
}
