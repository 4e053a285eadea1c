//! Writes out the marked loops of a shader, so that no compiler has to unroll a loop over registers.
//!
//! A register array that a loop indexes lies in memory unless the driver's compiler unrolls that loop. On Metal that is
//! doubtful: naga writes every loop as `while (true)` with a gate. So a loop over registers has a header that ends in
//! `// unrolled`, and this step replaces it by its trips before naga sees the source:
//!
//! ```wgsl
//! for (var r = 0u; r < ROWS; r++) { // unrolled        { // r = 0
//!     sums[r] = bias[column4];                 ──▶         sums[0u] = bias[column4];
//! }                                                    } …
//! ```
//!
//! The loop counts from `0u` to a constant expression, by `++` or `+= N`; its `}` stands under its `for`. A marked loop
//! is ordinary WGSL, so sources read and work without this step. Only `shader::source` calls it.

use std::collections::BTreeMap;

/// Ends the header of a loop to write out.
const MARK: &str = " { // unrolled";

/// The shader's constants of type u32.
type Constants = BTreeMap<String, u32>;

/// A marked loop's header.
#[derive(Debug, PartialEq, Eq)]
struct Header<'a> {
    indent: &'a str,
    variable: &'a str,
    end: u32,
    step: u32,
}

/// `source` with every marked loop written out.
///
/// # Panics
/// A marked loop has another form than this module describes. Sources are the crate's own, and tests write out each.
pub(super) fn unrolled(source: &str) -> String {
    let mut constants = Constants::new();
    for line in source.lines() {
        if let Some((name, value)) = constant(line, &constants) {
            constants.insert(name, value);
        }
    }
    let lines: Vec<String> = source.lines().map(str::to_owned).collect();
    let mut written = Vec::new();
    write_out(&lines, &constants, &mut written);
    written.join("\n")
}

fn write_out(lines: &[String], constants: &Constants, written: &mut Vec<String>) {
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        if !line.ends_with(MARK) {
            written.push(line.clone());
            continue;
        }
        let Some(Header { indent, variable, end, step }) = header(line, constants) else {
            panic!("a marked loop counts from 0u to a constant: {line:?}");
        };
        let close = format!("{indent}}}");
        let Some(length) = lines[at..].iter().position(|line| *line == close) else {
            panic!("no line ends the marked loop: {line:?}");
        };
        let body = &lines[at..at + length];
        at += length + 1;
        for number in (0..end).step_by(step as usize) {
            written.push(format!("{indent}{{ // {variable} = {number}"));
            let code = body.iter().filter(|line| !line.trim_start().starts_with("//"));
            let trip: Vec<String> = code.map(|line| with_number(line, variable, number)).collect();
            write_out(&trip, constants, written);
            written.push(close.clone());
        }
    }
}

/// `const NAME: u32 = EXPRESSION;` where the expression's names are known.
fn constant(line: &str, constants: &Constants) -> Option<(String, u32)> {
    let (name, expression) = line.strip_prefix("const ")?.split_once(": u32 = ")?;
    Some((name.to_owned(), value(expression.strip_suffix(';')?, constants)?))
}

/// `for (var NAME = 0u; NAME < END; NAME++)` or `NAME += STEP`.
fn header<'a>(line: &'a str, constants: &Constants) -> Option<Header<'a>> {
    let text = line.trim_start();
    let indent = &line[..line.len() - text.len()];
    let head = text.strip_suffix(MARK)?.strip_prefix("for (var ")?.strip_suffix(')')?;
    let (variable, rest) = head.split_once(" = 0u; ")?;
    let (end, step) = rest.strip_prefix(variable)?.strip_prefix(" < ")?.split_once("; ")?;
    let step = match step.strip_prefix(variable)? {
        "++" => 1,
        step => value(step.strip_prefix(" += ")?, constants)?,
    };
    (step > 0).then_some(Header { indent, variable, end: value(end, constants)?, step })
}

/// The line with a number in place of a variable. Members of the same name, after a dot, stay.
fn with_number(line: &str, variable: &str, number: u32) -> String {
    let mut written = String::with_capacity(line.len());
    for token in tokens(line) {
        match token == variable && !written.ends_with('.') {
            true => written.push_str(&format!("{number}u")),
            false => written.push_str(token),
        }
    }
    written
}

/// The value of an expression of numbers, names, `+ - * / %` and parentheses.
fn value(expression: &str, constants: &Constants) -> Option<u32> {
    let all: Vec<&str> = tokens(expression).into_iter().filter(|token| !token.trim().is_empty()).collect();
    let mut rest = &all[..];
    let sum = sum(&mut rest, constants)?;
    rest.is_empty().then_some(sum)
}

fn sum(rest: &mut &[&str], constants: &Constants) -> Option<u32> {
    let mut sum = product(rest, constants)?;
    while let [operator @ ("+" | "-"), after @ ..] = *rest {
        *rest = after;
        let next = product(rest, constants)?;
        sum = if *operator == "+" { sum.checked_add(next)? } else { sum.checked_sub(next)? };
    }
    Some(sum)
}

fn product(rest: &mut &[&str], constants: &Constants) -> Option<u32> {
    let mut product = factor(rest, constants)?;
    while let [operator @ ("*" | "/" | "%"), after @ ..] = *rest {
        *rest = after;
        let next = factor(rest, constants)?;
        product = match *operator {
            "*" => product.checked_mul(next)?,
            "/" => product.checked_div(next)?,
            _ => product.checked_rem(next)?,
        };
    }
    Some(product)
}

fn factor(rest: &mut &[&str], constants: &Constants) -> Option<u32> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    if *first != "(" {
        let number = first.strip_suffix('u').and_then(|digits| digits.parse().ok());
        return number.or_else(|| constants.get(*first).copied());
    }
    let inner = sum(rest, constants)?;
    let (")", after) = rest.split_first().map(|(first, after)| (*first, after))? else { return None };
    *rest = after;
    Some(inner)
}

/// The words of a line, and each character between them.
fn tokens(line: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (token, after) = rest.split_at(word.max(first.len_utf8()));
        tokens.push(token);
        rest = after;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_loop_becomes_its_trips() {
        let source = "\
const ROWS: u32 = 2u;
    for (var r = 0u; r < ROWS; r++) { // unrolled
        // Each row.
        sums[r] = x.r + row[r + 1u] * other;
    }
    end();";
        let expected = "\
const ROWS: u32 = 2u;
    { // r = 0
        sums[0u] = x.r + row[0u + 1u] * other;
    }
    { // r = 1
        sums[1u] = x.r + row[1u + 1u] * other;
    }
    end();";
        assert_eq!(unrolled(source), expected);
    }

    #[test]
    fn loops_within_loops_may_depend_on_the_outer_one() {
        let source = "\
for (var i = 0u; i < 2u; i++) { // unrolled
    for (var j = 0u; j < i + 1u; j++) { // unrolled
        at(i, j);
    }
}";
        let calls: Vec<String> = unrolled(source).lines().filter(|l| l.contains("at(")).map(str::to_owned).collect();
        assert_eq!(calls, ["        at(0u, 0u);", "        at(1u, 0u);", "        at(1u, 1u);"]);
    }

    #[test]
    fn bounds_and_steps_are_expressions_of_constants() {
        let source = "\
const RUN: u32 = 4u;
const STEPS: u32 = 32u / RUN - (1u + RUN % 3u);
for (var k = 0u; k < STEPS; k += RUN / 2u) { // unrolled
    at(k);
}";
        let calls: Vec<String> = unrolled(source).lines().filter(|l| l.contains("at(")).map(str::to_owned).collect();
        assert_eq!(calls, ["    at(0u);", "    at(2u);", "    at(4u);"]);
    }

    #[test]
    fn other_loops_stay() {
        let source = "for (var k = 0u; k < K; k++) {\n    at(k);\n}";
        assert_eq!(unrolled(source), source);
    }

    #[test]
    #[should_panic(expected = "counts from 0u to a constant")]
    fn a_marked_loop_to_an_unknown_end_is_refused() {
        unrolled("override K: u32 = 4u;\nfor (var k = 0u; k < K; k++) { // unrolled\n}");
    }

    #[test]
    #[should_panic(expected = "no line ends")]
    fn a_marked_loop_without_an_end_is_refused() {
        unrolled("    for (var k = 0u; k < 2u; k++) { // unrolled\n}");
    }
}
