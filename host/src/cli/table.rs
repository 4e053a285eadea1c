//! Text for people: aligned columns, and documents cut to one line.

use comfy_table::{Table, presets};

/// Most characters shown of a document.
const MAX_SNIPPET_CHARS: usize = 88;

/// Rows in columns, two spaces apart. Uses terminal widths: some characters take two cells or none.
pub(super) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The start of a text on one line, free of control characters that could move a terminal's cursor.
pub(super) fn snippet(text: &str) -> String {
    let mut chars = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut snippet: String = chars.by_ref().take(MAX_SNIPPET_CHARS).collect();
    if chars.next().is_some() {
        snippet.push('…');
    }
    snippet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["1", "long cell", "x"]), row(["22", "東京", "y"])];
        assert_eq!(columns(&["n", "text", ""], &rows), "n   text\n1   long cell  x\n22  東京       y\n");
    }

    #[test]
    fn a_document_cannot_move_the_cursor() {
        assert_eq!(snippet("a\u{1b}[2J\nb"), "a [2J b");
        assert_eq!(snippet(&"x".repeat(200)).chars().count(), MAX_SNIPPET_CHARS + 1);
    }
}
