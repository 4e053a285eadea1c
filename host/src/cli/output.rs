//! The macros with which commands print, and their behaviour when the reader of standard output has gone.
//!
//! The standard library's `print!` panics if standard output is a closed pipe, as in `assay model list | head -1`.
//! These macros have the same names and replace them in every module of the command line, so a new command needs no
//! special care. Modules declared after this one see them.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use super::error::{CliError, Exit};

/// Prints to standard output. Ends the process quietly if the reader has gone.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::output::print(format_args!($($text)*)) };
}

/// Prints a line to standard output. Ends the process quietly if the reader has gone.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line to standard error. Continues if its reader has gone.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::output::note(format_args!($($text)*)) };
}

/// What `print!` does.
pub(super) fn print(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        let error = standard_output(&error);
        if error.exit != Exit::OutputClosed {
            note(format_args!("error: {error}"));
        }
        // A command prints when its work is done, so nothing is cut short.
        std::process::exit(error.exit.code());
    }
}

/// Prints a line that is shown only once. That it could not be written is an error, also where its reader has gone.
///
/// # Errors
/// Standard output is closed or full: `lost` says what is lost with it.
pub(super) fn print_once(line: &str, lost: impl FnOnce() -> String) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| {
        let lost = lost();
        CliError::failed(format!("standard output: {error}; {lost}"))
    })
}

/// What `eprintln!` does.
pub(super) fn note(text: Arguments<'_>) {
    // A failure cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{text}");
}

/// The error of a command whose standard output failed.
pub(super) fn standard_output(error: &io::Error) -> CliError {
    match error.kind() {
        ErrorKind::BrokenPipe => CliError::output_closed(),
        _ => CliError::failed(format!("standard output: {error}")),
    }
}
