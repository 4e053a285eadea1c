//! Where a redirect leads: nothing that is asked for with TLS is taken from a place without it.

/// Scheme, host and port of a URL.
pub(crate) fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty())?;
    Some(&url[..url.len() - rest.len() + host.len()])
}

/// The URL that an answer from `origin` names by `place`. `None` if it is without TLS, on a host that may not be so.
pub(crate) fn resolve(origin: &str, place: &str, may_be_plain: impl Fn(&str) -> bool) -> Option<String> {
    if place.starts_with('/') && !place.starts_with("//") {
        return Some(format!("{origin}{place}"));
    }
    let plain = place.strip_prefix("http://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    (place.starts_with("https://") || plain.is_some_and(may_be_plain)).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_all_of_a_host_and_its_port() {
        for (url, expected) in [
            ("https://hub.example/a?b", Some("https://hub.example")),
            ("http://127.0.0.1:80", Some("http://127.0.0.1:80")),
            ("https://", None),
            ("hub.example/a", None),
            ("file:///a", None),
        ] {
            assert_eq!(origin(url), expected);
        }
        assert_ne!(origin("https://hub.example.org/"), origin("https://hub.example/"));
        assert_ne!(origin("https://hub.example@other/"), origin("https://hub.example/"));
    }

    #[test]
    fn a_place_without_tls_is_none_unless_it_may_be() {
        let resolve = |place| resolve("https://hub", place, |host| host == "here:80");
        assert_eq!(resolve("/a"), Some("https://hub/a".to_owned()));
        assert_eq!(resolve("https://other/a"), Some("https://other/a".to_owned()));
        assert_eq!(resolve("http://here:80/a"), Some("http://here:80/a".to_owned()));
        for place in ["http://other/a", "//other/a", "file:///a", "a"] {
            assert_eq!(resolve(place), None, "{place}");
        }
    }
}
