//! Certificates for those who have none: `--auto-tls` and `--peer-auto-tls`.
//!
//! Anybody can make such a certificate, so nobody is to verify it: it keeps listeners from hearing and nothing else. It is
//! made once and used again at later starts. etcd's keys are on the curve P-521; these are on P-384, the longest that our
//! cryptography has.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType,
};

use super::Settings;
use crate::Url;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Of the directory and the key.
const DIRECTORY_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    NoValidity,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("create a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Where a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfSigned {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Until when it is good, if it was made now.
    pub made_until: Option<SystemTime>,
}

impl SelfSigned {
    /// Settings that use it, with the protocol's rules of `settings`; its files and other rules are forgotten, as in etcd.
    pub fn into_settings(self, settings: &Settings) -> Settings {
        Settings {
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            client_cert_file: self.cert_file,
            client_key_file: self.key_file,
            is_self_signed: true,
            version_min: settings.version_min,
            version_max: settings.version_max,
            cipher_suites: settings.cipher_suites.clone(),
            ..Settings::default()
        }
    }
}

/// Makes `cert.pem` and `key.pem` in a directory, unless both are there; for the hosts of these URLs, good for so many years.
///
/// # Errors
/// Files that cannot be written.
pub fn create_self_signed(dir: &Path, urls: &[Url], years: u32) -> Result<SelfSigned, Error> {
    if years == 0 {
        return Err(Error::NoValidity);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir).map_err(failed(dir))?;
    let dir = fs::canonicalize(dir).map_err(failed(dir))?;
    let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
    if cert_file.exists() && key_file.exists() {
        return Ok(SelfSigned { cert_file, key_file, made_until: None });
    }
    let now = SystemTime::now();
    let until = now + YEAR * years;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let certificate = params(urls, now, until)?.self_signed(&key)?;
    fs::write(&cert_file, certificate.pem()).map_err(failed(&cert_file))?;
    write_key(&key_file, &key.serialize_pem()).map_err(failed(&key_file))?;
    Ok(SelfSigned { cert_file, key_file, made_until: Some(until) })
}

fn params(urls: &[Url], from: SystemTime, until: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.not_before = from.into();
    params.not_after = until.into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for host in urls.iter().filter_map(Url::host).filter(|host| !host.is_empty()) {
        let name = match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(host.try_into()?),
        };
        if !params.subject_alt_names.contains(&name) {
            params.subject_alt_names.push(name);
        }
    }
    Ok(params)
}

fn write_key(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(KEY_MODE).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::x509::Certificate;
    use super::*;

    #[test]
    fn a_certificate_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("fixtures/client");
        let urls = ["https://localhost:1", "https://127.0.0.1:1", "https://127.0.0.1:2"];
        let urls = urls.map(|url| Url::parse(url).unwrap());
        let made = create_self_signed(&dir, &urls, 2).unwrap();
        let left = made.made_until.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left > YEAR && left <= YEAR * 2);
        let mode = fs::metadata(&made.key_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, KEY_MODE);

        let pem = fs::read(&made.cert_file).unwrap();
        let read = super::super::identity::certificates(&made.cert_file, &pem).unwrap();
        let names = Certificate::read(&read[0]).unwrap().names;
        assert_eq!((&*names.common_name, &*names.dns_names), ("", &["localhost".to_owned()][..]));
        assert_eq!(names.ip_addresses, [IpAddr::from([127, 0, 0, 1])]);

        let again = create_self_signed(&dir, &urls, 1).unwrap();
        assert_eq!(again, SelfSigned { made_until: None, ..made });
        assert_eq!(fs::read(&again.cert_file).unwrap(), pem);
        let error = create_self_signed(&dir, &urls, 0).unwrap_err();
        assert!(error.to_string().starts_with("selfSignedCertValidity is invalid"));
    }
}
