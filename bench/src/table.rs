//! Tables on standard output, as Markdown with aligned columns: readable in a terminal and in an issue.

use comfy_table::{CellAlignment, Table, presets};

/// A table. The first column is aligned left, the others right.
#[must_use]
pub fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = markdown(&["a", "bb"], &[vec!["long".to_owned(), "1".to_owned()]]);
        assert_eq!(table, "| a    | bb |\n|------|----|\n| long |  1 |\n");
    }
}
