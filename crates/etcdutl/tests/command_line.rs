//! What etcdutl says.

use std::process::Command;

/// Runs etcdutl; returns the exit code, stdout and stderr.
fn etcdutl(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_etcdutl"))
        .args(args)
        .output()
        .expect("etcdutl can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("etcdutl writes text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn version_names_the_contract() {
    let (code, stdout, stderr) = etcdutl(&["version"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "etcdutl version: 3.7.1\nAPI version: 3.7\n");
    assert_eq!(etcdutl(&["ver", "-w", "json"]).1, stdout, "names may be shortened");
}

#[test]
fn missing_commands_refuse() {
    for args in
        [&["defrag", "--data-dir", "x"][..], &["snapshot", "restore", "f"], &["migrate", "--force"]]
    {
        let (code, stdout, stderr) = etcdutl(args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert_eq!(stderr, format!("Error: {} is not available yet\n", args[0]));
    }
}

#[test]
fn mistakes_exit_with_1() {
    for args in [&["frobnicate"][..], &["version", "--nope"]] {
        let (code, stdout, stderr) = etcdutl(args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.starts_with("Error: "), "{stderr}");
    }
    assert_eq!(etcdutl(&["--help"]).0, Some(0));
}
