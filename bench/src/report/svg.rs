//! Plots as SVG. Colours are CSS variables of the page, so that a plot is legible in light and dark.

use maud::{Markup, html};

use super::block::{Axis, Mark, Plot, PlotKind, Scale, Series};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 46.0;

/// Approximate number of ticks of an axis.
const TICKS: f64 = 5.0;

/// A plot with its title and legend.
pub(super) fn figure(plot: &Plot) -> Markup {
    let names: Vec<&str> = match &plot.kind {
        PlotKind::Lines(series) | PlotKind::Stacked(series) if series.len() > 1 => {
            series.iter().map(|series| series.name.as_str()).collect()
        }
        _ => Vec::new(),
    };
    html! {
        figure {
            figcaption {
                span.title { (plot.title) }
                @for (number, name) in names.iter().enumerate() {
                    span.key { span class={ "swatch c" (number) } {} (name) }
                }
                @if let PlotKind::Scatter { marks, .. } = &plot.kind {
                    @for (number, mark) in marks.iter().enumerate() { span.key { (number + 1) ": " (mark.name) } }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(plot.title) { (drawing(plot)) }
        }
    }
}

fn drawing(plot: &Plot) -> Markup {
    match &plot.kind {
        PlotKind::Bars { bars, marks } => bar_plot(plot, bars, marks),
        PlotKind::Lines(series) => line_plot(plot, series),
        PlotKind::Stacked(series) => stacked_plot(plot, series),
        PlotKind::Scatter { marks, levels } => scatter_plot(plot, marks, levels),
        PlotKind::Heat { columns, rows, cells } => heat_plot(plot, columns, rows, cells),
    }
}

/// Maps values of an axis to positions in the drawing.
struct AxisMap {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl AxisMap {
    fn new(axis: &Axis, low: f64, high: f64, from: f64, to: f64) -> Self {
        let scale = axis.scale;
        let low = if scale == Scale::Log { low.max(1e-6) } else { low };
        let high = if high > low { high } else { low + 1.0 };
        Self { scale, low, high, from, to }
    }

    fn x(axis: &Axis, low: f64, high: f64) -> Self {
        Self::new(axis, low, high, LEFT, WIDTH - RIGHT)
    }

    /// From 0, with room above the largest value.
    fn y(axis: &Axis, high: f64) -> Self {
        let high = if high > 0.0 { high * 1.08 } else { 1.0 };
        Self::new(axis, 0.0, high, HEIGHT - BOTTOM, TOP)
    }

    fn at(&self, value: f64) -> f64 {
        let bend = |value: f64| match self.scale {
            Scale::Linear | Scale::Count => value,
            Scale::Log => value.max(1e-6).ln(),
            Scale::Percentile => -(1.0 - value / 100.0).max(1e-5).log10(),
        };
        let share = (bend(value) - bend(self.low)) / (bend(self.high) - bend(self.low));
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        let within = |ticks: Vec<f64>| -> Vec<f64> {
            ticks.into_iter().filter(|tick| (self.low..=self.high).contains(tick)).collect()
        };
        match self.scale {
            Scale::Percentile => within(vec![0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99]),
            Scale::Linear => linear_ticks(self.low, self.high),
            Scale::Count => linear_ticks(self.low, self.high).into_iter().filter(|tick| tick.fract() == 0.0).collect(),
            Scale::Log => {
                let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
                let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
                let ticks = within(steps.collect());
                // A range of less than a decade may have too few of these.
                if ticks.len() >= 3 { ticks } else { linear_ticks(self.low, self.high) }
            }
        }
    }
}

/// Round numbers between `low` and `high`.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough).unwrap_or(10.0) * power;
    let first = (low / step).ceil() as i64;
    (first..first + 20).map(|index| index as f64 * step).take_while(|tick| *tick <= high + step * 1e-9).collect()
}

fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        size if size >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn frame(plot: &Plot, x: &AxisMap, y: &AxisMap) -> Markup {
    let bottom = HEIGHT - BOTTOM;
    html! {
        @for tick in y.ticks() {
            line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(place(y.at(tick))) y2=(place(y.at(tick))) {}
            text.tick x=(LEFT - 8.0) y=(place(y.at(tick) + 4.0)) text-anchor="end" { (label(tick)) }
        }
        @for tick in x.ticks() {
            line.mark x1=(place(x.at(tick))) x2=(place(x.at(tick))) y1=(bottom) y2=(bottom + 4.0) {}
            text.tick x=(place(x.at(tick))) y=(bottom + 18.0) text-anchor="middle" { (label(tick)) }
        }
        line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(bottom) y2=(bottom) {}
        (names(plot))
    }
}

fn names(plot: &Plot) -> Markup {
    html! {
        text.name x=(WIDTH - RIGHT) y=(HEIGHT - 8.0) text-anchor="end" { (plot.x.label) }
        text.name x="4" y="12" { (plot.y.label) }
    }
}

/// A position, to a tenth of a unit: finer than a pixel.
fn place(value: f64) -> String {
    format!("{value:.1}")
}

fn bar_plot(plot: &Plot, bars: &[(f64, f64, f64)], marks: &[(String, f64)]) -> Markup {
    let (low, high) = range(bars.iter().flat_map(|bar| [bar.0, bar.1]));
    let x = AxisMap::x(&plot.x, low, high);
    let y = AxisMap::y(&plot.y, range(bars.iter().map(|bar| bar.2)).1);
    let bottom = HEIGHT - BOTTOM;
    html! {
        (frame(plot, &x, &y))
        @for (from, to, height) in bars.iter().filter(|bar| bar.2 > 0.0) {
            rect.bar x=(place(x.at(*from) + 0.5)) width=(place((x.at(*to) - x.at(*from) - 1.0).max(1.0)))
                y=(place(y.at(*height))) height=(place(bottom - y.at(*height))) rx="1.5" {
                title { (label(*from)) " to " (label(*to)) ": " (label(*height)) }
            }
        }
        @for (number, (name, value)) in marks.iter().enumerate() {
            // Names at different heights, because marks may be close together.
            @let top = TOP + 13.0 * number as f64;
            line.quantile x1=(place(x.at(*value))) x2=(place(x.at(*value))) y1=(top - 8.0) y2=(bottom) {}
            @if x.at(*value) > WIDTH * 0.8 {
                text.quantile-name x=(place(x.at(*value) - 5.0)) y=(top) text-anchor="end" { (name) " " (label(round(*value))) }
            } @else {
                text.quantile-name x=(place(x.at(*value) + 5.0)) y=(top) { (name) " " (label(round(*value))) }
            }
        }
    }
}

fn round(value: f64) -> f64 {
    if value >= 100.0 { value.round() } else { (value * 10.0).round() / 10.0 }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low.is_finite() { (low, high) } else { (0.0, 1.0) }
}

fn points(series: &[Series]) -> impl Iterator<Item = &(f64, f64)> {
    series.iter().flat_map(|series| &series.points)
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let step = |(index, (x, y)): (usize, (f64, f64))| {
        format!("{}{} {}", if index == 0 { "M" } else { "L" }, place(x), place(y))
    };
    points.enumerate().map(step).collect::<Vec<_>>().join("")
}

fn line_plot(plot: &Plot, series: &[Series]) -> Markup {
    let (low, high) = range(points(series).map(|point| point.0));
    let low = if plot.x.scale == Scale::Linear { low.min(0.0) } else { low };
    let x = AxisMap::x(&plot.x, low, high);
    let y = AxisMap::y(&plot.y, range(points(series).map(|point| point.1)).1);
    let few = points(series).count() <= 40;
    html! {
        (frame(plot, &x, &y))
        @for (number, line) in series.iter().enumerate() {
            path class={ "line l" (number) } d=(path(line.points.iter().map(|point| (x.at(point.0), y.at(point.1))))) {}
            @if few {
                @for (at, value) in &line.points {
                    circle class={ "dot c" (number) } cx=(place(x.at(*at))) cy=(place(y.at(*value))) r="3" {
                        title { (label(*at)) ": " (label(round(*value))) }
                    }
                }
            }
        }
    }
}

fn stacked_plot(plot: &Plot, series: &[Series]) -> Markup {
    let count = series.iter().map(|series| series.points.len()).min().unwrap_or(0);
    let (low, high) = range(points(series).map(|point| point.0));
    let mut floor = vec![0.0; count];
    let mut areas = Vec::new();
    for series in series {
        let top: Vec<f64> = floor.iter().zip(&series.points).map(|(floor, point)| floor + point.1).collect();
        areas.push((floor, top.clone()));
        floor = top;
    }
    let x = AxisMap::x(&plot.x, low.min(0.0), high);
    let y = AxisMap::y(&plot.y, range(floor.iter().copied()).1);
    let at = |index: usize| x.at(series[0].points[index].0);
    html! {
        (frame(plot, &x, &y))
        @for (number, (floor, top)) in areas.iter().enumerate() {
            @let there = (0..count).map(|index| (at(index), y.at(top[index])));
            @let back = (0..count).rev().map(|index| (at(index), y.at(floor[index])));
            path class={ "area c" (number) } d={ (path(there.chain(back))) "Z" } {
                title { (series[number].name) }
            }
        }
    }
}

/// The y axis spans the data and not more, because points that matter may be close together.
fn scatter_plot(plot: &Plot, marks: &[Mark], levels: &[(String, f64)]) -> Markup {
    let of_marks = marks.iter().flat_map(|mark| [mark.y.low, mark.y.high, mark.y.value]);
    let (low, high) = range(of_marks.chain(levels.iter().map(|level| level.1)));
    let room = 0.08 * (high - low).max(1e-3);
    let y = AxisMap::new(&plot.y, low - room, high + room, HEIGHT - BOTTOM, TOP);
    let most = range(marks.iter().flat_map(|mark| [mark.x.low, mark.x.high])).1;
    let x = AxisMap::x(&plot.x, 0.0, most * 1.08);
    html! {
        (frame(plot, &x, &y))
        @for (name, level) in levels {
            line.quantile x1=(LEFT) x2=(WIDTH - RIGHT) y1=(place(y.at(*level))) y2=(place(y.at(*level))) {}
            text.quantile-name x=(LEFT + 6.0) y=(place(y.at(*level) - 5.0)) { (name) }
        }
        @for (number, Mark { name, x: across, y: up }) in marks.iter().enumerate() {
            @let (at_x, at_y) = (x.at(across.value), y.at(up.value));
            @let colour = number.min(1);
            line class={ "line l" (colour) } x1=(place(x.at(across.low))) x2=(place(x.at(across.high)))
                y1=(place(at_y)) y2=(place(at_y)) {}
            line class={ "line l" (colour) } x1=(place(at_x)) x2=(place(at_x))
                y1=(place(y.at(up.low))) y2=(place(y.at(up.high))) {}
            circle class={ "dot c" (colour) } cx=(place(at_x)) cy=(place(at_y)) r="4" {
                title { (name) ": " (label(up.value)) " at " (label(round(across.value))) }
            }
            // A number, because points may be close together. The names are in the caption.
            @let beside = if number % 2 == 0 { -6.0 } else { 15.0 };
            text.name x=(place(at_x + 5.0)) y=(place(at_y + beside)) { (number + 1) }
        }
    }
}

fn heat_plot(plot: &Plot, columns: &[String], rows: &[String], cells: &[Option<f64>]) -> Markup {
    let (low, high) = range(cells.iter().flatten().copied());
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let (step_x, step_y) = (width / columns.len() as f64, height / rows.len() as f64);
    // Logarithmic, because latencies span decades.
    let share = |value: f64| {
        let (low, high, value) = (low.max(1e-6).ln(), high.max(1e-6).ln(), value.max(1e-6).ln());
        if high > low { 100.0 * (value - low) / (high - low) } else { 50.0 }
    };
    html! {
        @for (row, name) in rows.iter().enumerate() {
            // The smallest value at the bottom, as on an axis.
            @let y = TOP + step_y * (rows.len() - 1 - row) as f64;
            text.tick x=(LEFT - 8.0) y=(place(y + step_y / 2.0 + 4.0)) text-anchor="end" { (name) }
            @for (column, cell) in cells[row * columns.len()..(row + 1) * columns.len()].iter().enumerate() {
                @let x = LEFT + step_x * column as f64;
                @if let Some(value) = cell {
                    rect x=(place(x + 1.0)) y=(place(y + 1.0)) width=(place(step_x - 2.0)) height=(place(step_y - 2.0)) rx="3"
                        style={ "fill:color-mix(in oklab,var(--heat-high) " (place(share(*value))) "%,var(--heat-low))" } {
                        title { (plot.y.label) " " (name) ", " (plot.x.label) " " (columns[column]) ": " (label(round(*value))) }
                    }
                    text class=(if share(*value) > 50.0 { "cell strong" } else { "cell" })
                        x=(place(x + step_x / 2.0)) y=(place(y + step_y / 2.0 + 4.0)) text-anchor="middle" { (label(round(*value))) }
                }
            }
        }
        @for (column, name) in columns.iter().enumerate() {
            text.tick x=(place(LEFT + step_x * (column as f64 + 0.5))) y=(HEIGHT - BOTTOM + 18.0) text-anchor="middle" { (name) }
        }
        (names(plot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Interval;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(linear_ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear_ticks(0.0, 0.3).len(), 4);
        let log = AxisMap::x(&Axis::log(""), 90.0, 3_100.0).ticks();
        assert_eq!(log, [100.0, 200.0, 500.0, 1_000.0, 2_000.0]);
        assert!(AxisMap::x(&Axis::log(""), 100.0, 130.0).ticks().len() >= 3, "a narrow range still has ticks");
        assert_eq!([label(0.0), label(12_500.0), label(2e6), label(0.25)], ["0", "12.5k", "2M", "0.25"]);
    }

    #[test]
    fn an_empty_plot_has_no_invalid_numbers() {
        let zero = Interval { value: 0.0, low: 0.0, high: 0.0 };
        let still = Mark { name: "still".to_owned(), x: zero, y: zero };
        let kinds = [
            PlotKind::Lines(vec![Series { name: "a".to_owned(), points: Vec::new() }]),
            PlotKind::Stacked(vec![Series { name: "a".to_owned(), points: Vec::new() }]),
            PlotKind::Bars { bars: Vec::new(), marks: vec![("P50".to_owned(), 0.0)] },
            PlotKind::Scatter { marks: Vec::new(), levels: Vec::new() },
            PlotKind::Scatter { marks: vec![still], levels: vec![("level".to_owned(), 0.0)] },
        ];
        for kind in kinds {
            let plot = Plot { title: String::new(), x: Axis::linear("x"), y: Axis::linear("y"), kind };
            let text = figure(&plot).into_string();
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
