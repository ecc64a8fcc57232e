//! What a call brings besides its messages.

use http::{HeaderMap, HeaderValue};
use retcd_api::error::RpcError;

/// The metadata that the server looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    client_api_version: Option<HeaderValue>,
    /// `hasleader: true`: the call must fail when the member knows no leader.
    pub(crate) requires_leader: bool,
    /// `grpc-encoding: gzip`: messages with the flag set are compressed.
    pub(crate) is_gzip: bool,
}

impl Metadata {
    /// # Errors
    /// A client version that is no text.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, RpcError> {
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
        let client_api_version = headers.get("client-api-version").cloned();
        if client_api_version
            .as_ref()
            .is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err())
        {
            return Err(RpcError::InvalidClientApiVersion);
        }
        Ok(Metadata {
            client_api_version,
            requires_leader: is("hasleader", "true"),
            is_gzip: is("grpc-encoding", "gzip"),
        })
    }

    /// What the client says it speaks. Empty when it says nothing.
    pub(crate) fn client_api_version(&self) -> &[u8] {
        self.client_api_version.as_ref().map(HeaderValue::as_bytes).unwrap_or_default()
    }
}
