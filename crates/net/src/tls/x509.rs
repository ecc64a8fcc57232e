//! What certificates and revocation lists say: the few fields that etcd's rules ask for.
//!
//! Nothing here decides whom to trust: signatures and chains are webpki's. A certificate that cannot be read says nothing,
//! so its owner has no names; a list that cannot be read is an error, as it might have named somebody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::der::{Elements, INTEGER, OCTET_STRING, SEQUENCE};

/// The owner of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Of the subject; empty when it has none.
    pub common_name: String,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
}

/// The parts of a certificate that are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Without leading zeros.
    pub(super) serial: Vec<u8>,
    pub(super) names: Names,
    /// In seconds since 1970, both included.
    pub(super) valid: std::ops::RangeInclusive<i64>,
}

const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl Certificate {
    /// None for what is no certificate.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let body = Elements(der).expect_tag(SEQUENCE)?;
        let mut fields = Elements(Elements(body).expect_tag(SEQUENCE)?);
        fields.skip_tag(VERSION);
        let serial = fields.expect_tag(INTEGER)?;
        let _algorithm = fields.expect_tag(SEQUENCE)?;
        let _issuer = fields.expect_tag(SEQUENCE)?;
        let mut validity = Elements(fields.expect_tag(SEQUENCE)?);
        let valid = time(validity.next()?)?..=time(validity.next()?)?;
        let subject = fields.expect_tag(SEQUENCE)?;
        let _key = fields.expect_tag(SEQUENCE)?;
        let mut names =
            Names { common_name: common_name(subject).unwrap_or_default(), ..Names::default() };
        let extensions = fields.find(|(tag, _)| *tag == EXTENSIONS);
        if let Some((_, extensions)) = extensions {
            read_alternative_names(extensions, &mut names)?;
        }
        Some(Self { serial: without_zeros(serial).to_vec(), names, valid })
    }
}

/// The last one, as Go reads it.
fn common_name(subject: &[u8]) -> Option<String> {
    let sets = Elements(subject).filter(|(tag, _)| *tag == SET);
    let attributes = sets.flat_map(|(_, set)| Elements(set));
    let values = attributes.filter_map(|(_, attribute)| {
        let mut parts = Elements(attribute);
        (parts.expect_tag(OID)? == COMMON_NAME).then(|| parts.next())?
    });
    values.last().map(|(_, text)| String::from_utf8_lossy(text).into_owned())
}

fn read_alternative_names(extensions: &[u8], names: &mut Names) -> Option<()> {
    for (_, extension) in Elements(Elements(extensions).expect_tag(SEQUENCE)?) {
        let mut parts = Elements(extension);
        if parts.expect_tag(OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        let (_, value) = parts.find(|(tag, _)| *tag == OCTET_STRING)?;
        for (tag, name) in Elements(Elements(value).expect_tag(SEQUENCE)?) {
            match tag {
                DNS_NAME => names.dns_names.push(String::from_utf8_lossy(name).into_owned()),
                IP_ADDRESS => names.ip_addresses.extend(address(name)),
                _ => {}
            }
        }
    }
    Some(())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` as seconds since 1970.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let days = days_since_1970(year, part(0)?, part(2)?);
    Some(((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?)
}

/// In the Gregorian calendar, with a year that begins in March, so that the leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|digit| **digit == 0).count();
    &number[zeros..]
}

/// The serial numbers that a revocation list in DER revokes, without leading zeros. None for what is no such list.
pub(super) fn revoked_serials(der: &[u8]) -> Option<Vec<&[u8]>> {
    let body = Elements(der).expect_tag(SEQUENCE)?;
    let mut fields = Elements(Elements(body).expect_tag(SEQUENCE)?);
    fields.skip_tag(INTEGER);
    let _algorithm = fields.expect_tag(SEQUENCE)?;
    let _issuer = fields.expect_tag(SEQUENCE)?;
    let is_time = |(tag, _): (u8, _)| [UTC_TIME, GENERALIZED_TIME].contains(&tag);
    fields.next().filter(|field| is_time(*field))?;
    if fields.clone().next().is_some_and(is_time) {
        fields.next();
    }
    let Some(revoked) = fields.skip_tag(SEQUENCE) else { return Some(Vec::new()) };
    let mut entries = Elements(revoked);
    let serials = entries
        .by_ref()
        .map(|(_, entry)| Some(without_zeros(Elements(entry).expect_tag(INTEGER)?)))
        .collect::<Option<Vec<_>>>()?;
    entries.is_at_end().then_some(serials)
}

impl Names {
    /// Those of the first certificate of a chain; none without one that can be read.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        Some(Certificate::read(chain.first()?)?.names)
    }

    /// Whether the certificate was made out to this host, as Go decides it: the common name does not count.
    pub(super) fn include(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return self.ip_addresses.iter().any(|own| own.to_canonical() == ip.to_canonical());
        }
        let host = host.to_ascii_lowercase();
        self.dns_names.iter().any(|name| is_match(&name.to_ascii_lowercase(), &host))
    }

    /// The names that a host is compared with, as texts: addresses for an address.
    pub(super) fn comparable(&self, host: &str) -> Vec<String> {
        if host.parse::<IpAddr>().is_ok() {
            self.ip_addresses.iter().map(IpAddr::to_string).collect()
        } else {
            self.dns_names.clone()
        }
    }
}

/// A star stands for the whole first label.
fn is_match(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.trim_end_matches('.'), host.trim_end_matches('.'));
    if pattern.is_empty() || host.is_empty() {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(parent) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
        }
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, DnType, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;

    fn params() -> CertificateParams {
        let names = ["localhost", "*.example.com", "10.1.2.3", "fd00::1"];
        let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "etcd");
        params.distinguished_name.push(DnType::CommonName, "root");
        params.serial_number = Some(SerialNumber::from(vec![0x12, 0x34]));
        params.not_before = date_time_ymd(1970, 1, 2);
        params.not_after = date_time_ymd(2096, 3, 1);
        params
    }

    #[test]
    fn what_a_certificate_says() {
        let certificate = params().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::read(certificate.der()).unwrap();
        assert_eq!(read.serial, [0x12, 0x34]);
        assert_eq!(read.names.common_name, "root");
        assert_eq!(read.names.dns_names, ["localhost", "*.example.com"]);
        let ips: Vec<IpAddr> = vec!["10.1.2.3".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(read.names.ip_addresses, ips);
        assert_eq!(read.valid, 86_400..=3_981_398_400);
        for cut in 0..certificate.der().len() {
            assert_eq!(Certificate::read(&certificate.der()[..cut]), None, "{cut} bytes");
        }
    }

    #[test]
    fn a_certificate_may_have_no_names() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(Certificate::read(certificate.der()).unwrap().names, Names::default());
    }

    #[test]
    fn a_list_names_serial_numbers() {
        let entry = |serial: &[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = |serials: &[&[u8]]| {
            let mut params = params();
            params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
            let issuer = Issuer::new(params, KeyPair::generate().unwrap());
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2020, 1, 1),
                next_update: date_time_ymd(2070, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: serials.iter().copied().map(entry).collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&issuer).unwrap().der().to_vec()
        };
        let both = list(&[&[1, 2], &[0xff]]);
        assert_eq!(revoked_serials(&both), Some(vec![&[1, 2][..], &[0xff]]));
        assert_eq!(revoked_serials(&list(&[])), Some(Vec::new()));
        for cut in 0..both.len() {
            assert_eq!(revoked_serials(&both[..cut]), None, "{cut} bytes");
        }
    }

    #[test]
    fn names_match_hosts_as_in_go() {
        let names =
            Certificate::read(params().self_signed(&KeyPair::generate().unwrap()).unwrap().der());
        let names = names.unwrap().names;
        for host in ["localhost", "LOCALHOST", "a.example.com", "10.1.2.3", "[fd00::1]", "fd00::1"]
        {
            assert!(names.include(host), "{host}");
        }
        for host in ["root", "example.com", "a.b.example.com", ".example.com", "10.1.2.4", ""] {
            assert!(!names.include(host), "{host}");
        }
    }
}
