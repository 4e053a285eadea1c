//! `assay top`: what a server on this machine is doing, live in a terminal, over the admin socket.

mod screen;

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use termion::event::{Event, Key};
use termion::input::TermRead;
use termion::raw::IntoRawMode;
use termion::screen::IntoAlternateScreen;

use super::error::CliError;
use super::orders;
use super::output::standard_output;
use crate::dashboard::Window;
use screen::{Change, View};

/// Default time between two looks.
const DEFAULT_SECONDS: f64 = 1.0;

/// Width and height where there is no terminal.
const NO_TERMINAL: (u16, u16) = (120, 40);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_SECONDS, value_parser = seconds)]
    interval: f64,
    /// Print one screen, of the time between two looks, and end
    #[arg(long)]
    once: bool,
    /// Show only tenants whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=60.0).contains(&seconds) { Ok(seconds) } else { Err("must be 0.1 to 60".to_owned()) }
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let (mut window, mut view) = (Window::default(), View::new(args.filter.clone()));
    let interval = Duration::from_secs_f64(args.interval);
    look(data_dir, &mut window, &mut view)?;
    if args.once || !io::stdout().is_terminal() {
        std::thread::sleep(interval);
        look(data_dir, &mut window, &mut view)?;
        let (width, _) = termion::terminal_size().unwrap_or(NO_TERMINAL);
        for line in view.lines(width.max(NO_TERMINAL.0).into(), usize::MAX) {
            println!("{}", line.text.trim_end());
        }
        return Ok(());
    }
    let failed = |error: io::Error| standard_output(&error);
    let raw = io::stdout().into_raw_mode().and_then(IntoAlternateScreen::into_alternate_screen);
    let mut out = termion::cursor::HideCursor::from(raw.map_err(failed)?);
    let keys = keys();
    loop {
        draw(&mut out, &view).map_err(failed)?;
        let next = Instant::now() + interval;
        loop {
            match keys.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(key) => match view.press(key) {
                    Change::Quit => return Ok(()),
                    Change::Screen => draw(&mut out, &view).map_err(failed)?,
                    Change::None => {}
                },
                Err(RecvTimeoutError::Timeout) => break,
                // The terminal has gone.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        if !view.is_paused() {
            look(data_dir, &mut window, &mut view)?;
        }
    }
}

/// Asks the server once.
fn look(data_dir: &Path, window: &mut Window, view: &mut View) -> Result<(), CliError> {
    let snapshot = orders::server_snapshot(data_dir)?;
    let snapshot = snapshot.ok_or_else(|| CliError::failed(format!("no server runs on {}", data_dir.display())))?;
    let sample = window.push(snapshot.clone());
    view.show(snapshot, sample.unwrap_or_default());
    Ok(())
}

/// The keys that are pressed, read by a thread of its own, which ends with the process.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for event in io::stdin().lock().by_ref().events() {
            match event {
                Ok(Event::Key(key)) if sender.send(key).is_ok() => {}
                Ok(Event::Mouse(_) | Event::Unsupported(_)) => {}
                _ => return,
            }
        }
    });
    receiver
}

fn draw(out: &mut impl Write, view: &View) -> io::Result<()> {
    let (width, height) = termion::terminal_size().unwrap_or(NO_TERMINAL);
    write!(out, "{}", termion::cursor::Goto(1, 1))?;
    let lines = view.lines(width.into(), height.into());
    for (row, line) in lines.iter().enumerate() {
        let (on, off) = match line.is_marked {
            true => (termion::style::Invert.to_string(), termion::style::Reset.to_string()),
            false => Default::default(),
        };
        let end = if row + 1 < lines.len() { "\r\n" } else { "" };
        write!(out, "{on}{}{off}{}{end}", line.text, termion::clear::UntilNewline)?;
    }
    write!(out, "{}", termion::clear::AfterCursor)?;
    out.flush()
}
