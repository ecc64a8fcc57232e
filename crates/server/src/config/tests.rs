//! The three sources, together.

use std::io;
use std::net::Ipv4Addr;

use retcd_net::tls::Version;

use super::*;

/// Loads from a command line, variables and at most one file named `etcd.yaml`.
fn load_from(line: &str, variables: &[(&str, &str)], file: &str) -> Result<Command, Error> {
    let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(&Sources {
        arguments: line.split_whitespace().map(str::to_owned).collect(),
        variables: pairs.collect(),
        read_file: &|path| {
            if path == Path::new("etcd.yaml") {
                Ok(file.to_owned())
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        },
        default_host: &|| Some(Ipv4Addr::new(10, 9, 8, 7).into()),
    })
}

fn run(result: Result<Command, Error>) -> Config {
    match result.unwrap() {
        Command::Run(config) => *config,
        Command::Print(text) => panic!("printed {text}"),
    }
}

fn words(line: &str) -> Config {
    run(load_from(line, &[], ""))
}

fn file(text: &str) -> Config {
    run(load_from("--config-file etcd.yaml", &[], text))
}

fn refused(line: &str) -> String {
    load_from(line, &[], "").expect_err(line).to_string()
}

fn file_refused(text: &str) -> String {
    load_from("--config-file=etcd.yaml", &[], text).expect_err(text).to_string()
}

#[test]
fn nothing_said_is_a_default_member() {
    let config = words("");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, Path::new("default.etcd"));
    assert_eq!(config.member_dir(), Path::new("default.etcd/member"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.listen_client_urls.to_string(), "http://localhost:2379");
    assert_eq!(config.listen_peer_urls.to_string(), "http://localhost:2380");
    assert_eq!(config.advertise_client_urls.to_string(), "http://localhost:2379");
    assert_eq!(config.initial_cluster.to_string(), "default=http://localhost:2380");
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.max_receive_bytes(), 2_097_152);
    assert_eq!(config.request_timeout(), Duration::from_secs(7));
    assert_eq!(config.election_ticks(), 10);
    assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!(config.backend_batch_interval, Duration::from_secs(1));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.keepalive.interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.feature_gates, FeatureGates::default());
    assert!(config.pre_vote && config.enable_grpc_gateway && !config.unsafe_no_fsync);
    assert!(config.client_threads() >= 1 && config.value_cache_bytes() > 1);
    config.check_first_start().unwrap();
    assert_eq!(
        config.notices,
        [Notice::DefaultName("default".to_owned()), Notice::DefaultDataDir("default.etcd".into())]
    );
}

#[test]
fn http_origins_and_profiles() {
    let config = words("");
    assert!(config.listen_client_http_urls.is_empty());
    assert!(config.cors.is_everything() && config.host_whitelist.is_everything());
    assert!(!config.enable_pprof);
    let config = words(
        "--listen-client-http-urls=http://127.0.0.1:2381 --cors=http://a,http://b \
         --host-whitelist=example.com --enable-pprof",
    );
    assert_eq!(config.listen_client_http_urls.to_string(), "http://127.0.0.1:2381");
    assert!(config.cors.contains("http://b") && !config.cors.contains("http://c"));
    assert!(config.host_whitelist.contains("example.com"));
    assert!(config.enable_pprof && words("--log-level=debug").enable_pprof);
}

#[test]
fn tracing_is_off_unless_it_is_asked_for() {
    assert_eq!(words("--distributed-tracing-sampling-rate=-1").tracing, None);
    let tracing = words("--enable-distributed-tracing").tracing.unwrap();
    let expected = DistributedTracing {
        address: "localhost:4317".to_owned(),
        service_name: "etcd".to_owned(),
        instance_id: None,
        samples_per_million: 0,
    };
    assert_eq!(tracing, expected);
    let tracing = words(
        "--experimental-enable-distributed-tracing --distributed-tracing-instance-id=i \
         --distributed-tracing-sampling-rate=1000000",
    );
    let tracing = tracing.tracing.unwrap();
    assert_eq!(
        (tracing.instance_id.as_deref(), tracing.samples_per_million),
        (Some("i"), 1_000_000)
    );
    for rate in ["-1", "1000001"] {
        let line =
            format!("--enable-distributed-tracing --distributed-tracing-sampling-rate={rate}");
        assert!(refused(&line).starts_with("distributed tracing configurition is not valid"));
    }
}

#[test]
fn typical_words_of_a_single_member() {
    let config = words(
        "--name s1 --data-dir /var/lib/etcd -listen-client-urls http://127.0.0.1:1,http://127.0.0.1:2 \
         --advertise-client-urls http://127.0.0.1:1 --listen-peer-urls=http://127.0.0.1:3 \
         --initial-advertise-peer-urls http://127.0.0.1:3 --initial-cluster s1=http://127.0.0.1:3 \
         --initial-cluster-state new --initial-cluster-token t --unsafe-no-fsync --log-level debug \
         --quota-backend-bytes -1 --grpc-keepalive-interval 0s --experimental-client-threads 3 \
         --experimental-value-cache-bytes 1 --metrics extensive --watch-progress-notify-interval 1ms",
    );
    assert_eq!(config.name, "s1");
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.initial_cluster_token, "t");
    assert_eq!(config.quota_backend_bytes, None);
    assert_eq!(config.keepalive.interval, None);
    assert_eq!((config.client_threads(), config.value_cache_bytes()), (3, 1));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    assert!(config.unsafe_no_fsync && config.extensive_metrics);
    assert_eq!(config.log.level, logging::Level::Debug);
    config.check_first_start().unwrap();
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn a_name_alone_names_the_cluster() {
    let config = words("--name s1 --initial-advertise-peer-urls http://10.0.0.1:2380");
    assert_eq!(config.initial_cluster.to_string(), "s1=http://10.0.0.1:2380");
    let config = words("--initial-advertise-peer-urls http://10.0.0.1:2380");
    assert!(config.check_first_start().is_err());
}

#[test]
fn help_and_version_print() {
    for line in ["-h", "--help", "--name x --help"] {
        let Ok(Command::Print(text)) = load_from(line, &[], "") else { panic!("{line}") };
        assert!(text.starts_with("Usage:"), "{line}");
    }
    let Ok(Command::Print(text)) = load_from("--version --cert-file x", &[], "") else { panic!() };
    assert!(text.starts_with("etcd Version: 3.7.1\n"));
}

#[test]
fn exit_codes() {
    for (line, code) in [
        ("--nope", 2),
        ("--name", 2),
        ("--heartbeat-interval=x", 2),
        ("--pre-vote=x", 2),
        ("leftover", 1),
        ("--election-timeout=1", 1),
        ("--config-file=missing", 1),
    ] {
        assert_eq!(load_from(line, &[], "").expect_err(line).exit_code(), code, "{line}");
    }
}

#[test]
fn values_are_refused_in_go_s_words() {
    for (line, message) in [
        (
            "--heartbeat-interval=1s",
            "invalid value \"1s\" for flag -heartbeat-interval: parse error",
        ),
        ("--pre-vote=x", "invalid boolean value \"x\" for -pre-vote: parse error"),
        (
            "--initial-cluster-state=x",
            "invalid value \"x\" for flag -initial-cluster-state: invalid value",
        ),
        (
            "--listen-peer-urls=x",
            "invalid value \"x\" for flag -listen-peer-urls: \
             URL scheme must be http, https, unix, or unixs: x",
        ),
        (
            "--heartbeat-interval=300",
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (
            "--election-timeout=50001",
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        ("--heartbeat-interval=0", "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            "--listen-client-urls=http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            "--listen-peer-urls=http://example.com:1",
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            "--initial-advertise-peer-urls=http://:1",
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" \
             (unexpected empty host (http://:1))",
        ),
        ("--auto-compaction-mode=x", "unknown auto-compaction-mode \"x\""),
        ("--log-outputs=default,stdout", "multi logoutput for \"default\" is not supported yet"),
        ("--log-format=xml", "unknown log format: xml, supported values json, console"),
        ("--logger=capnslog", "--logger=capnslog is removed in v3.5"),
        (
            "--feature-gates=Nope=true",
            "invalid value \"Nope=true\" for flag -feature-gates: unrecognized feature gate: Nope",
        ),
        (
            "--v2-deprecation=not-yet",
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        ("--discovery-token=t", "both --discovery-token and --discovery-endpoints must be set"),
        ("--max-learners=-1", "--max-learners must not be negative"),
        ("--compact-hash-check-time=0s", "--compact-hash-check-time must be >0 (set to 0s)"),
    ] {
        assert_eq!(refused(line), message, "{line}");
    }
    assert!(
        refused("--initial-cluster=a=http://a:1 --discovery-srv=b")
            .starts_with("multiple discovery")
    );
    assert!(refused("--discovery-fallback=proxy").starts_with("v2 proxy is deprecated"));
}

#[test]
fn one_log_file_can_be_rotated() {
    let outputs = |line: &str| words(line).log.outputs;
    let rotation = logging::rotation::Rotation::from_json("{\"maxsize\":1}").unwrap();
    let rotated = logging::Output::Rotated("a.log".into(), rotation);
    let on = "--enable-log-rotation --log-rotation-config-json={\"maxsize\":1} --log-outputs";
    assert_eq!(outputs(&format!("{on}=a.log")), std::slice::from_ref(&rotated));
    assert_eq!(outputs(&format!("{on}=stderr,a.log")), [rotated, logging::Output::Stderr]);
    let both = [logging::Output::Stderr, logging::Output::Stdout];
    assert_eq!(outputs(&format!("{on}=stdout,stderr")), both);
    // Nothing is read of it while it is off.
    let off = "--log-rotation-config-json=x --log-outputs=a.log";
    assert_eq!(outputs(off), [logging::Output::File("a.log".into())]);
    let no_file =
        "--log-outputs requires a single file path when --log-rotate-config-json is defined";
    for line in ["default", "stderr", "a.log,b.log"] {
        assert_eq!(refused(&format!("{on}={line}")), no_file);
    }
    assert_eq!(refused("--enable-log-rotation"), no_file);
    assert_eq!(
        refused("--enable-log-rotation --log-outputs=a.log --log-rotation-config-json=x"),
        "improperly formatted log rotation config: invalid character 'x' looking for beginning of value"
    );
}

#[test]
fn the_journal_is_an_output_of_its_own() {
    assert_eq!(words("--log-outputs=systemd/journal").log.outputs, [logging::Output::Journal]);
    assert_eq!(
        refused("--log-outputs=systemd/journal,stderr"),
        "running with systemd/journal but other '--log-outputs' values ([\"stderr\" \
         \"systemd/journal\"]) are configured with 'default'; override 'default' value with something else"
    );
}

#[test]
fn timeouts_between_members_are_raised() {
    let config = words("--raft-read-timeout=1s --raft-write-timeout=6s");
    let (read, write) = (config.raft_read_timeout, config.raft_write_timeout);
    assert_eq!((read, write), (Duration::from_secs(5), Duration::from_secs(6)));
    let raised = Notice::RaisedTimeout { flag: "raft-read-timeout", used: read };
    assert!(config.notices.contains(&raised));
    assert_eq!(words("").raft_write_timeout, Duration::from_secs(5));
}

#[test]
fn https_urls_need_a_certificate() {
    let listen = "--advertise-client-urls=http://127.0.0.1:1 --listen-client-urls";
    let missing = "TLS key/cert (--cert-file, --key-file) must be provided for client url";
    for (line, message) in [
        (
            format!("{listen}=https://127.0.0.1:1"),
            format!("{missing} https://127.0.0.1:1 with HTTPS scheme"),
        ),
        (format!("{listen}=unixs://a"), format!("{missing} unixs://a with HTTPS scheme")),
        (
            "--listen-client-http-urls=https://127.0.0.1:1".to_owned(),
            format!("{missing} https://127.0.0.1:1 with HTTPS scheme"),
        ),
        (
            "--listen-metrics-urls=https://127.0.0.1:1".to_owned(),
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                .to_owned(),
        ),
        (
            format!(
                "{listen}=http://127.0.0.1:1 --listen-client-http-urls=https://127.0.0.1:1 --auto-tls"
            ),
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             https://127.0.0.1:1"
                .to_owned(),
        ),
    ] {
        assert_eq!(refused(&line), message, "{line}");
    }
    // Half a certificate counts as one until it is read.
    for certificate in ["--cert-file=a", "--key-file=a", "--auto-tls"] {
        words(&format!("{listen}=https://127.0.0.1:1 {certificate}"));
    }
}

#[test]
fn a_certificate_without_https_urls_is_remarked() {
    let notices = |line: &str| words(line).notices;
    let url = "http://localhost:2379".to_owned();
    let unused = Notice::UnusedCertificate { kind: UrlKind::Client, url: url.clone() };
    let without_auth = Notice::UnusedCertAuth { kind: UrlKind::Client, url };
    let found = notices("--cert-file=a --key-file=b --client-cert-auth --auto-tls");
    for notice in [&unused, &without_auth, &Notice::UnusedAutoTls(UrlKind::Client)] {
        assert!(found.contains(notice), "{notice:?}");
    }
    let encrypted = notices(
        "--cert-file=a --key-file=b --client-cert-auth --advertise-client-urls=https://127.0.0.1:1 \
         --listen-client-urls=https://127.0.0.1:1",
    );
    assert!(!encrypted.contains(&unused) && !encrypted.contains(&without_auth));
}

#[test]
fn versions_and_suites_are_checked() {
    let version = "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)";
    for (line, message) in [
        ("--tls-min-version=TLS1.1", version),
        ("--tls-max-version=TLS1.1", version),
        (
            "--tls-min-version=TLS1.3 --tls-max-version=TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            "--tls-min-version=TLS1.3 --cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        ("--cipher-suites=a", "unexpected TLS cipher suite \"a\""),
    ] {
        assert_eq!(refused(line), message, "{line}");
    }
    let suites = "TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let config = words(&format!("--cipher-suites={suites} --tls-max-version=TLS1.2"));
    let not_offered = vec!["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()];
    assert!(config.notices.contains(&Notice::SuitesNotOffered(not_offered)));
    let tls = config.client_security.tls;
    assert_eq!((tls.cipher_suites.len(), tls.version_max), (2, Some(Version::Tls12)));
    assert_eq!(words("--tls-min-version=").client_security.tls.version_min, Version::Tls12);
}

#[test]
fn a_file_has_a_section_for_tls() {
    let section = "client-transport-security: {cert-file: a, key-file: b, client-cert-auth: true, \
                   trusted-ca-file: c, allowed-hostname: [d]}";
    let security = file(section).client_security;
    let tls = &security.tls;
    assert_eq!((tls.cert_file.to_str(), tls.key_file.to_str()), (Some("a"), Some("b")));
    assert!(tls.client_cert_auth && tls.trusted_ca_file.to_str() == Some("c"));
    assert_eq!(tls.allowed_hostnames, ["d"]);
    assert!(file("client-transport-security: {auto-tls: true}").client_security.is_automatic);
}

#[test]
fn tokens_are_simple_or_signed_or_none() {
    let token = |value: &str| words(&format!("--auth-token={value}")).auth_token;
    assert_eq!(token("simple"), AuthToken::Simple);
    assert_eq!(token("simple,ttl=3s"), AuthToken::Simple);
    assert_eq!(token(""), AuthToken::None);
    assert!(matches!(token("jwt,sign-method=RS256,pub-key=a,ttl=3s"), AuthToken::Signed(_)));
    for bad in [
        "jwt",
        "jwt,pub-key=a",
        "jwt,sign-method=none",
        "jwt,sign-method=RS256,ttl=soon",
        "jwt,sign-method=RS256,pub-key=a,pub-key=b",
        "jwt,sign-method=RS256,pub-key",
        "jwt,sign-method=RS256,pub-key=a=b",
        "easy",
    ] {
        assert_eq!(refused(&format!("--auth-token={bad}")), "auth: invalid auth options");
    }
    assert_eq!(words("--auth-token-ttl=0").auth_token_ttl, Duration::from_secs(300));
}

#[test]
fn every_flag_has_a_variable() {
    for flag in flags::FLAGS {
        if ["version", "config-file"].contains(&flag.name) {
            continue;
        }
        let variable = flags::Known::Flag(flag).variable();
        let value = if flag.default.is_empty() { "" } else { flag.default };
        let result =
            load_from("", &[(&variable, value), ("ETCD_ADVERTISE_CLIENT_URLS", "http://a:1")], "");
        let config = run(result);
        let used = Notice::VariableUsed { name: variable, value: value.to_owned() };
        if !value.is_empty() && flag.name != "advertise-client-urls" {
            assert!(config.notices.contains(&used), "--{}", flag.name);
        }
    }
}

#[test]
fn the_command_line_shadows_no_variable() {
    let config = run(load_from("--name a", &[("ETCD_INITIAL_CLUSTER_TOKEN", "t")], ""));
    assert_eq!(config.initial_cluster_token, "t");
    let error = load_from("--name a", &[("ETCD_NAME", "b")], "").unwrap_err().to_string();
    assert!(error.starts_with("conflicting environment variable ETCD_NAME is shadowed"), "{error}");

    let error = load_from("", &[("ETCD_SNAPSHOT_COUNT", "x")], "").unwrap_err().to_string();
    assert_eq!(error, "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error");
}

#[test]
fn unknown_variables_are_only_noticed() {
    let variables = [("ETCD_NOPE", "1"), ("ETCD_VERSION", "v3"), ("ETCD_NAME", ""), ("OTHER", "1")];
    let config = run(load_from("--data-dir d --name n", &variables[..2], ""));
    assert_eq!(
        config.notices,
        [Notice::VariableUnknown("ETCD_NOPE".to_owned()), Notice::VersionVariable("v3".to_owned())]
    );
    assert_eq!(run(load_from("", &variables[2..], "")).name, "default");
}

#[test]
fn old_names_are_read_with_a_notice() {
    let config = words(
        "--experimental-compaction-batch-limit 7 --experimental-txn-mode-write-with-shared-buffer=false \
         --debug --enable-v2=false --proxy off -v",
    );
    assert_eq!(config.compaction_batch_limit, 7);
    assert!(!config.feature_gates.is_enabled(Gate::TxnModeWriteWithSharedBuffer));
    assert_eq!(config.log.level, logging::Level::Debug);
    let new = |old, new: &str| Notice::OldName { old, new: new.to_owned() };
    for notice in [
        new("experimental-compaction-batch-limit", "--compaction-batch-limit"),
        new("debug", "--log-level=debug"),
        new(
            "experimental-txn-mode-write-with-shared-buffer",
            "--feature-gates=TxnModeWriteWithSharedBuffer=false",
        ),
        Notice::Ignored("enable-v2"),
        Notice::Ignored("proxy"),
        Notice::Ignored("v"),
    ] {
        assert!(config.notices.contains(&notice), "{notice:?}");
    }
    assert_eq!(refused("--enable-v2"), "--enable-v2=\"true\" is not supported: the v2 API is gone");
    assert!(refused("--proxy on").contains("the v2 proxy is gone"));
    assert!(refused("--discovery http://x").contains("use --discovery-token"));
    let config = words("--experimental-corrupt-check-time 1s");
    assert_eq!(config.corrupt_check_time, Some(Duration::from_secs(1)));
}

#[test]
fn discovery_takes_the_place_of_a_list() {
    let line = "--name a --initial-advertise-peer-urls http://127.0.0.1:9";
    let config = words(&format!(
        "{line} --discovery-token t --discovery-endpoints http://h:1,k:2 --discovery-user u:p:q"
    ));
    let Some(Discovery::Registry(registry)) = &config.discovery else { panic!("{config:?}") };
    let endpoint = |authority: &str, is_encrypted| RegistryEndpoint {
        authority: authority.to_owned(),
        is_encrypted,
    };
    assert_eq!(registry.endpoints, [endpoint("h:1", false), endpoint("k:2", false)]);
    let user = registry.user.as_ref().unwrap();
    assert_eq!((&*user.name, &*user.password), ("u", "p:q"));
    assert!(!format!("{config:?}").contains("p:q"), "passwords are not shown");
    assert_eq!(config.initial_cluster_token, "t");
    assert_eq!(config.initial_cluster.to_string(), "a=http://127.0.0.1:9");

    let plain = endpoint("http", false);
    for (flags, has_tls) in [
        ("--discovery-insecure-transport=false", true),
        ("--discovery-insecure-skip-tls-verify", true),
        ("--discovery-cacert=c", true),
        ("--discovery-user=u", false),
    ] {
        let endpoints = "--discovery-endpoints http://http,https://https,bare";
        let config = words(&format!("{line} --discovery-token t {endpoints} {flags}"));
        let Some(Discovery::Registry(registry)) = &config.discovery else { panic!("{config:?}") };
        let expected = [plain.clone(), endpoint("https", true), endpoint("bare", has_tls)];
        assert_eq!(registry.endpoints, expected, "{flags}");
    }

    let config = words(&format!("{line} --discovery-srv d --discovery-srv-name n"));
    assert_eq!(config.peer_security.tls.server_name.as_deref(), Some("d"));
    let authorities = words(&format!("{line} --discovery-srv d --peer-trusted-ca-file c"));
    assert_eq!(authorities.peer_security.tls.server_name, None);
    let Some(Discovery::Dns { domain, service_name }) = &config.discovery else {
        panic!("{config:?}")
    };
    assert_eq!((&**domain, &**service_name), ("d", "n"));
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert!(words("").discovery.is_none());
}

#[test]
fn gates_given_twice_add_up() {
    let config =
        words("--feature-gates FastLeaseKeepAlive=false --feature-gates InitialCorruptCheck=true");
    assert!(!config.feature_gates.is_enabled(Gate::FastLeaseKeepAlive));
    assert!(config.feature_gates.is_enabled(Gate::InitialCorruptCheck));
}

#[test]
fn checkpoints_that_nobody_keeps_are_noticed() {
    let has_notice = |gates: &str| {
        let config = words(&format!("--feature-gates {gates}"));
        config.notices.contains(&Notice::CheckpointWithoutPersistence)
    };
    assert!(has_notice("LeaseCheckpoint=true"));
    assert!(!has_notice("LeaseCheckpoint=true,LeaseCheckpointPersist=true"));
    assert!(refused("--feature-gates LeaseCheckpointPersist=true").contains("requires enabling"));
}

#[test]
fn deprecated_and_meaningless_flags_warn() {
    let config = words(
        "--name n --data-dir d --max-snapshots 3 --v2-deprecation gone \
         --backend-bbolt-freelist-type map --bcrypt-cost 99 --quota-backend-bytes 9000000000 \
         --max-request-bytes 20000000",
    );
    assert_eq!((config.max_snapshots, config.bcrypt_cost), (3, 10));
    let count = |wanted: fn(&Notice) -> bool| config.notices.iter().filter(|n| wanted(n)).count();
    assert_eq!(count(|notice| matches!(notice, Notice::Deprecated(_))), 2);
    assert_eq!(count(|notice| matches!(notice, Notice::WithoutMeaning { .. })), 2);
    assert_eq!(count(|notice| matches!(notice, Notice::BcryptCost { set: 99, used: 10 })), 1);
    assert_eq!(count(|notice| matches!(notice, Notice::LargeQuota { .. })), 1);
    assert_eq!(count(|notice| matches!(notice, Notice::LargeRequests { .. })), 1);
    assert_eq!(config.notices.len(), 7);
}

#[test]
fn retention_is_hours_a_duration_or_revisions() {
    for (line, expected) in [
        ("--auto-compaction-retention=2", AutoCompaction::Periodic(Duration::from_secs(7200))),
        ("--auto-compaction-retention=90s", AutoCompaction::Periodic(Duration::from_secs(90))),
        ("--auto-compaction-retention=0s", AutoCompaction::Off),
        ("--auto-compaction-mode=revision", AutoCompaction::Off),
        (
            "--auto-compaction-mode=revision --auto-compaction-retention=1000",
            AutoCompaction::Revision(1000),
        ),
    ] {
        assert_eq!(words(line).auto_compaction, expected, "{line}");
    }
    for line in [
        "--auto-compaction-retention=x",
        "--auto-compaction-retention=-1",
        "--auto-compaction-mode=revision --auto-compaction-retention=5m",
    ] {
        assert!(refused(line).starts_with("error parsing CompactionRetention"), "{line}");
    }
}

#[test]
fn listening_everywhere_advertises_the_default_route() {
    let config = words("--name s1 --listen-peer-urls http://0.0.0.0:3380");
    assert_eq!(config.initial_advertise_peer_urls.to_string(), "http://10.9.8.7:3380");
    assert_eq!(config.initial_cluster.to_string(), "s1=http://10.9.8.7:3380");
    assert!(config.notices.contains(&Notice::DefaultHost("10.9.8.7".to_owned())));
    let config = file("listen-client-urls: http://0.0.0.0:3379");
    assert_eq!(config.advertise_client_urls.to_string(), "http://10.9.8.7:3379");
}

#[test]
fn a_file_replaces_all_other_sources() {
    let variables = [("ETCD_NAME", "env"), ("ETCD_NOPE", "x")];
    let line = "--config-file etcd.yaml --name flag";
    let config = run(load_from(line, &variables, "name: file\ndata-dir: d\n"));
    assert_eq!(config.name, "file");
    assert_eq!(config.notices, [Notice::FileLoaded("etcd.yaml".into())]);
    let config = run(load_from("", &[("ETCD_CONFIG_FILE", "etcd.yaml")], "name: file"));
    assert_eq!(config.name, "file");
    let error = load_from("--config-file nope.yaml", &[], "").unwrap_err().to_string();
    assert!(error.starts_with("open nope.yaml: "), "{error}");
}

#[test]
fn a_file_has_its_own_types() {
    let config = file(
        "# as in production\n\
         name: 7\n\
         heartbeat-interval: 50\n\
         election-timeout: 500\n\
         listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\n\
         grpc-keepalive-timeout: 3000000000\n\
         log-outputs: [stderr, /tmp/etcd.log]\n\
         auto-compaction-retention: 1\n\
         pre-vote: false\n\
         quota-backend-bytes: 1_000\n\
         socket-options:\n  reuse-port: true\n\
         client-transport-security:\n  cert-file: ''\n\
         discovery-config: null\n\
         wal-dir:\n\
         feature-gates: FastLeaseKeepAlive=false\n\
         experimental-snapshot-catchup-entries: 9\n\
         unknown-key: {a: 1}\n",
    );
    assert_eq!(config.name, "7");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.election_ticks(), 10);
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.keepalive.timeout, Some(Duration::from_secs(3)));
    assert_eq!(config.log.outputs.len(), 2);
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(3600)));
    assert_eq!(config.snapshot_catchup_entries, 9);
    assert!(!config.pre_vote && config.socket_options.reuse_port);
    assert!(!config.feature_gates.is_enabled(Gate::FastLeaseKeepAlive));
    // JSON is YAML, and an empty file sets nothing.
    assert_eq!(file("{\"name\": \"j\", \"socket-options\": {\"reuse-address\": true}}").name, "j");
    assert_eq!(file("# nothing\n").name, "default");
}

#[test]
fn mistakes_in_a_file() {
    for (text, message) in [
        (
            "grpc-keepalive-timeout: 3s",
            "invalid value \"3s\" for grpc-keepalive-timeout in the configuration file: \
             expected a duration as an integer of nanoseconds",
        ),
        (
            "pre-vote: 'true'",
            "invalid value \"true\" for pre-vote in the configuration file: expected true or false",
        ),
        (
            "snapshot-count: x",
            "invalid value \"x\" for snapshot-count in the configuration file: expected an integer",
        ),
        (
            "snapshot-count: -1",
            "invalid value -1 for snapshot-count in the configuration file: parse error",
        ),
        ("peer-transport-security: x", "invalid peer-transport-security"),
        (
            "initial-cluster-state: x",
            "invalid value \"x\" for initial-cluster-state in the configuration file: invalid value",
        ),
    ] {
        assert_eq!(file_refused(text), message, "{text}");
    }
    for text in ["name: [", "- a", "text"] {
        assert!(
            file_refused(text).starts_with("error converting YAML to JSON: etcd.yaml"),
            "{text}"
        );
    }
}
