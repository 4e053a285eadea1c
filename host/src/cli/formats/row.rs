//! A row of a table: cells under named columns.

use std::sync::Arc;

/// The names of columns, in order.
pub(in crate::cli) type Columns = Arc<[String]>;

/// A row with the names of its columns.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Row {
    columns: Columns,
    cells: Vec<String>,
}

impl Row {
    pub(super) fn new(columns: Columns, cells: Vec<String>) -> Self {
        Self { columns, cells }
    }

    /// The cell of a column; the case of its name does not matter.
    pub(in crate::cli) fn get(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.cells.get(at).map(String::as_str)
    }

    pub(in crate::cli) fn columns(&self) -> &[String] {
        &self.columns
    }
}
