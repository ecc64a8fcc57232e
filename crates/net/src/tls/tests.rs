//! Handshakes between an acceptor and a connector over sockets of this machine.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::ProtocolVersion;

use super::*;
use crate::Stream;

/// An authority and the files that it has made.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let name = format!("authority {:02x?}", &key.public_key_raw()[1..9]);
        params.distinguished_name.push(DnType::CommonName, name);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes `NAME.pem` and `NAME.key`, for these hosts. The common name is the name.
    fn sign(&self, name: &str, serial: u64, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn revoke(&self, serial: u64) -> rcgen::CertificateRevocationList {
        let entry = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2021, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![entry],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap()
    }

    /// Settings that show this certificate and trust this authority.
    fn settings(&self, name: &str) -> Settings {
        Settings {
            cert_file: self.path(&format!("{name}.pem")),
            key_file: self.path(&format!("{name}.key")),
            trusted_ca_file: self.path("ca.pem"),
            ..Settings::default()
        }
    }
}

/// What both sides say of a connection. That counts as let in which brings a byte there and back.
async fn meet(acceptor: &Acceptor, connector: &Connector) -> (Result<Stream, Rejected>, Met) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (stream, remote) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(Stream::Tcp(stream), Some(remote)).await?;
        let byte = stream.read_u8().await.unwrap();
        stream.write_u8(byte).await.unwrap();
        stream.flush().await.unwrap();
        Ok(stream)
    };
    tokio::join!(accepting, dial(address, connector))
}

type Met = Result<Stream, String>;

async fn dial(address: SocketAddr, connector: &Connector) -> Met {
    let stream = Stream::Tcp(TcpStream::connect(address).await.unwrap());
    let mut stream =
        connector.connect(stream, "127.0.0.1").await.map_err(|error| error.to_string())?;
    let exchange = async {
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    match exchange.await {
        Ok(_) => Ok(stream),
        Err(error) => Err(words::handshake(&error)),
    }
}

fn version(stream: &Stream) -> ProtocolVersion {
    let Stream::Tls(stream) = stream else { panic!("not encrypted") };
    stream.get_ref().1.protocol_version().unwrap()
}

fn reason(result: Result<Stream, Rejected>) -> String {
    result.expect_err("it is rejected").to_string()
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let authority = Authority::new();
    authority.sign("server", 1, &["127.0.0.1", "localhost"]);
    authority.sign("client", 2, &[]);
    let acceptor = Acceptor::new(&authority.settings("server"), &["h2", "http/1.1"], true).unwrap();
    let connector = Connector::new(&authority.settings("client"), &["h2"], false).unwrap();
    let (accepted, dialled) = meet(&acceptor, &connector).await;
    let (accepted, dialled) = (accepted.unwrap(), dialled.unwrap());
    assert_eq!(accepted.peer_names().unwrap().common_name, "client");
    assert_eq!(dialled.peer_names().unwrap().dns_names, ["localhost"]);
    assert_eq!(version(&accepted), ProtocolVersion::TLSv1_3);

    let nameless =
        Settings { cert_file: PathBuf::new(), key_file: PathBuf::new(), ..authority.settings("") };
    let (accepted, _) = meet(&acceptor, &Connector::new(&nameless, &[], false).unwrap()).await;
    assert_eq!(reason(accepted), "tls: client didn't provide a certificate");
    // Without authorities nobody is asked.
    let open = Settings { trusted_ca_file: PathBuf::new(), ..authority.settings("server") };
    let open = Acceptor::new(&open, &[], true).unwrap();
    let (accepted, dialled) = meet(&open, &connector).await;
    assert_eq!(accepted.unwrap().peer_names(), None);
    dialled.unwrap();
}

#[tokio::test]
async fn strangers_are_not_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.sign("server", 1, &["127.0.0.1"]);
    theirs.sign("client", 1, &[]);
    let acceptor = Acceptor::new(&ours.settings("server"), &[], false).unwrap();
    let settings = Settings { trusted_ca_file: ours.path("ca.pem"), ..theirs.settings("client") };
    let (accepted, dialled) =
        meet(&acceptor, &Connector::new(&settings, &[], false).unwrap()).await;
    let unknown =
        "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(reason(accepted), unknown);
    assert_eq!(dialled.unwrap_err(), "remote error: tls: unknown certificate authority");

    let connector = Connector::new(&theirs.settings("client"), &[], false).unwrap();
    let (accepted, dialled) = meet(&acceptor, &connector).await;
    assert_eq!(dialled.unwrap_err(), unknown);
    assert_eq!(reason(accepted), "remote error: tls: unknown certificate authority");

    // The name counts as well, and nothing of it for those who do not look.
    ours.sign("server", 1, &["10.0.0.1"]);
    ours.sign("client", 2, &[]);
    let connector = Connector::new(&ours.settings("client"), &[], false).unwrap();
    let (_, dialled) = meet(&acceptor, &connector).await;
    let other_host =
        "tls: failed to verify certificate: x509: certificate is valid for 10.0.0.1, not 127.0.0.1";
    assert_eq!(dialled.unwrap_err(), other_host);
    let blind = Connector::new(&ours.settings("client"), &[], true).unwrap();
    meet(&acceptor, &blind).await.1.unwrap();
    let named = Settings { server_name: Some("10.0.0.1".to_owned()), ..ours.settings("client") };
    meet(&acceptor, &Connector::new(&named, &[], false).unwrap()).await.1.unwrap();
}

#[tokio::test]
async fn a_trusted_certificate_needs_no_authority() {
    let dir = tempfile::tempdir().unwrap();
    let urls = [crate::Url::parse("https://127.0.0.1:1").unwrap()];
    let made = create_self_signed(dir.path(), &urls, 1).unwrap();
    let own = made.into_settings(&Settings::default());
    let acceptor = Acceptor::new(&own, &[], true).unwrap();
    let trusting = Settings { trusted_ca_file: own.cert_file.clone(), ..Settings::default() };
    meet(&acceptor, &Connector::new(&trusting, &[], false).unwrap()).await.1.unwrap();
    // Others with such certificates believe it unseen.
    meet(&acceptor, &Connector::new(&own, &[], false).unwrap()).await.1.unwrap();
    let wrong = Settings { server_name: Some("10.0.0.1".to_owned()), ..trusting };
    let (_, dialled) = meet(&acceptor, &Connector::new(&wrong, &[], false).unwrap()).await;
    let other_host =
        "tls: failed to verify certificate: x509: certificate is valid for 127.0.0.1, not 10.0.0.1";
    assert_eq!(dialled.unwrap_err(), other_host);
}

#[tokio::test]
async fn versions_and_suites_are_agreed_on() {
    let authority = Authority::new();
    authority.sign("node", 1, &["127.0.0.1"]);
    let settings = authority.settings("node");
    let old = Settings { version_max: Some(Version::Tls12), ..settings.clone() };
    let new = Settings { version_min: Version::Tls13, ..settings.clone() };
    let acceptor = |settings: &Settings| Acceptor::new(settings, &[], false).unwrap();
    let connector = |settings: &Settings| Connector::new(settings, &[], false).unwrap();
    let (accepted, _) = meet(&acceptor(&settings), &connector(&old)).await;
    assert_eq!(version(&accepted.unwrap()), ProtocolVersion::TLSv1_2);
    let (accepted, dialled) = meet(&acceptor(&new), &connector(&old)).await;
    assert_eq!(reason(accepted), "tls: client offered only unsupported versions");
    assert_eq!(dialled.unwrap_err(), "remote error: tls: protocol version not supported");

    let suite = |name: &str| Settings { cipher_suites: vec![name.to_owned()], ..old.clone() };
    let (short, long) = (
        suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        suite("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    );
    meet(&acceptor(&short), &connector(&short)).await.1.unwrap();
    let (accepted, _) = meet(&acceptor(&short), &connector(&long)).await;
    assert_eq!(reason(accepted), "tls: no cipher suite supported by both client and server");
}

#[tokio::test]
async fn renewed_files_are_taken_up_and_broken_ones_refuse() {
    let authority = Authority::new();
    authority.sign("server", 1, &["127.0.0.1", "old"]);
    authority.sign("client", 2, &[]);
    let acceptor = Acceptor::new(&authority.settings("server"), &[], false).unwrap();
    let connector = Connector::new(&authority.settings("client"), &[], false).unwrap();
    let names = |stream: Stream| stream.peer_names().unwrap();
    let before = names(meet(&acceptor, &connector).await.1.unwrap());
    assert_eq!(before.dns_names, ["old"]);
    authority.sign("server", 3, &["127.0.0.1", "new"]);
    authority.sign("client", 4, &["client-too"]);
    let (accepted, dialled) = meet(&acceptor, &connector).await;
    assert_eq!(names(dialled.unwrap()).dns_names, ["new"]);
    assert_eq!(names(accepted.unwrap()).dns_names, ["client-too"]);

    fs::write(authority.path("server.key"), "nothing").unwrap();
    let rejected = meet(&acceptor, &connector).await.0.unwrap_err();
    assert!(matches!(&rejected.reason, Reason::Identity(error) if !error.is_not_found()));
    assert_eq!(rejected.to_string(), "tls: failed to find any PEM data in key input");
    fs::remove_file(authority.path("server.pem")).unwrap();
    let rejected = meet(&acceptor, &connector).await.0.unwrap_err();
    assert!(matches!(&rejected.reason, Reason::Identity(error) if error.is_not_found()));
    let path = authority.path("server.pem");
    assert_eq!(rejected.to_string(), format!("open {}: no such file or directory", path.display()));
    authority.sign("server", 5, &["127.0.0.1"]);
    meet(&acceptor, &connector).await.1.unwrap();
}

#[tokio::test]
async fn revoked_certificates_are_refused() {
    let authority = Authority::new();
    authority.sign("server", 1, &["127.0.0.1"]);
    authority.sign("client", 0x1234, &["a.example.com"]);
    let crl_file = authority.path("crl");
    let settings = Settings { crl_file: crl_file.clone(), ..authority.settings("server") };
    let acceptor = Acceptor::new(&settings, &[], false).unwrap();
    let connector = Connector::new(&authority.settings("client"), &[], false).unwrap();
    let missing = format!("open {}: no such file or directory", crl_file.display());
    assert_eq!(reason(meet(&acceptor, &connector).await.0), missing);
    fs::write(&crl_file, authority.revoke(1).der()).unwrap();
    meet(&acceptor, &connector).await.1.unwrap();
    let list = authority.revoke(0x1234);
    for text in [list.der().to_vec(), list.pem().unwrap().into_bytes()] {
        fs::write(&crl_file, text).unwrap();
        let rejected = meet(&acceptor, &connector).await.0.unwrap_err();
        assert_eq!(rejected.to_string(), "transport: certificate serial 1234 revoked");
        assert_eq!(rejected.names.unwrap().dns_names, ["a.example.com"]);
    }
    for text in ["", "nothing", "-----BEGIN nothing"] {
        fs::write(&crl_file, text).unwrap();
        let expected = format!("{} is no certificate revocation list", crl_file.display());
        assert_eq!(reason(meet(&acceptor, &connector).await.0), expected);
    }
}

#[tokio::test]
async fn only_allowed_names_are_let_in() {
    let authority = Authority::new();
    authority.sign("server", 1, &["127.0.0.1"]);
    authority.sign("good", 2, &["good.example.com"]);
    authority.sign("bad", 3, &["bad.example.com"]);
    let list = |name: &str| vec!["other".to_owned(), name.to_owned()];
    let own = authority.settings("server");
    let by_name = Settings { allowed_cns: list("good"), ..own.clone() };
    let by_host = Settings { allowed_hostnames: list("good.example.com"), ..own.clone() };
    for settings in [by_name, by_host] {
        let acceptor = Acceptor::new(&settings, &[], false).unwrap();
        let connector = |name| Connector::new(&authority.settings(name), &[], false).unwrap();
        meet(&acceptor, &connector("good")).await.1.unwrap();
        let (accepted, dialled) = meet(&acceptor, &connector("bad")).await;
        assert_eq!(reason(accepted), "client certificate authentication failed");
        assert_eq!(dialled.unwrap_err(), "remote error: tls: bad certificate");
    }
    // They hold for those whom we dial, too.
    let acceptor = Acceptor::new(&own, &[], false).unwrap();
    for (name, is_allowed) in [("server", true), ("good", false)] {
        let settings = Settings { allowed_cns: list(name), ..authority.settings("good") };
        let connector = Connector::new(&settings, &[], false).unwrap();
        assert_eq!(meet(&acceptor, &connector).await.1.is_ok(), is_allowed, "{name}");
    }
    let both = Settings { allowed_cns: list("a"), allowed_hostnames: list("b"), ..own };
    assert_eq!(
        Acceptor::new(&both, &[], false).unwrap_err().to_string(),
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"other\" \"a\"], hostnames=[\"other\" \"b\"])"
    );
}

#[tokio::test]
async fn certificates_belong_to_addresses_where_that_is_asked() {
    let authority = Authority::new();
    authority.sign("server", 1, &["127.0.0.1"]);
    authority.sign("elsewhere", 2, &["10.0.0.1"]);
    let connector = Connector::new(&authority.settings("elsewhere"), &[], false).unwrap();
    let own = authority.settings("server");
    let skipping = Settings { skips_client_san_verification: true, ..own.clone() };
    for (settings, checks_origin) in [(&own, false), (&skipping, true)] {
        let acceptor = Acceptor::new(settings, &[], checks_origin).unwrap();
        meet(&acceptor, &connector).await.1.unwrap();
    }
    let (accepted, _) = meet(&Acceptor::new(&own, &[], true).unwrap(), &connector).await;
    assert_eq!(reason(accepted), "x509: certificate is valid for 10.0.0.1, not 127.0.0.1");
}

#[tokio::test]
async fn what_is_no_handshake_is_told_apart() {
    let authority = Authority::new();
    authority.sign("server", 1, &["127.0.0.1"]);
    let acceptor = Acceptor::new(&authority.settings("server"), &[], false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rejected = async |bytes: &[u8]| {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        acceptor.accept(Stream::Tcp(stream), Some(remote)).await.unwrap_err()
    };
    let plain = rejected(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(plain.to_string(), "tls: first record does not look like a TLS handshake");
    assert!(matches!(rejected(b"").await.reason, Reason::Eof));
}

#[test]
fn half_settings_are_refused() {
    let authority = Authority::new();
    authority.sign("node", 1, &[]);
    let whole = authority.settings("node");
    let refused =
        |settings: &Settings| Acceptor::new(settings, &[], false).unwrap_err().to_string();
    let pem = whole.cert_file.display();
    let half = Settings { key_file: PathBuf::new(), ..whole.clone() };
    let expected = format!("KeyFile and CertFile must both be present[key: , cert: {pem}]");
    assert_eq!(refused(&half), expected);
    let half = Settings { client_cert_file: whole.cert_file.clone(), ..whole.clone() };
    let expected = format!(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: {pem}]"
    );
    assert_eq!(refused(&half), expected);
    let missing = Settings { trusted_ca_file: PathBuf::from("/nowhere"), ..whole.clone() };
    assert_eq!(refused(&missing), "open /nowhere: no such file or directory");
    authority.sign("other", 2, &[]);
    let mixed = Settings { key_file: authority.path("other.key"), ..whole.clone() };
    assert_eq!(refused(&mixed), "tls: private key does not match public key");
    let empty = Settings { trusted_ca_file: Path::new("/dev/null").to_owned(), ..whole };
    assert_eq!(refused(&empty), "no certificate in /dev/null");
}
