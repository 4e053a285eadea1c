//! `--link`: the tenant behind an import of a component.

use std::str::FromStr;

use crate::tenant::{TenantLink, TenantName};

/// The label of an import, or none, and a tenant.
#[derive(Debug, Clone)]
pub(super) struct LinkArg {
    pub(super) label: Option<String>,
    pub(super) tenant: TenantName,
}

impl FromStr for LinkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (label, tenant) = match text.split_once('=') {
            Some(("", _)) => {
                return Err("a label is missing before `=`: TENANT alone is for the import without one".to_owned());
            }
            Some((label, tenant)) => (Some(label.to_owned()), tenant),
            None => (None, text),
        };
        let tenant = tenant.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { label, tenant })
    }
}

impl From<LinkArg> for TenantLink {
    fn from(LinkArg { label, tenant }: LinkArg) -> Self {
        Self { label, tenant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_a_tenant() {
        for bad in ["news=", "=", "=acme", "news=No Tenant"] {
            assert!(bad.parse::<LinkArg>().is_err(), "{bad}");
        }
    }
}
