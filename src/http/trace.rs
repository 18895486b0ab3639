//! W3C Trace Context: which trace of the caller's a request belongs to.

use std::fmt;

use axum::http::{HeaderMap, HeaderName};

/// The header that brings a trace and takes it on.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Version 00 in bytes: `00-` trace id `-` parent id `-` flags (Trace Context level 1, section 3.2.2).
const LENGTH: usize = 55;

/// A request's place in a trace: the caller's, or one that begins here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    /// The caller's span; absent where the trace begins here.
    parent: Option<u64>,
    /// This request's own span.
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// As the caller says; a header that is missing or wrong begins a trace.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(TRACEPARENT).into_iter();
        // Two of them are as good as none (section 3.2.2.5).
        let text = match (given.next(), given.next()) {
            (Some(one), None) => one.to_str().ok(),
            _ => None,
        };
        let (own, span) = uuid::Uuid::new_v4().as_u64_pair();
        let span = (span ^ own).max(1);
        match text.and_then(parse) {
            Some((trace, parent, flags)) => Self {
                trace,
                parent: Some(parent),
                span,
                flags,
            },
            None => Self {
                trace: uuid::Uuid::new_v4().as_u128(),
                parent: None,
                span,
                flags: 0,
            },
        }
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// This request's span: 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span)
    }

    /// The caller's span.
    pub fn parent_id(&self) -> Option<String> {
        self.parent.map(|parent| format!("{parent:016x}"))
    }
}

/// As the header of whatever this request asks of others.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Trace, parent, flags. Later versions may be longer and are read as far as this one goes.
fn parse(text: &str) -> Option<(u128, u64, u8)> {
    let digits = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = version != "00" || text.len() == LENGTH;
    let lengths = [version.len(), trace.len(), parent.len(), flags.len()];
    if version == "ff" || !whole || lengths != [2, 32, 16, 2] {
        return None;
    }
    if ![version, trace, parent, flags].into_iter().all(digits) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0)?;
    Some((trace, parent, u8::from_str_radix(flags, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(values: &[&'static str]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_static(value));
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn the_callers_trace_is_taken_on_under_a_span_of_our_own() {
        let context = of(&[GOOD]);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent_id().as_deref(), Some("00f067aa0ba902b7"));
        assert_ne!(context.span_id(), "00f067aa0ba902b7");
        let onward = context.to_string();
        assert!(onward.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && onward.ends_with("-01"));
        assert_eq!(parse(&onward).unwrap().1, context.span);
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(of(&[later]).parent_id().is_some());
    }

    #[test]
    fn what_is_wrong_begins_a_trace() {
        let wrong: [&[&'static str]; 9] = [
            &[],
            &[GOOD, GOOD],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"],
            &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
            &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
            &["00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        ];
        for values in wrong {
            let context = of(values);
            assert_eq!(context.parent_id(), None, "{values:?}");
            assert_ne!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_ne!(
                context.trace_id(),
                of(values).trace_id(),
                "every trace is another"
            );
        }
    }
}
