//! What a call brings besides its messages.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use retcd_api::error::RpcError;

/// The metadata that the server looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    headers: HeaderMap,
    common_name: Option<Arc<str>>,
    /// `hasleader: true`: the call must fail when the member knows no leader.
    pub(crate) requires_leader: bool,
    /// `grpc-encoding: gzip`: messages with the flag set are compressed.
    pub(crate) is_gzip: bool,
}

/// How a caller says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Token(String),
    /// By the certificate of its connection.
    CommonName(Arc<str>),
    Nothing,
}

impl Metadata {
    /// `common_name`: that of the caller's verified certificate, where it counts.
    ///
    /// # Errors
    /// A client version that is no text.
    pub(crate) fn new(headers: HeaderMap, common_name: Option<Arc<str>>) -> Result<Self, RpcError> {
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
        let client_api_version = headers.get(CLIENT_API_VERSION);
        if client_api_version
            .is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err())
        {
            return Err(RpcError::InvalidClientApiVersion);
        }
        Ok(Metadata {
            requires_leader: is("hasleader", "true"),
            is_gzip: is("grpc-encoding", "gzip"),
            headers,
            common_name,
        })
    }

    /// What the client says it speaks. Empty when it says nothing.
    pub(crate) fn client_api_version(&self) -> &[u8] {
        self.headers.get(CLIENT_API_VERSION).map(HeaderValue::as_bytes).unwrap_or_default()
    }

    /// A token counts more than a certificate. The headers are searched only now: while authentication is off nobody asks.
    pub(crate) fn credentials(&self) -> Credentials {
        if let Some(token) = self.token() {
            return Credentials::Token(token);
        }
        // What etcd's gateway brings from others comes over a connection with the gateway's own certificate.
        match &self.common_name {
            Some(name) if !self.headers.contains_key("grpcgateway-accept") => {
                Credentials::CommonName(name.clone())
            }
            _ => Credentials::Nothing,
        }
    }

    /// The token as it was given out.
    pub(crate) fn token(&self) -> Option<String> {
        let token = self.headers.get("token").or_else(|| self.headers.get("authorization"))?;
        let token = String::from_utf8_lossy(token.as_bytes());
        Some(token.strip_prefix("Bearer ").unwrap_or(&token).to_owned())
    }
}

const CLIENT_API_VERSION: &str = "client-api-version";

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(headers: &[(&'static str, &'static str)], name: Option<&str>) -> Credentials {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_static(value))
            })
            .collect();
        Metadata::new(headers, name.map(Arc::from)).unwrap().credentials()
    }

    #[test]
    fn a_token_counts_more_than_a_certificate() {
        let token = |text: &str| Credentials::Token(text.to_owned());
        assert_eq!(credentials(&[("token", "a.1"), ("authorization", "b.2")], None), token("a.1"));
        assert_eq!(credentials(&[("authorization", "Bearer b.2")], Some("cn")), token("b.2"));
        assert_eq!(credentials(&[("token", "")], Some("cn")), token(""));
        assert_eq!(credentials(&[], Some("cn")), Credentials::CommonName("cn".into()));
        assert_eq!(credentials(&[], None), Credentials::Nothing);
        let through_a_gateway = [("grpcgateway-accept", "*/*")];
        assert_eq!(credentials(&through_a_gateway, Some("cn")), Credentials::Nothing);
    }
}
