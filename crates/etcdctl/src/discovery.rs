//! Finding endpoints in DNS, as `--discovery-srv` asks.
//!
//! A domain names its members by SRV records: `_etcd-client-ssl._tcp` those with TLS, `_etcd-client._tcp` those without.
//! `--discovery-srv-name` adds a suffix to both names, so that one domain can have several clusters.

use retcd_net::dns::{Error, Resolver, Service};

const SERVICE: &str = "etcd-client";

/// The endpoints of a domain: encrypted ones first, then by priority and weight.
///
/// # Errors
/// Neither of the two names leads anywhere; in Go's words.
pub(crate) async fn endpoints(domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    let resolver = Resolver::of_system().map_err(|error| format!("dns lookup errors: {error}"))?;
    let encrypted = resolver.services(&name("-ssl", suffix, domain)).await;
    let plain = resolver.services(&name("", suffix, domain)).await;
    in_order(encrypted, plain)
}

fn name(kind: &str, suffix: &str, domain: &str) -> String {
    let dash = if suffix.is_empty() { "" } else { "-" };
    format!("_{SERVICE}{kind}{dash}{suffix}._tcp.{domain}")
}

fn in_order(
    encrypted: Result<Vec<Service>, Error>,
    plain: Result<Vec<Service>, Error>,
) -> Result<Vec<String>, String> {
    if let (Err(encrypted), Err(plain)) = (&encrypted, &plain) {
        return Err(format!("dns lookup errors: {encrypted} and {plain}"));
    }
    let with_scheme = |scheme: &'static str, found: Result<Vec<Service>, Error>| {
        let found = found.unwrap_or_default().into_iter();
        found.map(move |service| format!("{scheme}://{}:{}", service.host, service.port))
    };
    Ok(with_scheme("https", encrypted).chain(with_scheme("http", plain)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_clusters_own_part() {
        assert_eq!(name("-ssl", "", "example.com"), "_etcd-client-ssl._tcp.example.com");
        assert_eq!(name("", "blue", "example.com"), "_etcd-client-blue._tcp.example.com");
    }

    #[test]
    fn encrypted_endpoints_come_first() {
        let service =
            |host: &str| Service { priority: 1, weight: 1, host: host.to_owned(), port: 2379 };
        assert_eq!(
            in_order(Ok(vec![service("b"), service("c")]), Ok(vec![service("a")])),
            Ok(["https://b:2379", "https://c:2379", "http://a:2379"].map(str::to_owned).to_vec())
        );
    }
}
