//! Endpoints out of DNS.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::path::Path;

use retcd_testkit::{Member, Outcome, Tool, name_server, server_binary};

#[test]
fn srv_records_lead_to_members() {
    let member = Member::start(&server_binary(), &[]);
    let port: u16 = member.endpoint().rsplit(':').next().unwrap().parse().unwrap();
    let name_server = name_server(move |name| match name {
        "_etcd-client._tcp.example.com" | "_etcd-client-blue._tcp.example.com" => vec![port],
        _ => Vec::new(),
    });
    let server = format!("127.0.0.1:{name_server}");
    let etcdctl = Tool::new(Path::new(env!("CARGO_BIN_EXE_etcdctl")), "127.0.0.1:1")
        .with_env("RETCD_DNS_SERVER", &server);

    let by_domain = ["--discovery-srv", "example.com"];
    assert_eq!(etcdctl.expect(&[&by_domain[..], &["put", "k", "1"]].concat()), "OK\n");
    let by_name = [&by_domain[..], &["--discovery-srv-name", "blue", "get", "k"]].concat();
    assert_eq!(etcdctl.expect(&by_name), "k\n1\n");

    let Outcome { code, stderr, .. } = etcdctl.run(&["--discovery-srv", "example.org", "get", "k"]);
    assert_eq!(code, 1);
    let failed = |name| format!("lookup {name}._tcp.example.org on {server}: no such host");
    assert_eq!(
        String::from_utf8(stderr).unwrap(),
        format!(
            "Error: dns lookup errors: {} and {}\n",
            failed("_etcd-client-ssl"),
            failed("_etcd-client")
        )
    );
}
