//! What etcdutl says about how it is used.

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
fn mistakes_are_named_in_etcds_words() {
    let cases: [(&[&str], i32, &str); 14] = [
        (&["frobnicate"], 1, "unknown command \"frobnicate\" for \"etcdutl\"\n"),
        (&["version", "--nope"], 1, "unknown flag: --nope\nUsage:\n"),
        (&["defrag"], 1, "required flag(s) \"data-dir\" not set\nUsage:\n"),
        (
            &["defrag", "--data-dir", "/none"],
            1,
            "Failed to defragment etcd data[/none] (stat /none/member/snap/db: no such file or directory)\n",
        ),
        (&["hashkv"], 1, "accepts 1 arg(s), received 0\nUsage:\n"),
        (&["hashkv", "/none"], 1, "stat /none: no such file or directory\n"),
        (&["hashkv", "/none", "-w", "xml"], 4, "unsupported output format\n"),
        (&["snapshot", "status"], 128, "snapshot status requires exactly one argument\n"),
        (&["snapshot", "restore"], 128, "snapshot restore requires exactly one argument\n"),
        (
            &["snapshot", "restore", "f", "--bump-revision", "1"],
            128,
            "--mark-compacted required if --revision-bump > 0\n",
        ),
        (
            &["migrate", "--data-dir", "d"],
            1,
            "required flag(s) \"target-version\" not set\nUsage:\n",
        ),
        (
            &["migrate", "--data-dir", "d", "--target-version", "3"],
            128,
            "wrong target version format, expected \"X.Y\", got \"3\"\n",
        ),
        (
            &["migrate", "--data-dir", "d", "--target-version", "3.x"],
            128,
            "failed to parse target version: strconv.ParseInt: parsing \"x\": invalid syntax\n",
        ),
        (
            &["migrate", "--data-dir", "d", "--target-version", "3.4"],
            128,
            "target version \"3.4\" not supported. Minimal \"3.5\"\n",
        ),
    ];
    for (args, expected_code, words) in cases {
        let (code, stdout, stderr) = etcdutl(args);
        assert_eq!((code, stdout.as_str()), (Some(expected_code), ""), "{args:?}: {stderr}");
        assert!(stderr.starts_with(&format!("Error: {words}")), "{args:?}: {stderr}");
    }
}

#[test]
fn help_is_the_usage() {
    let expected = "\
Usage:
  etcdutl hashkv <filename> [flags]

Flags:
  -h, --help      print this text
      --rev int   maximum revision to hash (default: latest revision)

Global Flags:
      --timeout duration   time to wait to obtain a file lock on db file, 0 to
                           block indefinitely (default 10s)
  -w, --write-out string   set the output format (fields, json, protobuf,
                           simple, table) (default \"simple\")
";
    let (code, stdout, stderr) = etcdutl(&["hashkv", "--help"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), expected, ""));
    assert_eq!(etcdutl(&["help", "hash"]).1, expected);
    let (code, stdout, _) = etcdutl(&[]);
    assert_eq!(code, Some(0));
    for name in ["completion", "defrag", "export", "hashkv", "migrate", "snapshot", "version"] {
        assert!(stdout.contains(&format!("\n  {name} ")), "{stdout}");
    }
    assert!(etcdutl(&["snapshot"]).1.contains("\n  restore "));
}

#[test]
fn shells_can_complete() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let (code, stdout, _) = etcdutl(&["completion", shell]);
        assert_eq!(code, Some(0));
        assert!(stdout.contains("etcdutl") && !stdout.contains("PROGRAM"), "{stdout}");
    }
    assert_eq!(etcdutl(&["__complete", "sn"]).1, "snapshot\tManages etcd node snapshots\n:4\n");
    let (code, _, stderr) = etcdutl(&["completion", "tcsh"]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("Error: invalid argument \"tcsh\" for \"etcdutl completion\"\n"));
}
