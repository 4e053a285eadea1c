//! The options of a server's log.

use clap::ValueEnum;
use clap::builder::BoolishValueParser;

use crate::telemetry::logs::{Filter, Format, LogOptions};

/// Default levels: what an operator should know, and nothing for each request.
const DEFAULT_LEVEL: &str = "info";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct LogArgs {
    /// Form of the log, on standard error: text is for people, json is one object a line
    #[arg(long, env = "ASSAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Least level of the log's lines: error, warn, info, debug or off; or by module, as in warn,assay::http=debug
    #[arg(long, env = "ASSAY_LOG", value_name = "LEVEL", default_value = DEFAULT_LEVEL)]
    log_level: Filter,
    /// Write a line for each request: its id, path, tenant, status and times, and nothing of its texts
    #[arg(long, env = "ASSAY_ACCESS_LOG", value_parser = BoolishValueParser::new())]
    access_log: bool,
}

/// The form of lines, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    pub(super) fn options(&self) -> LogOptions {
        let format = match self.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        LogOptions { format, filter: self.log_level.clone(), access: self.access_log }
    }
}
