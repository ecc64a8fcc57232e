//! Whether a certificate was made out to where its connection comes from.

use std::net::IpAddr;

use super::words;
use super::x509::Names;
use crate::dns::Resolver;

/// Checks a client's certificate against its address, as etcd does between members. One that names no host passes.
///
/// Addresses in the certificate are compared. Otherwise names are: with those of the address, where a star may stand for
/// anything in front, and by their own addresses.
///
/// # Errors
/// In etcd's words.
pub(super) async fn check(names: &Names, ip: IpAddr) -> Result<(), String> {
    let ip = ip.to_canonical();
    if names.include(&ip.to_string()) {
        return Ok(());
    }
    if !names.dns_names.is_empty() {
        return check_names(&names.dns_names, ip).await;
    }
    if names.ip_addresses.is_empty() {
        return Ok(());
    }
    let ip = ip.to_string();
    Err(words::other_host(&ip, &names.comparable(&ip)))
}

async fn check_names(dns_names: &[String], ip: IpAddr) -> Result<(), String> {
    let mut last_error = None;
    match names_of(ip).await {
        Ok(own) if own.iter().any(|own| is_named(dns_names, own)) => return Ok(()),
        Ok(_) => {}
        Err(error) => last_error = Some(error),
    }
    for name in dns_names.iter().filter(|name| !name.starts_with("*.")) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut found) => {
                if found.any(|found| found.ip().to_canonical() == ip) {
                    return Ok(());
                }
            }
            Err(error) => last_error = Some(format!("lookup {name}: {error}")),
        }
    }
    let names = dns_names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ");
    let reason = last_error.map(|error| format!(" ({error})")).unwrap_or_default();
    Err(format!("tls: \"{ip}\" does not match any of DNSNames [{names}]{reason}"))
}

fn is_named(dns_names: &[String], own: &str) -> bool {
    dns_names.iter().any(|name| match name.strip_prefix('*') {
        Some(end) if end.starts_with('.') => own.ends_with(end),
        _ => name == own,
    })
}

/// From the machine's own list of hosts, or else from DNS.
async fn names_of(ip: IpAddr) -> Result<Vec<String>, String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let listed = listed_names(&hosts, ip);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let resolver = Resolver::of_system().map_err(|error| error.to_string())?;
    resolver.names(ip).await.map_err(|error| error.to_string())
}

fn listed_names(hosts: &str, ip: IpAddr) -> Vec<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let entries = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.parse() == Ok(ip)).then_some(words)
    });
    entries.flatten().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dns: &[&str], ips: &[&str]) -> Names {
        Names {
            common_name: "m1".to_owned(),
            dns_names: dns.iter().map(|&name| name.to_owned()).collect(),
            ip_addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    #[tokio::test]
    async fn addresses_and_names_must_fit() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        for fits in [names(&[], &[]), names(&[], &["127.0.0.1"]), names(&["localhost"], &[])] {
            assert_eq!(check(&fits, loopback).await, Ok(()), "{fits:?}");
        }
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(check(&names(&[], &["127.0.0.1"]), mapped).await, Ok(()));
        assert_eq!(
            check(&names(&[], &["10.0.0.1", "10.0.0.2"]), loopback).await.unwrap_err(),
            "x509: certificate is valid for 10.0.0.1, 10.0.0.2, not 127.0.0.1"
        );
        let error = check(&names(&["nowhere.invalid"], &["10.0.0.1"]), loopback).await.unwrap_err();
        let expected = "tls: \"127.0.0.1\" does not match any of DNSNames [\"nowhere.invalid\"]";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn stars_stand_for_anything_in_front() {
        let dns = ["*.example.com".to_owned(), "b".to_owned()];
        for own in ["a.example.com", "a.b.example.com", "b"] {
            assert!(is_named(&dns, own), "{own}");
        }
        for own in ["example.com", "c"] {
            assert!(!is_named(&dns, own), "{own}");
        }
    }

    #[test]
    fn the_list_of_hosts_has_names() {
        let hosts = "# 10.0.0.1 no\n127.0.0.1\tlocalhost l # comment\n10.0.0.1 a\n10.0.0.1 b\n";
        assert_eq!(listed_names(hosts, [10, 0, 0, 1].into()), ["a", "b"]);
        assert_eq!(listed_names(hosts, [127, 0, 0, 1].into()), ["localhost", "l"]);
    }
}
