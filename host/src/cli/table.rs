//! Text for people: columns that line up, and documents cut to one line.

/// Widest start of a document that is shown.
const MAX_SNIPPET_CHARS: usize = 88;

/// Lays rows out in columns, two spaces apart; the last column runs free.
pub(super) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, &width) in cells.zip(&widths) {
            let padding = width - cell.chars().count();
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding + 2));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
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
        let rows = vec![vec!["1".to_owned(), "long cell".to_owned()], vec!["22".to_owned(), "é".to_owned()]];
        assert_eq!(columns(&["n", "text"], &rows), "n   text\n1   long cell\n22  é\n");
    }

    #[test]
    fn a_document_cannot_move_the_cursor() {
        assert_eq!(snippet("a\u{1b}[2J\nb"), "a [2J b");
        assert_eq!(snippet(&"x".repeat(200)).chars().count(), MAX_SNIPPET_CHARS + 1);
    }
}
