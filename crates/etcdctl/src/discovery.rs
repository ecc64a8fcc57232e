//! Finding endpoints in DNS, as `--discovery-srv` asks.
//!
//! A domain names its members by SRV records: `_etcd-client-ssl._tcp` those with TLS, `_etcd-client._tcp` those without.
//! `--discovery-srv-name` adds a suffix to both names, so that one domain can have several clusters.

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

const SERVICE: &str = "etcd-client";

/// The endpoints of a domain: encrypted ones first, then by priority and weight.
///
/// # Errors
/// Neither of the two names leads anywhere; in Go's words.
pub(crate) async fn endpoints(domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    let resolver = TokioResolver::builder_tokio().and_then(ResolverBuilder::build);
    let resolver = resolver.map_err(|error| format!("dns lookup errors: {error}"))?;
    look_up(&resolver, domain, suffix).await
}

async fn look_up(
    resolver: &TokioResolver,
    domain: &str,
    suffix: &str,
) -> Result<Vec<String>, String> {
    let encrypted = records(resolver, &name("-ssl", suffix, domain)).await;
    let plain = records(resolver, &name("", suffix, domain)).await;
    if let (Err(encrypted), Err(plain)) = (&encrypted, &plain) {
        return Err(format!("dns lookup errors: {encrypted} and {plain}"));
    }
    let with_scheme = |scheme: &'static str, found: Result<Vec<SRV>, String>| {
        found.unwrap_or_default().into_iter().map(move |record| endpoint(scheme, &record))
    };
    Ok(with_scheme("https", encrypted).chain(with_scheme("http", plain)).collect())
}

fn name(kind: &str, suffix: &str, domain: &str) -> String {
    let dash = if suffix.is_empty() { "" } else { "-" };
    format!("_{SERVICE}{kind}{dash}{suffix}._tcp.{}.", domain.trim_end_matches('.'))
}

async fn records(resolver: &TokioResolver, name: &str) -> Result<Vec<SRV>, String> {
    let shown = name.trim_end_matches('.');
    let answer = resolver.lookup(name, RecordType::SRV).await.map_err(|error| {
        let why =
            if error.is_no_records_found() { "no such host".to_owned() } else { error.to_string() };
        format!("lookup {shown}: {why}")
    })?;
    let mut records: Vec<SRV> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(record) => Some(record.clone()),
            _ => None,
        })
        .collect();
    // Lower priorities come first, and within one the greater weights.
    records.sort_by_key(|record| (record.priority, std::cmp::Reverse(record.weight)));
    Ok(records)
}

fn endpoint(scheme: &str, record: &SRV) -> String {
    let target = record.target.to_utf8();
    format!("{scheme}://{}:{}", target.trim_end_matches('.'), record.port)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::{Name, Record};

    use super::*;

    /// A resolver that asks a name server which knows these records only, as (name, priority, weight, target, port).
    fn resolver_of(known: &'static [(&str, u16, u16, &str, u16)]) -> TokioResolver {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            let mut packet = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let answer = answer(&Message::from_vec(&packet[..length]).unwrap(), known);
                socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    fn answer(question: &Message, known: &[(&str, u16, u16, &str, u16)]) -> Message {
        let mut answer = question.clone().into_response();
        let asked = question.queries[0].name().clone();
        for (name, priority, weight, target, port) in known {
            let name = Name::from_ascii(name).unwrap();
            if name == asked {
                let record = SRV::new(*priority, *weight, *port, Name::from_ascii(target).unwrap());
                answer.add_answer(Record::from_rdata(name, 60, RData::SRV(record)));
            }
        }
        if answer.answers.is_empty() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        answer
    }

    #[tokio::test]
    async fn encrypted_endpoints_come_first_then_low_priorities_then_great_weights() {
        let resolver = resolver_of(&[
            ("_etcd-client._tcp.example.com.", 1, 1, "plain.example.com.", 2379),
            ("_etcd-client-ssl._tcp.example.com.", 2, 1, "third.example.com.", 1),
            ("_etcd-client-ssl._tcp.example.com.", 1, 5, "second.example.com.", 2),
            ("_etcd-client-ssl._tcp.example.com.", 1, 9, "first.example.com.", 3),
            ("_etcd-client-blue._tcp.example.com.", 1, 1, "blue.example.com.", 2379),
        ]);
        assert_eq!(
            look_up(&resolver, "example.com", "").await.unwrap(),
            [
                "https://first.example.com:3",
                "https://second.example.com:2",
                "https://third.example.com:1",
                "http://plain.example.com:2379",
            ]
        );
        assert_eq!(
            look_up(&resolver, "example.com.", "blue").await.unwrap(),
            ["http://blue.example.com:2379"]
        );
    }

    #[tokio::test]
    async fn a_domain_without_members_is_an_error() {
        let resolver = resolver_of(&[]);
        assert_eq!(
            look_up(&resolver, "example.com", "").await.unwrap_err(),
            "dns lookup errors: lookup _etcd-client-ssl._tcp.example.com: no such host and \
             lookup _etcd-client._tcp.example.com: no such host"
        );
    }
}
