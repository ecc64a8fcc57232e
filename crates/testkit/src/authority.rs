//! Certificates for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// Somebody who signs certificates, in a directory that goes away with it.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    serial: AtomicU64,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// # Panics
    /// As everything here: no file can be written.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("there are random numbers");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // No two of them have the same name.
        let name = format!("authority {:02x?}", &key.public_key_raw()[1..9]);
        params.distinguished_name.push(DnType::CommonName, name);
        let dir = TempDir::new().expect("a temporary directory can be made");
        let certificate = params.self_signed(&key).expect("the key can sign");
        write(&dir.path().join("ca.crt"), &certificate.pem());
        Authority { dir, issuer: Issuer::new(params, key), serial: AtomicU64::new(1) }
    }

    /// `ca.crt`, `crl`, and `NAME.crt` and `NAME.key` of the signed ones.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The same as a text.
    pub fn file(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// Signs a certificate for servers and clients with this common name, for these hosts. One of the same name is replaced.
    /// Returns its serial number.
    pub fn sign(&self, name: &str, hosts: &[&str]) -> u64 {
        self.sign_into(self.dir.path(), name, hosts)
    }

    /// The same into another directory.
    pub fn sign_into(&self, dir: &Path, name: &str, hosts: &[&str]) -> u64 {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("these are hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("there are random numbers");
        let certificate = params.signed_by(&key, &self.issuer).expect("the key can sign");
        write(&dir.join(format!("{name}.crt")), &certificate.pem());
        write(&dir.join(format!("{name}.key")), &key.serialize_pem());
        serial
    }

    /// Writes the file `crl`, which revokes these certificates and no others.
    pub fn revoke(&self, serials: &[u64]) {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("the key can sign");
        std::fs::write(self.path("crl"), list.der()).expect("the directory can be written to");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the directory can be written to");
}
