//! Blocks as Markdown.

use std::fmt::Write as _;

use super::block::{Block, Table};

pub(super) fn render(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        block_text(&mut text, block);
    }
    text
}

fn block_text(text: &mut String, block: &Block) {
    // Writing to a string cannot fail.
    let _ = match block {
        Block::Heading(level, title) => write!(text, "{} {title}\n\n", "#".repeat(usize::from(*level))),
        Block::Paragraph(paragraph) => write!(text, "{paragraph}\n\n"),
        Block::Facts(facts) => facts.iter().try_for_each(|(name, value)| write!(text, "**{name}:** {value}\n\n")),
        Block::Table(table) => table_text(text, table),
        Block::Plots(_) => Ok(()),
    };
}

fn table_text(text: &mut String, table: &Table) -> std::fmt::Result {
    let line = |cells: &[String]| {
        // A bar would end the cell.
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    text.push_str(&line(&table.header));
    writeln!(text, "|{}", "---|".repeat(table.header.len()))?;
    for row in &table.rows {
        text.push_str(&line(row));
    }
    writeln!(text)
}
