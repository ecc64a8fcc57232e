//! Bad input at start: a clear message, an exit code that is not zero, and nothing lost.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use retcd_testkit::{Member, Port, Process, Tool, binary, server_binary};

const SOON: Duration = Duration::from_secs(20);

/// Starts a server that is expected to end by itself; returns its exit code and what it wrote.
fn start(args: &[&str]) -> (i32, String) {
    let mut process = Process::spawn(Command::new(server_binary()).args(args));
    let status = process.wait(SOON);
    let output = [process.stdout(), process.stderr()].concat();
    (
        status.code().expect("the server ends by itself"),
        String::from_utf8_lossy(&output).into_owned(),
    )
}

/// The flags of a member on these ports.
fn flags(data_dir: &Path, client_port: u16, peer_port: u16) -> Vec<String> {
    let client_url = format!("http://127.0.0.1:{client_port}");
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    [
        ("--data-dir", data_dir.display().to_string()),
        ("--listen-client-urls", client_url.clone()),
        ("--advertise-client-urls", client_url),
        ("--listen-peer-urls", peer_url.clone()),
        ("--initial-advertise-peer-urls", peer_url.clone()),
        ("--initial-cluster", format!("default={peer_url}")),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

fn start_on(data_dir: &Path) -> (i32, String) {
    let (client, peer) = (Port::claim(), Port::claim());
    let flags = flags(data_dir, client.number(), peer.number());
    start(&flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The log's files, oldest first.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir.join("member/wal")).expect("the member has a log");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    files
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let (code, output) = start(&["--no-such-flag"]);
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("flag provided but not defined: -no-such-flag"), "{output}");
}

#[test]
fn a_wrong_value_names_the_flag() {
    let (code, output) = start(&["--snapshot-count", "many"]);
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("snapshot-count") && output.contains("many"), "{output}");
}

#[test]
fn a_key_for_tokens_that_cannot_be_read_is_named() {
    let (code, output) = start(&["--auth-token=jwt,pub-key=a,priv-key=b,sign-method=RS256"]);
    assert_ne!(code, 0, "{output}");
    assert!(output.contains("b: No such file or directory"), "{output}");
}

#[test]
fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let peer = Port::claim();
    let flags = flags(&dir.path().join("data"), port, peer.number());
    let (code, output) = start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert_ne!(code, 0, "{output}");
    assert!(
        output.contains(&format!("127.0.0.1:{port}")) && output.contains("Address already in use"),
        "{output}"
    );
    assert!(!dir.path().join("data/member").exists(), "nothing was written");
}

#[test]
fn a_data_dir_in_use_is_refused_and_its_owner_goes_on() {
    let member = Member::start(&server_binary(), &[]);
    let (code, output) = start_on(&member.data_dir());
    assert_ne!(code, 0, "{output}");
    assert!(output.contains("another process"), "{output}");
    let etcdctl = Tool::new(&binary("etcdctl"), &member.endpoint());
    assert_eq!(etcdctl.expect(&["put", "still", "here"]), "OK\n");
}

#[test]
fn a_data_dir_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let (code, output) = start_on(file.path());
    assert_ne!(code, 0, "{output}");
    assert!(output.contains(&file.path().display().to_string()), "{output}");
}

#[test]
fn etcds_own_database_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let snap = dir.path().join("member/snap");
    fs::create_dir_all(&snap).expect("a directory");
    let mut page = vec![0; 8192];
    page[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    fs::write(snap.join("db"), &page).expect("a file");
    let (code, output) = start_on(dir.path());
    assert_ne!(code, 0, "{output}");
    assert!(output.contains("bbolt"), "{output}");
    assert_eq!(fs::read(snap.join("db")).expect("the file is there"), page);
}

#[test]
fn a_damaged_log_is_refused_with_file_and_offset_and_left_as_it_is() {
    let mut member = Member::start(&server_binary(), &[]);
    let etcdctl = Tool::new(&binary("etcdctl"), &member.endpoint());
    for number in 0..20 {
        etcdctl.expect(&["put", "key", &number.to_string()]);
    }
    member.process().kill();
    member.process().wait(SOON);

    let segment = segments(&member.data_dir()).remove(0);
    let mut bytes = fs::read(&segment).expect("the log can be read");
    // In the middle of an entry that others follow; bytes between the records are padding, which nothing depends on.
    let damaged =
        bytes.windows(4).position(|bytes| bytes == b"key\x12").expect("a put stands in the log");
    bytes[damaged] ^= 1;
    fs::write(&segment, &bytes).expect("the log can be written");
    let (code, output) = start_on(&member.data_dir());
    assert_ne!(code, 0, "{output}");
    assert!(
        output.contains(&segment.display().to_string()) && output.contains("offset"),
        "{output}"
    );
    assert_eq!(fs::read(&segment).expect("the log is there"), bytes, "nothing was changed");

    bytes[damaged] ^= 1;
    fs::write(&segment, &bytes).expect("the log can be written");
    member.crash_and_restart();
    let etcdctl = Tool::new(&binary("etcdctl"), &member.endpoint());
    assert_eq!(etcdctl.expect(&["get", "key", "--print-value-only"]), "19\n");
}

#[test]
fn a_torn_tail_of_the_log_is_cut_and_kept_aside() {
    let mut member = Member::start(&server_binary(), &[]);
    let etcdctl = Tool::new(&binary("etcdctl"), &member.endpoint());
    etcdctl.expect(&["put", "key", "acknowledged"]);
    member.process().kill();
    member.process().wait(SOON);

    // What a crash in the middle of the next write leaves behind: the head of a record whose later sectors are zeros.
    let segment = segments(&member.data_dir()).remove(0);
    let mut bytes = fs::read(&segment).expect("the log can be read");
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("the log is not empty")
        .next_multiple_of(8);
    let record_bytes = 2000_u64;
    bytes[end..end + 8].copy_from_slice(&record_bytes.to_le_bytes());
    // Type 2 (an entry), checksum 1, 1993 bytes of data.
    bytes[end + 8..end + 15].copy_from_slice(&[0x08, 0x02, 0x10, 0x01, 0x1a, 0xc9, 0x0f]);
    fs::write(&segment, &bytes).expect("the log can be written");
    member.crash_and_restart();
    let etcdctl = Tool::new(&binary("etcdctl"), &member.endpoint());
    assert_eq!(etcdctl.expect(&["get", "key", "--print-value-only"]), "acknowledged\n");
    let broken = segment.with_extension("wal.broken");
    assert!(broken.exists(), "the log as it was found is kept in {}", broken.display());
}
