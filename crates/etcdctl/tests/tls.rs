//! Encrypted endpoints, as the flags for files lead to them. Against real etcd, with certificates made here.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use retcd_testkit::{Member, Outcome, Port, Tool, real_etcd};
use tempfile::TempDir;

/// Files with certificates and keys.
struct Files {
    dir: TempDir,
}

impl Files {
    /// An authority, and a certificate of it for 127.0.0.1 on both sides of a connection.
    fn make() -> Self {
        let files = Files { dir: TempDir::new().unwrap() };
        for name in ["ca", "other-ca"] {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
            let authority = authority.unwrap();
            std::fs::write(files.path(&format!("{name}.crt")), authority.pem()).unwrap();
            if name == "ca" {
                files.issue(&authority);
            }
        }
        files
    }

    fn issue(&self, authority: &CertifiedIssuer<'_, KeyPair>) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        std::fs::write(self.path("member.crt"), certificate.pem()).unwrap();
        std::fs::write(self.path("member.key"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn stderr(outcome: &Outcome) -> String {
    String::from_utf8(outcome.stderr.clone()).unwrap()
}

#[test]
fn files_lead_to_encrypted_endpoints() {
    let Some(dir) = real_etcd() else {
        println!("skipped: needs ETCD_REAL");
        return;
    };
    let files = Files::make();
    let [ca, cert, key] = ["ca.crt", "member.crt", "member.key"].map(|name| files.text(name));
    let port = Port::claim();
    let endpoint = format!("127.0.0.1:{}", port.number());
    let url = format!("https://{endpoint}");
    let flags = [
        ["--listen-client-urls", &url],
        ["--advertise-client-urls", &url],
        ["--cert-file", &cert],
        ["--key-file", &key],
        ["--trusted-ca-file", &ca],
        ["--client-cert-auth", "--logger=zap"],
    ];
    let _member = Member::start(&dir.join("etcd"), flags.as_flattened());
    let etcdctl = Path::new(env!("CARGO_BIN_EXE_etcdctl"));

    // With a file, an endpoint without a scheme is encrypted as well.
    for endpoint in [&endpoint, &url] {
        let tool = Tool::new(etcdctl, endpoint);
        let with_files = ["--cacert", &ca, "--cert", &cert, "--key", &key];
        assert_eq!(tool.expect(&[&with_files[..], &["put", "k", "v"]].concat()), "OK\n");
        let from_environment = tool
            .with_env("ETCDCTL_CACERT", &ca)
            .with_env("ETCDCTL_CERT", &cert)
            .with_env("ETCDCTL_KEY", &key);
        assert_eq!(from_environment.expect(&["get", "k"]), "k\nv\n");
        let blind = ["--insecure-transport=false", "--insecure-skip-tls-verify"];
        let identity = ["--cert", &cert, "--key", &key];
        let args = [&blind[..], &identity, &["get", "k"]].concat();
        assert_eq!(tool.expect(&args), "k\nv\n");
        let status = [&with_files[..], &["endpoint", "health"]].concat();
        assert!(tool.expect(&status).contains(" is healthy: "));
    }

    let tool = Tool::new(etcdctl, &endpoint);
    let other = files.text("other-ca.crt");
    let short = ["--command-timeout", "1s"];
    for wrong in [
        // An authority that did not issue the certificate, no certificate of ours, no encryption at all.
        &["--cacert", &other, "--cert", &cert, "--key", &key][..],
        &["--cacert", &ca],
        &[],
    ] {
        let outcome = tool.run(&[&short[..], wrong, &["put", "k", "wrong"]].concat());
        assert_eq!(outcome.code, 1, "{wrong:?}: {}", stderr(&outcome));
    }
    let right = ["--cacert", &ca, "--cert", &cert, "--key", &key, "get", "k"];
    assert_eq!(tool.expect(&right), "k\nv\n");
}

#[test]
fn files_that_are_not_there_are_named() {
    let tool = Tool::new(Path::new(env!("CARGO_BIN_EXE_etcdctl")), "127.0.0.1:1");
    let outcome = tool.run(&["--cacert", "/nonexistent/ca.crt", "get", "k"]);
    let expected = "Error: open /nonexistent/ca.crt: no such file or directory\n";
    assert_eq!((outcome.code, stderr(&outcome)), (128, expected.to_owned()));
    let outcome = tool.run(&["--key", "/nonexistent/key", "get", "k"]);
    let expected =
        "Error: KeyFile and CertFile must both be present[key: /nonexistent/key, cert: ]\n";
    assert_eq!((outcome.code, stderr(&outcome)), (128, expected.to_owned()));
}
