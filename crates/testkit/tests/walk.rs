//! A walk through etcdctl's everyday commands, as a newcomer would take it, against a real server.
//!
//! The same walk is taken with this workspace's etcdctl and with the one that Debian ships, so it only uses what all
//! releases since 3.4 agree on.

use std::path::Path;

use retcd_testkit::{Member, SOON, Tool, binary, etcdctl_34, server_binary};

#[test]
fn with_our_etcdctl() {
    walk(&binary("etcdctl"));
}

#[test]
fn with_etcdctl_of_3_4() {
    match etcdctl_34() {
        Some(etcdctl) => walk(&etcdctl),
        None => println!("skipped: no etcdctl 3.4 at $ETCDCTL_34 or /usr/bin/etcdctl"),
    }
}

fn walk(etcdctl: &Path) {
    let member = Member::start(&server_binary(), &[]);
    let tool = Tool::new(etcdctl, &member.endpoint());
    keys_and_revisions(&tool);
    watches(&tool);
    interactive_watches(&tool);
    transactions(&tool);
    leases(&tool);
    deletion(&tool);
    compaction(&tool);
}

/// The store's revision, read from the header of an empty answer.
fn current_revision(tool: &Tool) -> i64 {
    let json = tool.expect(&["get", "-w", "json", "nokey"]);
    let (_, rest) = json.split_once("\"revision\":").expect("the header has a revision");
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a revision is a number")
}

fn keys_and_revisions(tool: &Tool) {
    assert_eq!(tool.expect(&["put", "foo", "bar"]), "OK\n");
    let first = current_revision(tool);
    assert_eq!(first, 2, "the first write of a new store has revision 2");
    assert_eq!(tool.expect(&["get", "foo"]), "foo\nbar\n");

    assert_eq!(tool.expect(&["put", "foo", "bar_new"]), "OK\n");
    assert_eq!(tool.expect(&["put", "foo1", "bar1"]), "OK\n");
    assert_eq!(current_revision(tool), first + 2);
    let at = |revision: i64| tool.expect(&["get", "--prefix", &format!("--rev={revision}"), "foo"]);
    assert_eq!(at(first), "foo\nbar\n");
    assert_eq!(at(first + 1), "foo\nbar_new\n");
    assert_eq!(at(first + 2), "foo\nbar_new\nfoo1\nbar1\n");

    assert_eq!(tool.expect(&["get", "--print-value-only", "foo"]), "bar_new\n");
    assert_eq!(
        tool.expect(&["get", "--hex", "foo"]),
        "\\x66\\x6f\\x6f\n\\x62\\x61\\x72\\x5f\\x6e\\x65\\x77\n"
    );
    assert_eq!(tool.expect(&["get", "foo", "foo1"]), "foo\nbar_new\n");
    assert_eq!(tool.expect(&["get", "--prefix", "--limit=1", "foo"]), "foo\nbar_new\n");
    assert_eq!(tool.expect(&["get", "--from-key", "foo1"]), "foo1\nbar1\n");
}

fn watches(tool: &Tool) {
    let mut history = tool.spawn(&["watch", "--rev=2", "foo"]);
    for line in ["PUT", "foo", "bar", "PUT", "foo", "bar_new"] {
        assert_eq!(history.expect("", SOON), format!("{line}\n"));
    }

    let mut with_previous = tool.spawn(&["watch", "--prev-kv", "--rev=3", "foo"]);
    for line in ["PUT", "foo", "bar", "foo", "bar_new"] {
        assert_eq!(with_previous.expect("", SOON), format!("{line}\n"));
    }

    // A watch from now on says nothing when it is established, so write until it notices.
    let mut from_now = tool.spawn(&["watch", "foo"]);
    let mut round = 0;
    while from_now.stdout().is_empty() {
        round += 1;
        assert!(round < 500, "the watch never saw a write");
        tool.expect(&["put", "foo", "bar_now"]);
    }
    for line in ["PUT", "foo", "bar_now"] {
        assert_eq!(from_now.expect("", SOON), format!("{line}\n"));
    }
    assert_eq!(tool.expect(&["put", "foo", "bar_new"]), "OK\n");
    from_now.expect("bar_new", SOON);
}

fn interactive_watches(tool: &Tool) {
    let revision = current_revision(tool);
    let mut watch = tool.spawn(&["watch", "-i"]);
    watch.send_line(&format!("watch --rev={} a", revision + 1));
    assert_eq!(tool.expect(&["put", "a", "1"]), "OK\n");
    for line in ["PUT", "a", "1"] {
        assert_eq!(watch.expect("", SOON), format!("{line}\n"));
    }
    watch.send_line("progress");
    assert_eq!(
        watch.expect("progress notify", SOON),
        format!("progress notify: {}\n", revision + 1)
    );
}

fn transactions(tool: &Tool) {
    tool.expect(&["put", "user1", "bad"]);
    let txn = "value(\"user1\") = \"bad\"\n\ndel user1\nget user1\nput user2 \"very good\"\n\nput user1 good\n\n";
    let outcome = tool.run_with_input(&["txn"], txn.as_bytes());
    assert_eq!(outcome.code, 0);
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "SUCCESS\n\n1\n\n\nOK\n");

    let outcome = tool.run_with_input(&["txn", "-i"], txn.as_bytes());
    assert_eq!(outcome.code, 0);
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        "compares:\nsuccess requests (get, put, del):\nfailure requests (get, put, del):\nFAILURE\n\nOK\n"
    );
    assert_eq!(tool.expect(&["get", "--prefix", "user"]), "user1\ngood\nuser2\nvery good\n");

    let conditions =
        [r#"mod("user1") > "0""#, r#"create("user1") > "0""#, r#"version("user1") = "1""#];
    for condition in conditions {
        let txn = format!("{condition}\n\nput seen {{}}\n\n\n");
        let outcome = tool.run_with_input(&["txn"], txn.as_bytes());
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), "SUCCESS\n\nOK\n", "{condition}");
    }
}

fn grant(tool: &Tool) -> String {
    let granted = tool.expect(&["lease", "grant", "60"]);
    let words: Vec<&str> = granted.split_whitespace().collect();
    let ["lease", id, "granted", "with", "TTL(60s)"] = words[..] else {
        panic!("unexpected answer: {granted}")
    };
    assert_eq!(id.len(), 16);
    id.to_owned()
}

fn leases(tool: &Tool) {
    let id = grant(tool);
    assert_eq!(tool.expect(&["put", &format!("--lease={id}"), "leased", "bar"]), "OK\n");
    assert_eq!(tool.expect(&["get", "leased"]), "leased\nbar\n");

    let left = tool.expect(&["lease", "timetolive", "--keys", &id]);
    assert!(left.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{left}");
    assert!(left.ends_with("s), attached keys([leased])\n"), "{left}");
    assert!(tool.expect(&["lease", "list"]).contains(&id));

    assert_eq!(tool.expect(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(tool.expect(&["get", "leased"]), "");
    assert_eq!(tool.expect(&["lease", "timetolive", &id]), format!("lease {id} already expired\n"));

    // The shortest lease is renewed within a second.
    let short = tool.expect(&["lease", "grant", "2"]);
    let id = short.split_whitespace().nth(1).expect("the answer names the lease").to_owned();
    let mut renewals = tool.spawn(&["lease", "keep-alive", &id]);
    for _ in 0..3 {
        assert_eq!(renewals.expect("", SOON), format!("lease {id} keepalived with TTL(2)\n"));
    }
    assert_eq!(tool.expect(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    renewals.expect(&format!("lease {id} expired or revoked."), SOON);
    assert!(renewals.wait(SOON).success());

    let id = grant(tool);
    let once = tool.expect(&["lease", "keep-alive", "--once", &id]);
    assert_eq!(once, format!("lease {id} keepalived with TTL(60)\n"));
}

fn deletion(tool: &Tool) {
    for key in ["x1", "x2", "x3", "y"] {
        tool.expect(&["put", key, "v"]);
    }
    assert_eq!(tool.expect(&["del", "--prev-kv", "x1"]), "1\nx1\nv\n");
    assert_eq!(tool.expect(&["del", "x1"]), "0\n");
    assert_eq!(tool.expect(&["del", "--prefix", "x"]), "2\n");
    assert_eq!(tool.expect(&["del", "--from-key", "y"]), "1\n");
}

fn compaction(tool: &Tool) {
    assert_eq!(tool.expect(&["compaction", "5"]), "compacted revision 5\n");
    let outcome = tool.run(&["get", "--rev=4", "foo"]);
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.code, 1);
    assert!(
        stderr.contains("Error: etcdserver: mvcc: required revision has been compacted"),
        "{stderr}"
    );
    assert_eq!(tool.expect(&["get", "--rev=5", "foo"]), "foo\nbar_now\n");

    let mut watch = tool.spawn(&["watch", "--rev=2", "foo"]);
    watch.expect(
        "watch was canceled (etcdserver: mvcc: required revision has been compacted)",
        SOON,
    );
    assert_eq!(watch.wait(SOON).code(), Some(5));
}
