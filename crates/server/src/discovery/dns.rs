//! The members of a cluster as a domain's SRV records name them.
//!
//! `_etcd-server._tcp.<domain>` leads to peer ports, `_etcd-server-ssl._tcp.<domain>` to those with TLS; a service name
//! is appended to both (`_etcd-server-blue`). A record carries no name of a member: the one that leads to this member's
//! own address gets its name, the others get numbers until they tell theirs, as in etcd.

use std::net::SocketAddr;

use retcd_net::dns::{Resolver, Service, WrongServer};
use retcd_net::{Url, UrlList};

/// Why DNS does not tell the members.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot look up SRV records: {0}")]
    Resolver(#[from] WrongServer),
    #[error("{}", joined(.0))]
    Lookup(Vec<Failure>),
    #[error("dns lookup errors: {encrypted} and {plain}")]
    Clients { encrypted: String, plain: String },
    #[error("{url}: {source}")]
    OwnAddress { url: String, source: std::io::Error },
    #[error("cannot find local etcd member {0:?} in SRV records")]
    NoOwnRecord(String),
}

/// Why one service has no members.
#[derive(Debug, thiserror::Error)]
#[error("error querying DNS SRV records for _{service} {reason}")]
pub struct Failure {
    service: String,
    reason: String,
}

/// As Go joins errors: one a line.
fn joined(failures: &[Failure]) -> String {
    failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("\n")
}

/// Finds the members, in the form of `--initial-cluster`. Both services count, as in etcd.
pub(crate) async fn find(
    domain: &str,
    service_name: &str,
    name: &str,
    advertised: &UrlList,
) -> Result<String, Error> {
    let resolver = Resolver::of_system()?;
    let own = own_addresses(advertised).await?;
    let mut members = Vec::new();
    let mut failures = Vec::new();
    let mut has_own = false;
    for (kind, scheme) in [("etcd-server-ssl", "https"), ("etcd-server", "http")] {
        let service = service(kind, service_name);
        match listed(&resolver, &service, domain, scheme, &own).await {
            Ok(found) => {
                has_own |= found.iter().any(|member| member.is_own);
                members.extend(name_all(&found, name));
            }
            Err(reason) => failures.push(Failure { service, reason }),
        }
    }
    if members.is_empty() {
        return Err(Error::Lookup(failures));
    }
    if !has_own {
        return Err(Error::NoOwnRecord(name.to_owned()));
    }
    let members = members.join(",");
    tracing::info!(members, domain, "found all members by SRV records");
    Ok(members)
}

/// Where the records of one service lead. What cannot be used counts only if nothing else is there.
async fn listed(
    resolver: &Resolver,
    service: &str,
    domain: &str,
    scheme: &str,
    own: &[(SocketAddr, &Url)],
) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    let mut last_failure = None;
    for Service { host, port, .. } in services(resolver, service, domain).await? {
        let url = format!("{scheme}://{host}:{port}");
        let addresses = match addresses(&host, port).await {
            Ok(addresses) => addresses,
            Err(error) => {
                last_failure = Some(format!("lookup {host}: {error}"));
                continue;
            }
        };
        let expected = own.iter().find(|(address, _)| addresses.contains(address));
        match expected {
            Some((_, expected)) if expected.is_tls() != (scheme == "https") => {
                last_failure = Some(format!(
                    "bootstrap at {url} from DNS for {service} has scheme mismatch with expected \
                     peer {expected}"
                ));
            }
            _ => found.push(Found { url, is_own: expected.is_some() }),
        }
    }
    match last_failure {
        Some(reason) if found.is_empty() => Err(reason),
        _ => Ok(found),
    }
}

/// A way for clients to a cluster.
pub(crate) struct ClientRecord {
    pub(crate) service: Service,
    pub(crate) is_encrypted: bool,
}

impl ClientRecord {
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.service.host, self.service.port)
    }
}

/// Finds the client ports of a domain's cluster, `_etcd-client-ssl._tcp.<domain>` and `_etcd-client._tcp.<domain>`.
pub(crate) async fn find_clients(
    domain: &str,
    service_name: &str,
) -> Result<Vec<ClientRecord>, Error> {
    let resolver = Resolver::of_system()?;
    let find = async |kind: &str, is_encrypted| {
        let found = services(&resolver, &service(kind, service_name), domain).await?;
        Ok(found.into_iter().map(move |service| ClientRecord { service, is_encrypted }))
    };
    match (find("etcd-client-ssl", true).await, find("etcd-client", false).await) {
        (Err(encrypted), Err(plain)) => Err(Error::Clients { encrypted, plain }),
        (encrypted, plain) => Ok(encrypted.into_iter().chain(plain).flatten().collect()),
    }
}

/// The name of a service, with the cluster's own part.
fn service(kind: &str, service_name: &str) -> String {
    if service_name.is_empty() { kind.to_owned() } else { format!("{kind}-{service_name}") }
}

/// Where a record leads.
struct Found {
    url: String,
    is_own: bool,
}

fn name_all(members: &[Found], own_name: &str) -> Vec<String> {
    let mut numbers = 0..;
    let named = members.iter().map(|member| {
        let url = &member.url;
        if member.is_own {
            return format!("{own_name}={url}");
        }
        let number: usize = numbers.next().expect("there are more numbers than records");
        format!("{number}={url}")
    });
    named.collect()
}

async fn services(
    resolver: &Resolver,
    service: &str,
    domain: &str,
) -> Result<Vec<Service>, String> {
    let name = format!("_{service}._tcp.{domain}");
    resolver.services(&name).await.map_err(|error| error.to_string())
}

async fn own_addresses(advertised: &UrlList) -> Result<Vec<(SocketAddr, &Url)>, Error> {
    let mut own = Vec::new();
    for url in advertised {
        let (host, port) = (url.host().unwrap_or_default(), url.port().unwrap_or_default());
        let found = addresses(host, port).await;
        let found = found.map_err(|source| Error::OwnAddress { url: url.to_string(), source })?;
        own.extend(found.into_iter().map(|address| (address, url)));
    }
    Ok(own)
}

async fn addresses(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_numbered() {
        let found = |url: &str, is_own| Found { url: url.to_owned(), is_own };
        let members =
            [found("http://a:1", false), found("http://b:1", true), found("http://c:1", false)];
        assert_eq!(name_all(&members, "me"), ["0=http://a:1", "me=http://b:1", "1=http://c:1"]);
    }
}
