//! Blocks as one HTML page: no script, nothing fetched, legible in light and dark and on paper.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::block::{Block, Headline, Table};
use super::svg;

const STYLE: &str = include_str!("report.css");

/// Tables with more rows than this are collapsed.
const LONG_TABLE_ROWS: usize = 24;

pub(super) fn render(title: &str, headline: &[Headline], blocks: &[Block]) -> String {
    // The headline comes after the facts at the top, before the first section.
    let first = blocks.iter().position(|block| matches!(block, Block::Heading(2, _))).unwrap_or(blocks.len());
    let (top, sections) = blocks.split_at(first);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Without this, browsers request an icon.
                link rel="icon" href="data:,";
                title { "assay-bench: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    @for item in top { (block(item)) }
                    div.cards { @for card in headline { (headline_card(card)) } }
                    nav { @for (id, title) in contents(sections) { a href={ "#" (id) } { (title) } } }
                }
                main { (body(sections)) }
            }
        }
    };
    page.into_string()
}

/// Small titled tables go side by side if there is room.
fn body(mut blocks: &[Block]) -> Markup {
    let mut parts: Vec<Markup> = Vec::new();
    html! {
        @while let Some((first, rest)) = blocks.split_first() {
            @let part = matches!(blocks, [Block::Heading(4, _), Block::Table(_), ..]);
            @if part {
                @let () = parts.push(html! { section { (block(first)) (block(&rest[0])) } });
                @let () = blocks = &rest[1..];
            } @else {
                (parts_side_by_side(&mut parts))
                (block(first))
                @let () = blocks = rest;
            }
        }
        (parts_side_by_side(&mut parts))
    }
}

fn parts_side_by_side(parts: &mut Vec<Markup>) -> Markup {
    html! { @if !parts.is_empty() { div.parts { @for part in parts.drain(..) { (part) } } } }
}

fn headline_card(card: &Headline) -> Markup {
    html! {
        div.card {
            div.label { (card.label) }
            div.value { (card.value) " " span.unit { (card.unit) } }
            div.note { (card.note) }
        }
    }
}

fn contents(blocks: &[Block]) -> impl Iterator<Item = (String, &str)> {
    blocks.iter().filter_map(|block| match block {
        Block::Heading(2, title) => Some((identifier(title), title.as_str())),
        _ => None,
    })
}

fn identifier(title: &str) -> String {
    title.to_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
}

fn block(block: &Block) -> Markup {
    match block {
        Block::Heading(1, title) => html! { h1 { (title) } },
        Block::Heading(2, title) => html! { h2 id=(identifier(title)) { (title) } },
        Block::Heading(3, title) => html! { h3 { (title) } },
        Block::Heading(_, title) => html! { h4 { (title) } },
        Block::Paragraph(text) => html! { p { (inline(text)) } },
        Block::Facts(facts) => html! {
            dl { @for (name, value) in facts { div { dt { (name) } dd { (inline(value)) } } } }
        },
        Block::Table(data) if data.rows.len() > LONG_TABLE_ROWS => html! {
            details { summary { (data.rows.len()) " rows" } (table(data)) }
        },
        Block::Table(data) => table(data),
        Block::Plots(plots) => html! { div.plots { @for plot in plots { (svg::figure(plot)) } } },
    }
}

fn table(data: &Table) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { @for name in &data.header { th { (name) } } } }
                tbody { @for row in &data.rows { tr { @for cell in row { td { (inline(cell)) } } } } }
            }
        }
    }
}

/// The Markdown that blocks use within a line: `code`, and emphasis, which HTML drops.
fn inline(text: &str) -> Markup {
    let plain = |text: &str| text.replace("**", "");
    let text = text.strip_prefix('_').and_then(|text| text.strip_suffix('_')).unwrap_or(text);
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (plain(part)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_code_is_marked() {
        let markup = inline("**a** `b<c>` <d>").into_string();
        assert_eq!(markup, "a <code>b&lt;c&gt;</code> &lt;d&gt;");
    }
}
