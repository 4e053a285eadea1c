//! A tenant's name, decoded once. It appears in keys, messages and metrics, so it is short and plain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name: as long as a DNS label.
const MAX_NAME_BYTES: usize = 63;

/// A tenant's name: lower-case letters, digits and '-', beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(String);

/// Why a text is not a tenant's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a tenant's name: use lower-case letters, digits and '-', first a letter or digit, at most {MAX_NAME_BYTES} bytes"
)]
pub struct NameError {
    /// The text.
    name: String,
}

impl TenantName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = name.bytes().next().is_some_and(plain);
        if !first || name.len() > MAX_NAME_BYTES || !name.bytes().all(|byte| plain(byte) || byte == b'-') {
            return Err(NameError { name: name.chars().take(2 * MAX_NAME_BYTES).collect() });
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for TenantName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        name.parse()
    }
}

impl From<TenantName> for String {
    fn from(name: TenantName) -> Self {
        name.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "acme-search-2", "0x", &"a".repeat(63)] {
            assert!(name.parse::<TenantName>().is_ok(), "{name}");
        }
        for name in ["", "-a", "A", "a/b", "a b", "ä", "..", &"a".repeat(64)] {
            assert!(name.parse::<TenantName>().is_err(), "{name}");
        }
    }
}
