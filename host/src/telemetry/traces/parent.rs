//! The header `traceparent` of a request: the trace that it belongs to, and whether its caller records that.
//!
//! Reads the form of <https://www.w3.org/TR/trace-context/> and allocates nothing. What is not well-formed is taken for
//! a request without the header. `tracestate` is not read: it holds a caller's own words.

use opentelemetry::trace::{SpanId, TraceFlags, TraceId};

/// Bytes of version, trace, span and flags, with their dashes.
const LENGTH: usize = 55;

/// A caller's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) is_sampled: bool,
}

/// The caller's span, if the header names one.
pub(super) fn parse(header: &[u8]) -> Option<Parent> {
    let text = std::str::from_utf8(header).ok()?.trim_matches([' ', '\t']);
    let (head, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = head.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = hex(version, 2)?;
    // A later version may add parts; this one has none.
    if parts.next().is_some() || version == "ff" || (version == "00" && !rest.is_empty()) {
        return None;
    }
    if !rest.is_empty() && !rest.starts_with('-') {
        return None;
    }
    let trace = TraceId::from_hex(hex(trace, 32)?).ok()?;
    let span = SpanId::from_hex(hex(span, 16)?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(hex(flags, 2)?, 16).ok()?);
    let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
    is_valid.then_some(Parent { trace, span, is_sampled: flags.is_sampled() })
}

/// A text of so many lower-case hexadecimal digits.
fn hex(text: &str, length: usize) -> Option<&str> {
    let is_hex = text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TraceContextExt;
    use opentelemetry_sdk::propagation::TraceContextPropagator;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// What the SDK's own reader makes of a header.
    fn by_the_sdk(header: &str) -> Option<Parent> {
        let carrier = HashMap::from([("traceparent".to_owned(), header.to_owned())]);
        let context = TraceContextPropagator::new().extract(&carrier);
        let span = context.span().span_context().clone();
        let (trace, id) = (span.trace_id(), span.span_id());
        span.is_valid().then(|| Parent { trace, span: id, is_sampled: span.is_sampled() })
    }

    #[test]
    fn a_callers_trace_span_and_decision_are_read() {
        let parent = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((parent.span.to_string().as_str(), parent.is_sampled), ("b7ad6b7169203331", true));
        assert!(!parse(GOOD.replace("-01", "-00").as_bytes()).unwrap().is_sampled);
    }

    #[test]
    fn what_is_not_well_formed_is_no_parent() {
        let of = |from: &str, to: &str| GOOD.replacen(from, to, 1);
        for header in [
            String::new(),
            "00".to_owned(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-00"),
            format!("{GOOD}0"),
            of("00-", "ff-"),
            of("00-", "0-0"),
            of("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            of("b7ad6b7169203331", &"0".repeat(16)),
            of("0af", "0AF"),
            of("0af", "+af"),
            of("-01", "-0g"),
            of("-b7", "_b7"),
            "\u{e4}".repeat(40),
            "0".repeat(10_000),
        ] {
            assert_eq!(parse(header.as_bytes()), None, "{header}");
        }
        assert_eq!(parse(&[0xff; 55]), None);
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = GOOD.replacen("00-", "01-", 1);
        assert_eq!(parse(format!("{later}-more").as_bytes()), parse(GOOD.as_bytes()));
        assert_eq!(parse(format!("{later}.more").as_bytes()), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_read_that_the_sdk_refuses(
            header in "(00|01|ff|0g)[-_][0-9a-fA-G]{31,33}-[0-9a-f]{16}-0[0-3](-[a-z]{0,3})?"
        ) {
            if let Some(parent) = parse(header.as_bytes()) {
                assert_eq!(Some(parent), by_the_sdk(&header), "{header}");
            }
        }

        #[test]
        fn what_the_sdk_reads_of_this_version_is_read(
            header in "00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]"
        ) {
            assert_eq!(parse(header.as_bytes()), by_the_sdk(&header), "{header}");
        }

        #[test]
        fn no_bytes_break_it(header in proptest::collection::vec(0_u8.., 0..80)) {
            let _ = parse(&header);
        }
    }
}
