//! Who may ask over HTTP, and whose pages may read the answers.
//!
//! Over plain HTTP the name that a request was sent to must be on the list of hosts: a page that has its own name
//! resolved to this member would otherwise reach it through a visitor's browser (CVE-2018-5702).

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST,
    HeaderMap, HeaderValue, ORIGIN,
};
use http::{Request, Response, StatusCode};

use super::error;
use crate::config::Allowed;

/// The answer to a request whose host is not on the list, if so.
pub(crate) fn refuse_host<B>(request: &Request<B>, hosts: &Allowed) -> Option<Response<Bytes>> {
    let host = host(request);
    if hosts.contains(host) {
        return None;
    }
    tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
    let text = format!(
        "\nThe host of this request is not one that this member is known by.\n\n\
         Use TLS, where every host is allowed, or add the name to the list:\n  etcd --host-whitelist {host:?}\n\n\
         The rule prevents DNS rebinding (CVE-2018-5702).\n"
    );
    Some(error(StatusCode::MISDIRECTED_REQUEST, &text))
}

/// Lets pages of the allowed origins read the answer to a request with these headers.
pub(crate) fn allow_origin(requested: &HeaderMap, origins: &Allowed, answer: &mut HeaderMap) {
    let origin = if origins.is_everything() {
        HeaderValue::from_static("*")
    } else {
        let listed =
            |origin: &&HeaderValue| origin.to_str().is_ok_and(|origin| origins.contains(origin));
        let Some(origin) = requested.get(ORIGIN).filter(listed) else { return };
        origin.clone()
    };
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    let headers = HeaderValue::from_static("accept, content-type, authorization");
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers);
}

/// The name that the request was sent to, without the port.
fn host<B>(request: &Request<B>) -> &str {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = header.or(authority).unwrap_or_default();
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    if !port.is_empty() && !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return host;
    }
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address,
        // An address of IPv6 without its brackets has no port to cut off.
        None if name.contains(':') => host,
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> Request<()> {
        Request::get("/v3/kv/put").header(HOST, host).body(()).unwrap()
    }

    #[test]
    fn the_host_stands_without_its_port() {
        for (text, expected) in [
            ("example.com:2379", "example.com"),
            ("example.com", "example.com"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:2379", "::1"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(host(&asked(text)), expected, "{text}");
        }
        let http2 = Request::get("http://example.com:2379/health").body(()).unwrap();
        assert_eq!(host(&http2), "example.com");
    }

    #[test]
    fn an_unknown_host_is_refused() {
        let hosts = Allowed::new(["example.com".to_owned()]);
        assert!(refuse_host(&asked("example.com:80"), &hosts).is_none());
        assert!(refuse_host(&asked("evil.com"), &Allowed::default()).is_none());
        let refused = refuse_host(&asked("evil.com"), &hosts).unwrap();
        assert_eq!(refused.status(), 421);
        let text = String::from_utf8(refused.into_body().to_vec()).unwrap();
        assert!(text.contains("CVE-2018-5702") && text.contains("--host-whitelist \"evil.com\""));
    }

    #[test]
    fn origins_are_allowed_by_the_list() {
        let allowed = |origins: &Allowed, origin: Option<&'static str>| {
            let requested = origin
                .map(|origin| (ORIGIN, HeaderValue::from_static(origin)))
                .into_iter()
                .collect();
            let mut answer = HeaderMap::new();
            allow_origin(&requested, origins, &mut answer);
            let is_complete = answer.len() == 3;
            let origin = answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(origin.is_some(), is_complete, "all three headers or none");
            origin.map(|origin| origin.to_str().unwrap().to_owned())
        };
        let everyone = Allowed::default();
        assert_eq!(allowed(&everyone, None).as_deref(), Some("*"));
        assert_eq!(allowed(&everyone, Some("http://a")).as_deref(), Some("*"));
        let some = Allowed::new(["http://a".to_owned()]);
        assert_eq!(allowed(&some, Some("http://a")).as_deref(), Some("http://a"));
        assert_eq!(allowed(&some, Some("http://b")), None);
        assert_eq!(allowed(&some, None), None);
    }
}
