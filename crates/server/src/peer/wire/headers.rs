//! Who is calling: the headers of every Raft request, and what a receiver checks.
//!
//! Ids stand in lower-case hex without leading zeros. The order of the checks and their texts are etcd's; a dialler
//! tells the reasons apart by these texts.

use http::{HeaderMap, HeaderName, HeaderValue};
use retcd_api::ETCD_VERSION;

const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(crate) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(crate) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(crate) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// The oldest cluster that a member may be in, here and at etcd 3.x.
const MIN_CLUSTER: &str = "3.0.0";
/// What a member that sends no version is.
const BEFORE_VERSIONS: Minor = Minor { major: 2, minor: 0 };

/// This member, as it presents itself.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) member: u64,
    pub(crate) cluster: u64,
    headers: HeaderMap,
}

impl Identity {
    /// `peer_urls` are those that other members reach this one at.
    pub(crate) fn new(member: u64, cluster: u64, peer_urls: &[String]) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_FROM, id_value(member));
        headers.insert(SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
        headers.insert(MIN_CLUSTER_VERSION, HeaderValue::from_static(MIN_CLUSTER));
        headers.insert(CLUSTER_ID, id_value(cluster));
        if let Ok(urls) = HeaderValue::from_str(&peer_urls.join(",")) {
            headers.insert(PEER_URLS, urls);
        }
        Self { member, cluster, headers }
    }

    /// The headers of a request to another member.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }
}

pub(crate) fn id_value(id: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("{id:x}")).expect("hex digits may stand in a header")
}

/// Parses an id as it stands in paths and headers.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Why a request of another member is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("incompatible version")]
    Version,
    #[error("cluster ID mismatch")]
    ClusterId,
}

impl Mismatch {
    /// The reason in the body of a 412.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        [Self::Version, Self::ClusterId].into_iter().find(|reason| reason.to_string() == text)
    }
}

/// Whether a request comes from a member of this cluster that speaks our protocol.
///
/// # Errors
/// The first reason against it.
pub(crate) fn check(headers: &HeaderMap, cluster: u64) -> Result<(), Mismatch> {
    let local = Minor::parse(ETCD_VERSION);
    let oldest = Minor::parse(MIN_CLUSTER);
    let server = minor_of(headers, &SERVER_VERSION);
    let min_cluster = minor_of(headers, &MIN_CLUSTER_VERSION);
    if server.is_none() || min_cluster.is_none() || server < oldest || min_cluster > local {
        return Err(Mismatch::Version);
    }
    if text(headers, &CLUSTER_ID) != Some(&format!("{cluster:x}")) {
        return Err(Mismatch::ClusterId);
    }
    Ok(())
}

/// The sender, and where it says that it can be reached.
pub(crate) fn sender(headers: &HeaderMap) -> Option<(u64, Vec<String>)> {
    let id = text(headers, &SERVER_FROM).and_then(parse_id).filter(|id| *id != 0)?;
    Some((id, peer_urls(headers)))
}

/// The URLs in `X-PeerURLs`, none when it is absent.
pub(crate) fn peer_urls(headers: &HeaderMap) -> Vec<String> {
    let urls = text(headers, &PEER_URLS).unwrap_or_default();
    urls.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Major and minor of a version: patches and pre-releases do not matter between members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Minor {
    major: u32,
    minor: u32,
}

impl Minor {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-', '+']);
        let mut next = || numbers.next()?.parse().ok();
        Some(Self { major: next()?, minor: next()? })
    }
}

fn minor_of(headers: &HeaderMap, name: &HeaderName) -> Option<Minor> {
    headers.get(name).map_or(Some(BEFORE_VERSIONS), |value| Minor::parse(value.to_str().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let urls = ["http://a:1".to_owned(), "http://b:2".to_owned()];
        Identity::new(0x0abc, 0x00ff_0000_0000_0000, &urls)
    }

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = identity().headers();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_member_presents_itself_as_etcd_does() {
        let headers = identity().headers();
        let get = |name: &'static str| headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(get("X-Server-From"), "abc");
        assert_eq!(get("X-Server-Version"), "3.7.1");
        assert_eq!(get("X-Min-Cluster-Version"), "3.0.0");
        assert_eq!(get("X-Etcd-Cluster-ID"), "ff000000000000");
        assert_eq!(get("X-PeerURLs"), "http://a:1,http://b:2");
        assert_eq!(check(&headers, 0x00ff_0000_0000_0000), Ok(()));
        let (id, urls) = sender(&headers).unwrap();
        assert_eq!((id, urls.len()), (0xabc, 2));
    }

    #[test]
    fn versions_come_before_the_cluster_id() {
        let cluster = identity().cluster;
        let refused = |headers: &HeaderMap| check(headers, cluster).unwrap_err();
        assert_eq!(refused(&with(CLUSTER_ID, "1")), Mismatch::ClusterId);
        assert_eq!(refused(&with(SERVER_VERSION, "2.3.8")), Mismatch::Version);
        assert_eq!(refused(&with(SERVER_VERSION, "new")), Mismatch::Version);
        assert_eq!(refused(&with(MIN_CLUSTER_VERSION, "3.8.0")), Mismatch::Version);
        assert_eq!(refused(&HeaderMap::new()), Mismatch::Version);
        assert_eq!(check(&with(SERVER_VERSION, "3.5.0-rc.1"), cluster), Ok(()));
        assert_eq!(check(&with(SERVER_VERSION, "3.8.0"), cluster), Ok(()));
        let mut wrong_both = with(SERVER_VERSION, "2.0.0");
        wrong_both.insert(CLUSTER_ID, HeaderValue::from_static("1"));
        assert_eq!(refused(&wrong_both), Mismatch::Version);
    }

    #[test]
    fn reasons_are_known_by_their_texts() {
        assert_eq!(Mismatch::from_text("cluster ID mismatch\n"), Some(Mismatch::ClusterId));
        assert_eq!(Mismatch::from_text("incompatible version"), Some(Mismatch::Version));
        assert_eq!(Mismatch::from_text("to field mismatch\n"), None);
    }

    #[test]
    fn ids_are_hex() {
        assert_eq!(parse_id("8e9e05c52164694d"), Some(0x8e9e_05c5_2164_694d));
        assert_eq!(parse_id("x"), None);
        assert_eq!(parse_id("18e9e05c52164694d"), None);
    }
}
