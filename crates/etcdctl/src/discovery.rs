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
