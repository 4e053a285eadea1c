//! The parts of a report, before they are Markdown or HTML.

use crate::stats::Interval;

/// One part of a report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    /// A heading of level 1 to 4.
    Heading(u8, String),
    /// Plain text.
    Paragraph(String),
    /// Names and values, one a line.
    Facts(Vec<(&'static str, String)>),
    /// A table.
    Table(Table),
    /// Plots side by side; not in Markdown.
    Plots(Vec<Plot>),
}

/// A table. The first column is text, the others are numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// A figure at the top of the page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Headline {
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) unit: &'static str,
    pub(super) note: String,
}

/// A plot's data.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) kind: PlotKind,
}

/// An axis. Its range is that of the data.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// From 0, in whole numbers.
    Count,
    /// Logarithmic.
    Log,
    /// Percentiles, by the logarithm of the distance to 100: each step to the right is ten times as rare.
    Percentile,
}

/// The kind of a plot, with its data.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PlotKind {
    /// Bars (from, to, height), and marked values.
    Bars { bars: Vec<(f64, f64, f64)>, marks: Vec<(String, f64)> },
    /// Lines through points.
    Lines(Vec<Series>),
    /// Areas on top of each other, with the same x.
    Stacked(Vec<Series>),
    /// Named points with an interval on each axis, and levels of y without an x.
    Scatter { marks: Vec<Mark>, levels: Vec<(String, f64)> },
    /// A value, or `None`, for each pair of names, row by row.
    Heat { columns: Vec<String>, rows: Vec<String>, cells: Vec<Option<f64>> },
}

/// Named points.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A named point.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    pub(super) name: String,
    pub(super) x: Interval,
    pub(super) y: Interval,
}

impl Axis {
    pub(super) fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Linear }
    }

    pub(super) fn count(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Count }
    }

    pub(super) fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Log }
    }
}
