//! What is checked before, and added after, every request.

use crate::{answer::Refusal, serve::Surface};
use anshin_base::Problem;
use anshin_node::control::Control;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// Nothing but what this node itself serves, and no script or style inside the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Lets a request through to its handler if it may reach it over this surface.
pub async fn gate(State(surface): State<Surface>, request: Request, next: Next) -> Response {
    let refused = match surface {
        Surface::UnixSocket => None,
        Surface::Loopback => refuse_on_loopback(request.method(), request.headers()),
    };
    let mut response = match refused {
        Some(problem) => Refusal(problem).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Lets nobody ask a node that has just started and does not know yet how the site stands.
pub async fn settle(State(control): State<Arc<dyn Control>>, request: Request, next: Next) -> Response {
    match control.settled().await {
        Ok(()) => next.run(request).await,
        Err(problem) => Refusal(problem).into_response(),
    }
}

fn refuse_on_loopback(method: &Method, headers: &HeaderMap) -> Option<Problem> {
    // A page of a stranger whose name was made to resolve to 127.0.0.1 still sends the stranger's name here.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback) {
        let problem = Problem::new("host-forbidden", "the console answers only to its loopback address");
        return Some(problem.hint("open it as http://127.0.0.1:PORT, through an SSH tunnel from elsewhere"));
    }
    let stranger = headers.get(header::ORIGIN).is_some_and(|origin| {
        !origin.to_str().ok().and_then(|text| text.strip_prefix("http://")).is_some_and(is_loopback)
    });
    if stranger {
        return Some(Problem::new("origin-forbidden", "the console answers only to its own pages"));
    }
    if method != Method::GET && method != Method::HEAD {
        let problem = Problem::new("change-forbidden", "the loopback address only reads");
        return Some(problem.hint("use the `anshin` command on the node as its administrator"));
    }
    None
}

/// Whether `authority` (host, with or without port) names this machine itself. Any port: forwarders change it.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for good in ["127.0.0.1", "127.0.0.1:7880", "localhost:1", "[::1]:7880", "[::1]", "localhost"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "127.0.0.1:x",
            "10.0.0.1",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
