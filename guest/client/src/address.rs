//! Which server is asked, and how long: the variables of the environment.

use crate::bindings::assay::rerank::types::Error;
use crate::bindings::wasi::http::types::Scheme;

const URL: &str = "ASSAY_URL";
const KEY: &str = "ASSAY_KEY";
const TIMEOUT: &str = "ASSAY_TIMEOUT_MS";

/// Where `assay serve` listens.
const DEFAULT_URL: &str = "http://127.0.0.1:8790";

/// As long as a tenant's request may take by default.
const DEFAULT_TIMEOUT_MS: u64 = 300_000;

/// The path of the dialect with logits, below the address.
const PATH: &str = "/llama/v1/rerank";

/// A server, and how to ask it.
pub(crate) struct Server {
    pub(crate) scheme: Scheme,
    /// Host and port.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) timeout_ms: u64,
}

impl Server {
    /// # Errors
    ///
    /// [`Error::Internal`], naming the variable, if one has a value that it cannot have.
    pub(crate) fn of(environment: &[(String, String)]) -> Result<Self, Error> {
        let variable = |name: &str| {
            let found = environment.iter().rev().find(|(known, _)| known == name);
            found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
        };
        let wrong = |name: &str, value: &str, wanted: &str| {
            Err(Error::Internal(format!("the variable {name} is {value:?}, but must be {wanted}")))
        };
        let url = variable(URL).unwrap_or(DEFAULT_URL);
        let wanted = "an address such as http://127.0.0.1:8790, without a query; a key belongs in ASSAY_KEY";
        let (scheme, rest) = match url.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            _ => return wrong(URL, url, wanted),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || url.contains(['?', '#', '@', ' ']) {
            // What stands before an @ may be secret.
            return wrong(URL, url.split('@').next_back().unwrap_or_default(), wanted);
        }
        let key = variable(KEY);
        if key.is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::Internal(format!("the variable {KEY} has a character that a key cannot have")));
        }
        let timeout_ms = match variable(TIMEOUT) {
            None => DEFAULT_TIMEOUT_MS,
            // In nanoseconds it must fit 64 bits.
            Some(value) => match value.parse() {
                Ok(time) if (1..=u64::from(u32::MAX)).contains(&time) => time,
                _ => return wrong(TIMEOUT, value, "a number of milliseconds, at least 1"),
            },
        };
        let path = format!("{}{PATH}", path.trim_end_matches('/'));
        Ok(Self { scheme, authority: authority.to_owned(), path, key: key.map(str::to_owned), timeout_ms })
    }

    /// Its address for messages.
    pub(crate) fn shown(&self) -> String {
        let scheme = if matches!(self.scheme, Scheme::Https) { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(variables: &[(&str, &str)]) -> Result<Server, Error> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Server::of(&variables)
    }

    #[test]
    fn without_variables_it_is_the_server_of_this_machine() {
        let found = server(&[("HOME", "/")]).unwrap();
        assert_eq!(found.shown(), "http://127.0.0.1:8790/llama/v1/rerank");
        assert_eq!((found.key, found.timeout_ms), (None, 300_000));
    }

    #[test]
    fn variables_say_which_server_and_how_long() {
        let found = server(&[(URL, "https://rank.example/eu/"), (KEY, " k-1 "), (TIMEOUT, "5000")]).unwrap();
        assert_eq!(found.shown(), "https://rank.example/eu/llama/v1/rerank");
        assert_eq!((found.key.as_deref(), found.timeout_ms), (Some("k-1"), 5000));
        // What a shell leaves empty is not there.
        assert_eq!(server(&[(URL, ""), (KEY, "")]).unwrap().key, None);
    }

    #[test]
    fn a_wrong_variable_is_refused_by_name_and_no_secret_is_told() {
        for (name, value) in [
            (URL, "127.0.0.1:8790"),
            (URL, "ftp://a"),
            (URL, "http:///x"),
            (URL, "http://a?k=1"),
            (TIMEOUT, "0"),
            (KEY, "a\nb"),
        ] {
            let Err(Error::Internal(message)) = server(&[(name, value)]) else { panic!("{value:?} is accepted") };
            assert!(message.contains(name), "{message}");
        }
        for (name, value) in [(URL, "http://me:secret@host"), (KEY, "secret\u{e9}")] {
            let Err(Error::Internal(message)) = server(&[(name, value)]) else { panic!("{value:?} is accepted") };
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
