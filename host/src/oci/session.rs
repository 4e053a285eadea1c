//! Requests to a registry: the paths of the OCI distribution specification, Docker's credentials, and tokens where the
//! registry asks for them.
//!
//! Every answer is read up to a bound, and each request has a time. Credentials go to the registry's own host, and to the
//! place that it names for tokens.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::reference::{Reference, is_here};
use crate::redirect;

/// Most time to connect.
const MAX_CONNECT: Duration = Duration::from_secs(30);

/// Most time until an answer begins.
const MAX_ANSWER: Duration = Duration::from_secs(30);

/// Most time of one request with its answer.
const MAX_REQUEST: Duration = Duration::from_secs(300);

/// Most redirects to where a registry keeps what is asked for.
const MAX_REDIRECTS: usize = 5;

/// Most bytes of an answer that only says how it went.
const MAX_WORDS: u64 = 64 << 10;

/// Why a registry was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It cannot be reached, or does not speak HTTP.
    #[error("the registry cannot be asked: {0}")]
    Connection(String),
    /// It refuses, with its code for why.
    #[error("the registry answers {status}{}", coded(.code.as_deref()))]
    Status {
        /// Of HTTP.
        status: StatusCode,
        /// Of the registry, as `MANIFEST_UNKNOWN`.
        code: Option<String>,
    },
    /// It wants to know who asks.
    #[error("the registry refuses these credentials ({status}): Docker's config.json has {}", docker_has(*.had_some))]
    Unauthorized {
        /// Of HTTP.
        status: StatusCode,
        /// Whether there are credentials.
        had_some: bool,
    },
    /// It keeps what is asked for elsewhere, where it is refused.
    #[error("the place that the registry names answers {status}")]
    Elsewhere {
        /// Of HTTP.
        status: StatusCode,
    },
    /// It sends more than it may.
    #[error("the registry sends more than {limit_bytes} bytes where no more are expected")]
    TooLong {
        /// The limit.
        limit_bytes: u64,
    },
    /// What it sends is something else.
    #[error("what the registry sends has another digest")]
    OtherDigest,
    /// Its answer makes no sense.
    #[error("the registry answers nonsense: {0}")]
    Nonsense(&'static str),
    /// Docker's credentials cannot be read.
    #[error("Docker's credentials cannot be read from {place}: {why}")]
    Credentials {
        /// The file.
        place: String,
        /// What is wrong.
        why: String,
    },
}

fn coded(code: Option<&str>) -> String {
    code.map_or_else(String::new, |code| format!(", {code}"))
}

fn docker_has(some: bool) -> &'static str {
    if some { "others or none that it takes" } else { "none for it: `docker login` adds them" }
}

/// Who asks.
enum Credentials {
    Nobody,
    Basic(String),
    /// A token that gives others.
    Identity(String),
}

/// Requests to one repository.
pub(super) struct Session {
    agent: Agent,
    /// Scheme and host.
    origin: String,
    repository: String,
    credentials: Credentials,
    /// What the last challenge was answered with.
    authorization: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorCode>,
}

#[derive(Deserialize)]
struct ErrorCode {
    code: String,
}

impl Session {
    /// Reads the credentials. Registries on this machine speak HTTP, all others TLS.
    pub(super) fn new(reference: &Reference) -> Result<Self, Failure> {
        let scheme = if reference.is_here() { "http" } else { "https" };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(MAX_CONNECT))
            .timeout_recv_response(Some(MAX_ANSWER))
            .timeout_global(Some(MAX_REQUEST))
            // Followed here, where the rules of a registry's address hold for them too.
            .max_redirects(0)
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: Agent::new_with_config(config),
            origin: format!("{scheme}://{}", reference.host),
            repository: format!("/v2/{}/", reference.name),
            credentials: credentials(&reference.host)?,
            authorization: None,
        })
    }

    /// What is at a path of the repository, if it has no more bytes than this.
    pub(super) fn get(&mut self, path: &str, accept: Option<&str>, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
        let mut url = self.url(path);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&url, |session| {
                let request = session.agent.get(&url);
                let request = accept.map_or_else(|| session.agent.get(&url), |accept| request.header("accept", accept));
                session.authorized(request, &url).call()
            })?;
            match answer.status() {
                status if status.is_redirection() => url = self.place(answer.headers())?,
                // The other place was given no credentials, so they are not what it refuses.
                status if status != StatusCode::OK && !self.is_own(&url) => return Err(Failure::Elsewhere { status }),
                _ => return read(expect(answer, &[StatusCode::OK])?.into_body(), limit_bytes),
            }
        }
        Err(Failure::Nonsense("it redirects again and again"))
    }

    /// The place that an answer names: with TLS, unless it is on this machine and the registry is.
    fn place(&self, headers: &HeaderMap) -> Result<String, Failure> {
        let place = header(headers, "location").ok_or(Failure::Nonsense("an answer that names no place"))?;
        let may_be_plain = |host: &str| self.origin.starts_with("http://") && is_here(host);
        let url = redirect::resolve(&self.origin, &place, may_be_plain);
        url.ok_or(Failure::Nonsense("it names a place without TLS"))
    }

    /// Stores bytes under their digest, unless they are there.
    pub(super) fn put_blob(&mut self, digest: &str, bytes: &[u8]) -> Result<(), Failure> {
        let url = self.url(&format!("blobs/{digest}"));
        if self.send(&url, |session| session.authorized(session.agent.head(&url), &url).call())?.status().is_success() {
            return Ok(());
        }
        let url = self.url("blobs/uploads/");
        let begun = self.send(&url, |session| session.authorized(session.agent.post(&url), &url).send_empty())?;
        let begun = expect(begun, &[StatusCode::ACCEPTED])?;
        let place = self.place(begun.headers())?;
        let separator = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{separator}digest={digest}");
        let put = self.send(&url, |session| {
            let request = session.agent.put(&url).header("content-type", "application/octet-stream");
            session.authorized(request, &url).send(bytes)
        })?;
        expect(put, &[StatusCode::CREATED, StatusCode::NO_CONTENT]).map(drop)
    }

    /// Stores a manifest under a tag.
    pub(super) fn put_manifest(&mut self, tag: &str, kind: &str, bytes: &[u8]) -> Result<(), Failure> {
        let url = self.url(&format!("manifests/{tag}"));
        let put = self.send(&url, |session| {
            session.authorized(session.agent.put(&url).header("content-type", kind), &url).send(bytes)
        })?;
        expect(put, &[StatusCode::CREATED, StatusCode::OK]).map(drop)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin, self.repository)
    }

    /// Sends a request, and again with what the registry asks for.
    fn send(
        &mut self,
        url: &str,
        call: impl Fn(&Self) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Failure> {
        let answer = call(self).map_err(connection)?;
        if answer.status() != StatusCode::UNAUTHORIZED || !self.is_own(url) {
            return Ok(answer);
        }
        let had_some = !matches!(self.credentials, Credentials::Nobody);
        let challenge = header(answer.headers(), "www-authenticate").unwrap_or_default();
        self.authorization = self.answer(&challenge)?;
        if self.authorization.is_none() {
            return Err(Failure::Unauthorized { status: answer.status(), had_some });
        }
        let answer = call(self).map_err(connection)?;
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Unauthorized { status: answer.status(), had_some })
            }
            _ => Ok(answer),
        }
    }

    /// Whether a place is the registry's own, so that it may have the authorization.
    fn is_own(&self, url: &str) -> bool {
        url.strip_prefix(&self.origin).is_some_and(|rest| rest.starts_with('/'))
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>, url: &str) -> ureq::RequestBuilder<B> {
        match &self.authorization {
            Some(authorization) if self.is_own(url) => request.header("authorization", authorization),
            _ => request,
        }
    }

    /// The header that answers a challenge; `None` if there are no credentials for it.
    fn answer(&self, challenge: &str) -> Result<Option<String>, Failure> {
        let challenges = http_auth::parse_challenges(challenge).unwrap_or_default();
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("basic")
                && let Credentials::Basic(basic) = &self.credentials
            {
                return Ok(Some(format!("Basic {basic}")));
            }
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let param = |name: &str| {
                    let mut params = challenge.params.iter();
                    params.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
                };
                let realm = param("realm").ok_or(Failure::Nonsense("a challenge without a realm"))?;
                return self.token(&realm, param("service"), param("scope")).map(Some);
            }
        }
        Ok(None)
    }

    /// Asks for a token where the registry says.
    fn token(&self, realm: &str, service: Option<String>, scope: Option<String>) -> Result<String, Failure> {
        if !realm.starts_with("https://") && !self.origin.starts_with("http://") {
            return Err(Failure::Nonsense("credentials are asked for without TLS"));
        }
        if let Credentials::Identity(token) = &self.credentials {
            let form = [
                ("grant_type", "refresh_token".to_owned()),
                ("refresh_token", token.clone()),
                ("client_id", "assay".to_owned()),
                ("service", service.unwrap_or_default()),
                ("scope", scope.unwrap_or_default()),
            ];
            return bearer(self.agent.post(realm).send_form(form).map_err(connection)?);
        }
        let mut request = self.agent.get(realm);
        for (name, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                request = request.query(name, value);
            }
        }
        if let Credentials::Basic(basic) = &self.credentials {
            request = request.header("authorization", format!("Basic {basic}"));
        }
        bearer(request.call().map_err(connection)?)
    }
}

fn bearer(answer: Response<Body>) -> Result<String, Failure> {
    let answer = expect(answer, &[StatusCode::OK])?;
    let token: Token = serde_json::from_slice(&read(answer.into_body(), MAX_WORDS)?)
        .map_err(|_| Failure::Nonsense("a token that is no JSON"))?;
    let token = token.token.or(token.access_token).ok_or(Failure::Nonsense("no token"))?;
    Ok(format!("Bearer {token}"))
}

fn connection(error: ureq::Error) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::Connection("it took too long".to_owned()),
        // It has words of this program and of the system, and none of the registry's.
        error => Failure::Connection(format!("{error:.200}")),
    }
}

/// An answer with one of these statuses.
fn expect(answer: Response<Body>, statuses: &[StatusCode]) -> Result<Response<Body>, Failure> {
    let status = answer.status();
    if statuses.contains(&status) {
        return Ok(answer);
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Failure::Unauthorized { status, had_some: true });
    }
    let said = read(answer.into_body(), MAX_WORDS).unwrap_or_default();
    let code = serde_json::from_slice::<Errors>(&said).ok().and_then(|errors| errors.errors.into_iter().next());
    let is_code =
        |code: &String| code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    Err(Failure::Status { status, code: code.map(|error| error.code).filter(is_code) })
}

/// All of a body, if it has no more bytes than this.
fn read(body: Body, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut reader = body.into_reader().take(limit_bytes.saturating_add(1));
    reader.read_to_end(&mut bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::TimedOut => Failure::Connection("it took too long".to_owned()),
        _ => Failure::Connection(format!("its answer ends early: {error:.200}")),
    })?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Failure::TooLong { limit_bytes });
    }
    Ok(bytes)
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Docker's credentials for the registry.
fn credentials(host: &str) -> Result<Credentials, Failure> {
    match docker_credential::get_credential(host) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Credentials::Basic(STANDARD.encode(format!("{user}:{password}"))))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Credentials::Identity(token)),
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::NoCredentialConfigured) => {
            Ok(Credentials::Nobody)
        }
        // Said of a file that is not there, too.
        Err(CredentialRetrievalError::ConfigReadError) if !docker_config().is_some_and(|file| file.exists()) => {
            Ok(Credentials::Nobody)
        }
        Err(why) => {
            let place = docker_config().map_or_else(|| "config.json".to_owned(), |file| file.display().to_string());
            // What a helper printed may have a secret.
            let why = match why {
                CredentialRetrievalError::HelperFailure { helper, .. } => format!("the helper {helper:.60} failed"),
                why => format!("{why:.100}"),
            };
            Err(Failure::Credentials { place, why })
        }
    }
}

fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}
