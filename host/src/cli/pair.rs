//! Options that take a name and a value: `--env LANG=en`, `--set label=1`.

/// A name and a value, divided by the first `=`.
///
/// # Errors
/// There is no name, or no `=`.
pub(super) fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_divides_and_a_name_is_needed() {
        assert_eq!(name_and_value("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(name_and_value("A="), Ok(("A".to_owned(), String::new())));
        assert!(name_and_value("=x").is_err() && name_and_value("x").is_err());
    }
}
