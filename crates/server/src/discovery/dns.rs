//! The members of a cluster as a domain's SRV records name them.
//!
//! `_etcd-server._tcp.<domain>` leads to peer ports, `_etcd-server-ssl._tcp.<domain>` to those with TLS; a service name
//! is appended to both (`_etcd-server-blue`). A record carries no name of a member: the one that leads to this member's
//! own address gets its name, the others get numbers until they tell theirs, as in etcd.

use std::net::SocketAddr;

use retcd_net::UrlList;
use retcd_net::dns::{Resolver, Service, WrongServer};

/// Why DNS does not tell the members.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot look up SRV records: {0}")]
    Resolver(#[from] WrongServer),
    #[error("error querying DNS SRV records for _{service} {reason}")]
    Lookup { service: String, reason: String },
    #[error("--discovery-srv: {0} leads to peers with TLS, and TLS is not available yet")]
    Tls(String),
    #[error(
        "--discovery-srv: {0} would have to be verified, and TLS is not available yet; see --insecure-discovery"
    )]
    Unverified(String),
    #[error("dns lookup errors: {encrypted} and {plain}")]
    Clients { encrypted: String, plain: String },
    #[error("{url}: {source}")]
    OwnAddress { url: String, source: std::io::Error },
    #[error("cannot find local etcd member {0:?} in SRV records")]
    NoOwnRecord(String),
}

/// Finds the members, in the form of `--initial-cluster`.
pub(crate) async fn find(
    domain: &str,
    service_name: &str,
    name: &str,
    advertised: &UrlList,
) -> Result<String, Error> {
    let resolver = Resolver::of_system()?;
    let encrypted = service("etcd-server-ssl", service_name);
    if services(&resolver, &encrypted, domain).await.is_ok() {
        return Err(Error::Tls(format!("_{encrypted}._tcp.{domain}")));
    }
    let plain = service("etcd-server", service_name);
    let found = services(&resolver, &plain, domain)
        .await
        .map_err(|reason| Error::Lookup { service: plain.clone(), reason })?;
    let own = own_addresses(advertised).await?;
    let mut members = Vec::new();
    let mut last_failure = None;
    for Service { host, port, .. } in found {
        match addresses(&host, port).await {
            Ok(addresses) => members.push(Found {
                url: format!("http://{host}:{port}"),
                is_own: addresses.iter().any(|address| own.contains(address)),
            }),
            Err(error) => last_failure = Some(format!("lookup {host}: {error}")),
        }
    }
    if let (true, Some(reason)) = (members.is_empty(), last_failure) {
        return Err(Error::Lookup { service: plain, reason });
    }
    if !members.iter().any(|member| member.is_own) {
        return Err(Error::NoOwnRecord(name.to_owned()));
    }
    let members = name_all(&members, name);
    tracing::info!(members, domain, "found all members by SRV records");
    Ok(members)
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

fn name_all(members: &[Found], own_name: &str) -> String {
    let mut numbers = 0..;
    let named = members.iter().map(|member| {
        let url = &member.url;
        if member.is_own {
            return format!("{own_name}={url}");
        }
        let number: usize = numbers.next().expect("there are more numbers than records");
        format!("{number}={url}")
    });
    named.collect::<Vec<_>>().join(",")
}

async fn services(
    resolver: &Resolver,
    service: &str,
    domain: &str,
) -> Result<Vec<Service>, String> {
    let name = format!("_{service}._tcp.{domain}");
    resolver.services(&name).await.map_err(|error| error.to_string())
}

async fn own_addresses(advertised: &UrlList) -> Result<Vec<SocketAddr>, Error> {
    let mut own = Vec::new();
    for url in advertised {
        let (host, port) = (url.host().unwrap_or_default(), url.port().unwrap_or_default());
        let found = addresses(host, port).await;
        own.extend(found.map_err(|source| Error::OwnAddress { url: url.to_string(), source })?);
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
        assert_eq!(name_all(&members, "me"), "0=http://a:1,me=http://b:1,1=http://c:1");
    }
}
