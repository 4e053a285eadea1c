//! Names of components in registries: `oci://HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`.

use std::fmt;

use super::OciError;

/// What a reference begins with.
pub(crate) const SCHEME: &str = "oci://";

/// Longest reference.
const MAX_BYTES: usize = 512;

/// Longest tag.
const MAX_TAG_BYTES: usize = 128;

/// Most characters of a wrong reference in a message.
const MAX_SHOWN: usize = 120;

/// A name, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) host: String,
    pub(super) name: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<String>,
}

/// Whether an argument names a component elsewhere than in a file. [`Reference::parse`] says what is wrong with others
/// than `oci://`.
#[must_use]
pub(crate) fn is_reference(argument: &str) -> bool {
    argument.contains("://")
}

/// Whether it is one of sha256.
pub(super) fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `HOST[:PORT]` is this machine.
pub(super) fn is_here(host: &str) -> bool {
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn parse(argument: &str) -> Result<Self, OciError> {
        let wrong = |why: &str| {
            let shown: String = argument.escape_default().take(MAX_SHOWN).collect();
            OciError::Reference { reference: format!("\"{shown}\""), why: why.to_owned() }
        };
        let Some(rest) = argument.strip_prefix(SCHEME) else {
            return Err(wrong("a component in a registry is named oci://HOST/NAME"));
        };
        if argument.len() > MAX_BYTES {
            return Err(wrong(&format!("it has {} bytes, and a reference may have {MAX_BYTES}", argument.len())));
        }
        let Some((host, path)) = rest.split_once('/') else {
            return Err(wrong("name the registry's host and the component: oci://HOST/NAME"));
        };
        if host.contains('@') {
            // It may have a password, so it is not shown.
            let why = "credentials belong into Docker's config.json, and not into a reference";
            return Err(OciError::Reference { reference: SCHEME.to_owned() + "…", why: why.to_owned() });
        }
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        // Other tools take a first part that is no host for a name in a registry of their own.
        if !(host.contains(['.', ':']) || host == "localhost") || !host.bytes().all(is_host) {
            return Err(wrong("name the registry's host first: oci://HOST/NAME"));
        }
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(wrong("a port is a number up to 65535"));
        }
        let (path, digest) = match path.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => (path, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong("a digest is sha256: and 64 digits, 0 to 9 and a to f"));
        }
        let (name, tag) = match path.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (path, None),
        };
        let is_tag = |tag: &str| {
            let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !tag.is_empty() && tag.len() <= MAX_TAG_BYTES && tag.bytes().all(is_of_it) && !tag.starts_with(['.', '-'])
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag has at most 128 letters, digits, dots, hyphens and underscores"));
        }
        let is_part = |part: &str| {
            let is_of_it = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let separators = |byte: u8| b"._-".contains(&byte);
            part.bytes().all(|byte| is_of_it(byte) || separators(byte))
                && part.bytes().next().is_some_and(is_of_it)
                && part.bytes().last().is_some_and(is_of_it)
                && !part.contains("..")
        };
        if !name.split('/').all(is_part) {
            return Err(wrong(
                "a name has lower-case letters, digits, and between them dots, hyphens, underscores and slashes",
            ));
        }
        Ok(Self {
            host: host.to_owned(),
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Whether the registry is on this machine.
    pub(super) fn is_here(&self) -> bool {
        is_here(&self.host)
    }

    /// An error of this reference.
    pub(super) fn refused(&self, why: &str) -> OciError {
        OciError::Reference { reference: self.to_string(), why: why.to_owned() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let pinned = format!("oci://ghcr.io/acme/guest@{digest}");
        for reference in [
            "oci://localhost/a/b:1",
            "oci://127.0.0.1:5000/guest:latest",
            "oci://[::1]:5000/guest",
            "oci://ghcr.io/acme/a-b_c.d:V1.0",
            &pinned,
        ] {
            assert_eq!(Reference::parse(reference).unwrap().to_string(), reference);
        }
        let read = Reference::parse(&pinned).unwrap();
        assert_eq!((&read.host[..], &read.name[..], read.digest), ("ghcr.io", "acme/guest", Some(digest)));
        for (host, is_here) in
            [("localhost", true), ("127.9.0.1:80", true), ("[::1]", true), ("[::1]:80", true), ("10.0.0.1", false)]
        {
            assert_eq!(Reference::parse(&format!("oci://{host}/a")).unwrap().is_here(), is_here, "{host}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_reference_is_said_and_a_password_is_not() {
        let upper = format!("oci://ghcr.io/a@sha256:{}", "A".repeat(64));
        let long = format!("oci://ghcr.io/{}", "a".repeat(100_000));
        for (wrong, why) in [
            ("alpine", "oci://HOST/NAME"),
            ("oci://guest:1", "host"),
            ("oci://acme/guest:1", "host"),
            ("oci://127.0.0.1:99999/guest", "65535"),
            ("OCI://ghcr.io/guest", "oci://HOST/NAME"),
            ("oci://ghcr.io/", "name"),
            ("oci://ghcr.io/A b", "name"),
            ("oci://ghcr.io/a/../b", "name"),
            ("oci://ghcr.io/a:", "tag"),
            ("oci://ghcr.io/a@sha256:12", "digest"),
            ("oci://ghcr.io/a@sha512:12", "digest"),
            (&upper, "digest"),
            (&long, "512"),
            ("oci://ghcr.io/\u{1b}[31m", "\\u{1b}"),
        ] {
            let error = Reference::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(why) && error.len() < 400, "{wrong:.50}: {error}");
        }
        let error = Reference::parse("oci://user:sekret@ghcr.io/a").unwrap_err().to_string();
        assert!(error.contains("config.json") && !error.contains("sekret"), "{error}");
    }
}
