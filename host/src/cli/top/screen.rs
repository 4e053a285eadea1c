//! What `assay top` shows: lines of text for a size of the screen, and what keys change.

use termion::event::Key;

use crate::dashboard::{Sample, TenantSample};
use crate::tenant::Snapshot;

/// A column of the table: title, width, value, and how many decimals it has.
type Column = (&'static str, usize, fn(&TenantSample) -> f64, usize);

/// The columns after the tenant's name.
const COLUMNS: [Column; 12] = [
    ("REQ/S", 8, |it| it.value("requests_per_s").into(), 1),
    ("PAIRS/S", 9, |it| it.value("pairs_per_s").into(), 1),
    ("TOKENS/S", 10, |it| it.value("tokens_per_s").into(), 0),
    ("P50 MS", 8, |it| it.value("p50_ms").into(), 1),
    ("P95 MS", 8, |it| it.value("p95_ms").into(), 1),
    ("FAIL/S", 7, |it| it.value("failed_per_s").into(), 1),
    ("DEVICE%", 8, |it| it.device_percent.into(), 1),
    ("RUN", 5, |it| it.usage.running as f64, 0),
    ("WAIT", 5, |it| it.usage.waiting as f64, 0),
    ("QUEUED", 8, |it| it.usage.queued_tokens as f64, 0),
    ("MB", 7, |it| it.usage.guest_memory_bytes as f64 / 1e6, 1),
    ("ANSWERED", 10, |it| it.usage.answered as f64, 0),
];

/// Narrowest column of names.
const MIN_NAME: usize = 12;

/// Lines of the screen that are not the table's rows: above it, and the keys below.
const KEYS: &str = "q quit  p pause  s sort by the next column  r turn the order  / filter  up, down";

/// A line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Whether it stands out.
    pub(super) is_marked: bool,
}

/// What a key has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Screen,
    Quit,
}

/// What is shown, and how.
#[derive(Debug)]
pub(super) struct View {
    snapshot: Option<Snapshot>,
    sample: Sample,
    filter: String,
    is_typing: bool,
    is_paused: bool,
    /// The column that rows are sorted by; 0 is the name.
    sort: usize,
    is_ascending: bool,
    first_row: usize,
}

impl View {
    pub(super) fn new(filter: String) -> Self {
        let (snapshot, sample) = Default::default();
        Self {
            snapshot,
            sample,
            filter,
            is_typing: false,
            is_paused: false,
            sort: 1,
            is_ascending: false,
            first_row: 0,
        }
    }

    pub(super) fn show(&mut self, snapshot: Snapshot, sample: Sample) {
        (self.snapshot, self.sample) = (Some(snapshot), sample);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) fn press(&mut self, key: Key) -> Change {
        match key {
            Key::Ctrl('c') => return Change::Quit,
            Key::Char('\n') | Key::Esc if self.is_typing => {
                self.is_typing = false;
                if key == Key::Esc {
                    self.filter.clear();
                }
            }
            Key::Backspace if self.is_typing => drop(self.filter.pop()),
            Key::Char(character) if self.is_typing => self.filter.push(character),
            Key::Char('q') => return Change::Quit,
            Key::Char('p' | ' ') => self.is_paused = !self.is_paused,
            Key::Char('s') => {
                self.sort = (self.sort + 1) % (COLUMNS.len() + 1);
                self.is_ascending = self.sort == 0;
            }
            Key::Char('r') => self.is_ascending = !self.is_ascending,
            Key::Char('/') => self.is_typing = true,
            Key::Down => self.first_row = (self.first_row + 1).min(self.rows().len().saturating_sub(1)),
            Key::Up => self.first_row = self.first_row.saturating_sub(1),
            _ => return Change::None,
        }
        Change::Screen
    }

    /// The screen's lines, none wider or more than it has.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        let plain = |text: String| Line { text: cut(&text, width), is_marked: false };
        let mut lines: Vec<Line> = self.summary().into_iter().map(plain).collect();
        let name_width = self.name_width(width);
        lines.push(Line { text: cut(&self.header(name_width), width), is_marked: true });
        let rows = self.rows();
        let room = height.saturating_sub(lines.len() + 1);
        let first = self.first_row.min(rows.len().saturating_sub(1));
        lines.extend(rows.iter().skip(first).take(room).map(|tenant| plain(row(tenant, name_width))));
        lines.push(plain(match self.is_typing {
            true => format!("filter: {}_", self.filter),
            false if self.filter.is_empty() => KEYS.to_owned(),
            false => format!("{KEYS}  [{}]", self.filter),
        }));
        lines.truncate(height);
        lines
    }

    fn summary(&self) -> Vec<String> {
        let Some(now) = &self.snapshot else { return Vec::new() };
        let value = |name: &str| self.sample.value(name);
        let number = |name: &str, decimals: usize| figure(value(name).into(), decimals);
        let counts = now.tenant_counts;
        let state = if self.is_paused { "paused" } else { "live" };
        let mut lines = vec![format!(
            "assay {}, {state}   up {}   tenants: {} serve, {} start, {} failed",
            now.version,
            duration(now.uptime_seconds),
            counts.serving,
            counts.starting,
            counts.failed
        )];
        if let Some(device) = &now.device {
            let megabytes = |bytes: u64| figure(bytes as f64 / 1e6, 0);
            lines.push(format!(
                "device    {} ({})   busy {} %   {} % of its best, {} GFLOP/s   memory {} of {} MB",
                device.status.device,
                device.status.engine,
                number("utilization_percent", 1),
                number("peak_percent", 1),
                figure(device.work.best_flops_per_s / 1e9, 1),
                megabytes(device.status.memory_used_bytes),
                megabytes(device.status.memory_budget_bytes),
            ));
            lines.push(format!(
                "queue     {} tokens of {} requests wait, the oldest {} ms   padding avoided {} %",
                device.status.waiting_tokens,
                device.queued_requests,
                figure(device.oldest_queued_seconds * 1e3, 0),
                number("padding_avoided_percent", 1),
            ));
        }
        lines.push(format!(
            "requests  {}/s answered, {}/s failed   {} pairs/s   {} tokens/s   p50 {}  p95 {}  p99 {} ms",
            number("requests_per_s", 1),
            number("failed_per_s", 1),
            number("pairs_per_s", 1),
            number("tokens_per_s", 0),
            number("p50_ms", 1),
            number("p95_ms", 1),
            number("p99_ms", 1),
        ));
        lines.push(format!(
            "stages    tokenization {} ms   queue {} ms   inference {} ms   since the start: {} answered, {} failed",
            number("tokenization_ms", 1),
            number("queue_ms", 1),
            number("inference_ms", 1),
            now.all.usage.answered,
            now.all.usage.failed,
        ));
        lines.push(format!(
            "process   CPU {} %   {} MB   {} files   {} connections, {} busy   guests {} of {}, {} of {} MB",
            number("cpu_percent", 1),
            number("process_memory_mb", 0),
            now.process.open_files.map_or_else(|| "-".to_owned(), |files| files.to_string()),
            now.http.open,
            now.http.busy,
            now.guests.instances,
            now.guests.max_instances,
            figure(now.guests.memory_bytes as f64 / 1e6, 0),
            figure(now.guests.memory_budget_bytes as f64 / 1e6, 0),
        ));
        let named = |counts: &std::collections::BTreeMap<String, u64>| {
            let named: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            if named.is_empty() { "none".to_owned() } else { named.join(", ") }
        };
        lines.push(format!("faults    {}   limits met: {}", named(&now.all.faults), named(&now.all.limits)));
        lines.push(String::new());
        lines
    }

    fn name_width(&self, width: usize) -> usize {
        let columns: usize = COLUMNS.iter().map(|(_, width, ..)| width).sum();
        let longest = self.sample.tenants.iter().map(|tenant| tenant.name.chars().count()).max().unwrap_or(0);
        longest.max(MIN_NAME).min(width.saturating_sub(columns).max(MIN_NAME))
    }

    fn header(&self, name_width: usize) -> String {
        let mark = |index: usize| match (self.sort == index, self.is_ascending) {
            (false, _) => "",
            (true, true) => "^",
            (true, false) => "v",
        };
        let mut text = format!("{:<name_width$}", format!("TENANT{}", mark(0)));
        for (index, (title, width, ..)) in COLUMNS.iter().enumerate() {
            text += &format!("{:>width$}", format!("{title}{}", mark(index + 1)));
        }
        text
    }

    /// The tenants that are shown, in their order.
    fn rows(&self) -> Vec<&TenantSample> {
        let mut rows: Vec<&TenantSample> =
            self.sample.tenants.iter().filter(|tenant| tenant.name.contains(&self.filter)).collect();
        // Values that are not known come last.
        let rank = |tenant: &TenantSample| {
            let value = self.sort.checked_sub(1).map_or(0.0, |column| COLUMNS[column].2(tenant));
            if value.is_nan() { f64::NEG_INFINITY } else { value }
        };
        rows.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
        if !self.is_ascending {
            rows.reverse();
        }
        rows
    }
}

fn row(tenant: &TenantSample, name_width: usize) -> String {
    let mut text = format!("{:<name_width$}", cut(&tenant.name, name_width));
    for (_, width, read, decimals) in COLUMNS {
        text += &format!("{:>width$}", figure(read(tenant), decimals));
    }
    text
}

fn figure(value: f64, decimals: usize) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.decimals$}") }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A text without what is beyond a width.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::sample_of;

    fn view(tenants: &[(&str, u64)]) -> View {
        let mut view = View::new(String::new());
        view.sample = sample_of(0, tenants);
        view
    }

    fn names(view: &View) -> Vec<&str> {
        view.rows().iter().map(|tenant| tenant.name.as_str()).collect()
    }

    #[test]
    fn keys_sort_filter_pause_and_quit() {
        let mut view = view(&[("acme", 1), ("beta", 3), ("gamma", 2)]);
        for _ in 1..COLUMNS.len() {
            view.press(Key::Char('s'));
        }
        assert_eq!(names(&view), ["beta", "gamma", "acme"], "by requests answered, most first");
        view.press(Key::Char('r'));
        assert_eq!(names(&view), ["acme", "gamma", "beta"]);
        view.press(Key::Char('s'));
        assert_eq!(names(&view), ["acme", "beta", "gamma"], "by name");
        for key in [Key::Char('/'), Key::Char('m'), Key::Char('q'), Key::Backspace, Key::Char('\n')] {
            assert_eq!(view.press(key), Change::Screen);
        }
        assert_eq!(names(&view), ["acme", "gamma"]);
        view.press(Key::Char('p'));
        assert!(view.is_paused());
        assert_eq!(view.press(Key::Char('q')), Change::Quit);
    }

    #[test]
    fn a_screen_is_never_wider_or_higher_than_the_terminal() {
        let many: Vec<(String, u64)> = (0..100).map(|number| (format!("tenant-{number}"), number)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(name, answered)| (name.as_str(), *answered)).collect();
        let mut view = view(&many);
        for (width, height) in [(120, 40), (80, 24), (20, 5), (1, 1), (0, 0)] {
            let lines = view.lines(width, height);
            assert!(lines.len() <= height && lines.iter().all(|line| line.text.chars().count() <= width));
        }
        for _ in 0..200 {
            view.press(Key::Down);
        }
        assert!(view.lines(120, 10).len() > 2, "the last tenant stays in sight");
    }
}
