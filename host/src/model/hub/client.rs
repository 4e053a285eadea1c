//! Requests to the Hugging Face hub: what a revision holds, and its files.
//!
//! Everything that the hub sends is bounded and checked before it is used: commits name directories, so they are
//! hexadecimal digits. A file arrives in pieces, each with a time of its own, and goes on where it was broken off. The
//! person's token goes to the hub alone, never to where the hub keeps its files.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::download::{Answer, Download, header};
use crate::model::error::{HubError, ModelError};
use crate::model::name::is_commit;
use crate::redirect::{self, origin};

/// The hub, unless `HF_ENDPOINT` names another.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Most time until an answer begins. A slower hub counts as out of reach.
const MAX_ANSWER: Duration = Duration::from_secs(20);

/// Most time of what a revision holds, which is small.
const MAX_INFO_TIME: Duration = Duration::from_secs(60);

/// Most time of a file's piece.
const MAX_PIECE_TIME: Duration = Duration::from_secs(600);

/// Bytes of a file that are asked for at a time: a tenth of a megabyte a second is fast enough.
const PIECE_BYTES: u64 = 64 << 20;

/// Most times that a file may be broken off.
const MAX_BREAKS: usize = 5;

/// Most redirects to where the hub keeps a file.
const MAX_REDIRECTS: usize = 5;

/// Most bytes of what a revision holds.
const MAX_INFO: u64 = 16 << 20;

/// What a revision holds.
pub(super) struct Revision {
    /// 40 hexadecimal digits.
    pub(super) commit: String,
    /// Paths, of which only known ones are to be used.
    pub(super) files: BTreeSet<String>,
}

/// Requests for one person.
pub(super) struct HubClient {
    agent: Agent,
    endpoint: String,
    authorization: Option<String>,
}

impl HubClient {
    /// # Errors
    /// The endpoint is no URL, or the token cannot be one.
    pub(super) fn new(endpoint: Option<&str>, token: Option<&str>) -> Result<Self, HubError> {
        let endpoint = endpoint.unwrap_or(DEFAULT_ENDPOINT).trim_end_matches('/').to_owned();
        if origin(&endpoint).is_none() {
            return Err(HubError::Endpoint { endpoint });
        }
        if token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Token);
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(MAX_ANSWER))
            .timeout_recv_response(Some(MAX_ANSWER))
            // Followed here, where it is known who may have the token.
            .max_redirects(0)
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
            .build();
        let authorization = token.map(|token| format!("Bearer {token}"));
        Ok(Self { agent: Agent::new_with_config(config), endpoint, authorization })
    }

    /// What a branch, tag or commit holds now.
    pub(super) fn revision(&self, name: &str, revision: Option<&str>) -> Result<Revision, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let what =
            revision.map_or_else(|| name.to_owned(), |revision| format!("{name} at the revision {revision:.100}"));
        let revision = revision.unwrap_or("main");
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, encoded(name, true), encoded(revision, false));
        let Answer { response, .. } = self.get(&url, None, &what)?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(what, &response));
        }
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(MAX_INFO + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.unreachable(&error))?;
        let info: Info = match serde_json::from_slice(&bytes) {
            _ if bytes.len() as u64 > MAX_INFO => return Err(HubError::TooLarge { what, limit: MAX_INFO }),
            Ok(info) => info,
            Err(error) => return Err(HubError::NotAHub { what, why: format!("not what a hub says ({error:.100})") }),
        };
        if !is_commit(&info.sha) {
            return Err(HubError::NotAHub { what, why: format!("{:.50?} for a commit", info.sha) });
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename).collect();
        Ok(Revision { commit: info.sha, files })
    }

    /// Fetches a file of a commit below `dir`. What is there goes on, and is held to what the hub announces now.
    ///
    /// # Errors
    /// The hub lacks the file, it has more bytes than `limit`, or it comes with other contents than the hub announced.
    pub(super) fn fetch(
        &self,
        name: &str,
        commit: &str,
        file: &str,
        dir: &Path,
        limit: u64,
    ) -> Result<PathBuf, ModelError> {
        let what = || format!("{file} of {name}");
        let is_plain = |part: &str| !["", ".", ".."].contains(&part) && !part.contains(['\\', '\0', ':']);
        if !file.split('/').all(is_plain) {
            return Err(HubError::NotAHub { what: what(), why: "a path that leaves the model".to_owned() }.into());
        }
        let path = dir.join(file);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(ModelError::io(parent))?;
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, encoded(name, true), encoded(file, true));
        let mut download = Download::new(&path, what(), limit);
        download.take_up()?;
        let mut breaks = 0;
        while !download.is_whole()? {
            let at = download.bytes()?;
            let range = format!("bytes={at}-{}", at + PIECE_BYTES - 1);
            let answer = self.get(&url, Some(&range), &what())?;
            if download.take(answer, at, |response| self.refused(what(), response))? {
                continue;
            }
            breaks += 1;
            if breaks > MAX_BREAKS {
                return Err(HubError::Broken { what: what(), bytes: download.bytes()? }.into());
            }
        }
        download.finish()?;
        Ok(path)
    }

    /// Asks, and follows to where the answer is.
    fn get(&self, url: &str, range: Option<&str>, what: &str) -> Result<Answer, HubError> {
        let (mut url, mut sha256) = (url.to_owned(), None);
        for _ in 0..=MAX_REDIRECTS {
            let is_own = origin(&url) == origin(&self.endpoint);
            let most = if range.is_some() { MAX_PIECE_TIME } else { MAX_INFO_TIME };
            let mut request = self.agent.get(&url).config().timeout_global(Some(most)).build();
            if let Some(range) = range {
                // Of a packed answer, parts would be of the packed bytes.
                request = request.header("range", range).header("accept-encoding", "identity");
            }
            if let Some(authorization) = self.authorization.as_ref().filter(|_| is_own) {
                request = request.header("authorization", authorization);
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::Timeout(_) => HubError::Silent { timeout: MAX_ANSWER },
                error => self.unreachable(&error),
            })?;
            if is_own {
                sha256 = sha256.or_else(|| announced(response.headers()));
            }
            if !response.status().is_redirection() {
                return Ok(Answer { response, sha256 });
            }
            url = self.place(&url, response.headers()).ok_or_else(|| HubError::NotAHub {
                what: what.to_owned(),
                why: "a redirect to a place without TLS, or to none".to_owned(),
            })?;
        }
        Err(HubError::NotAHub { what: what.to_owned(), why: "redirects without an end".to_owned() })
    }

    /// The place that a redirect names: with TLS, if the hub has it.
    fn place(&self, from: &str, headers: &HeaderMap) -> Option<String> {
        let may_be_plain = |_: &str| self.endpoint.starts_with("http://");
        redirect::resolve(origin(from)?, header(headers, "location")?, may_be_plain)
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.clone(), why: format!("{error:.200}") }
    }

    fn refused(&self, what: String, response: &Response<Body>) -> HubError {
        let status = response.status();
        let way_out = match (status.as_u16(), self.authorization.is_some()) {
            (401 | 403, true) => "the token in HF_TOKEN or its file may not see it, or it does not exist",
            (401 | 403, false) => "it may not exist, or need a token: set HF_TOKEN",
            (404, _) => "there is no such model, revision or file",
            (429, _) => "it answers no more requests for now: wait some minutes, and pull again",
            (500.., _) => "pull again later",
            _ => "a proxy may stand between, or HF_ENDPOINT may be wrong",
        };
        HubError::Refused { what, status: status.as_u16(), way_out }
    }
}

/// The SHA-256 that a hub announces for a large file. The tag of a small one is another hash.
fn announced(headers: &HeaderMap) -> Option<String> {
    let tags = ["x-linked-etag", "etag"].into_iter().filter_map(|name| header(headers, name));
    let mut hashes = tags.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase());
    hashes.find(|tag| tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A part of a URL's path.
fn encoded(text: &str, keeps_slashes: bool) -> String {
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keeps_slashes && byte == b'/');
    text.bytes().map(|byte| if is_kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_files_tag_is_its_hash() {
        let tag = |name: &str, tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ureq::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), tag.parse().unwrap());
            announced(&headers)
        };
        let hash = "ab".repeat(32);
        assert_eq!(tag("x-linked-etag", &format!("\"{hash}\"")), Some(hash.clone()));
        assert_eq!(tag("etag", &format!("W/\"{hash}\"")), Some(hash));
        assert_eq!(tag("etag", "\"0123456789012345678901234567890123456789\""), None);
    }

    #[test]
    fn revisions_with_slashes_are_one_part_of_a_path() {
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("owner/a model", true), "owner/a%20model");
    }
}
