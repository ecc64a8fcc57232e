//! Clusters as an operator meets them: the tour of `docs/local-cluster.md`, and what is left when members are gone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use retcd_testkit::{
    Cluster, MemberPlan, Outcome, PATIENCE, Plan, Port, Process, Tool, binary, real_etcd,
    server_binary,
};
use tempfile::TempDir;

const PROCFILE: &str = include_str!("../../../Procfile");
const TOUR: &str = include_str!("../../../docs/local-cluster.md");
/// What etcd logs once clients may come.
const READY: &str = "ready to serve client requests";

/// Every command of the document does what the document says, with the lines of the Procfile as they are.
///
/// Except for the ports: the document's are fixed, and may be taken by another test or by somebody's cluster. So each
/// port behind `127.0.0.1:` is replaced by a free one, the same for the same, in the Procfile, in the commands, and
/// back in what they print. Ids depend on ports and are not compared.
#[test]
fn the_tour_goes_as_it_is_told() {
    let mut tour = Tour::new();
    for name in ["etcd1", "etcd2", "etcd3"] {
        tour.start(name);
    }
    for name in ["etcd1", "etcd2", "etcd3"] {
        tour.expect_ready(name);
    }
    let steps = steps(TOUR);
    assert!(steps.len() > 8, "the document has a tour");
    for step in &steps {
        tour.play(step);
    }
}

/// A command line of the document, and what it prints.
#[derive(Debug)]
struct Step {
    words: Vec<String>,
    output: String,
}

/// The commands in the document's blocks of type `console`: lines that begin with `$ `, each with what follows it.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_console = false;
    for line in document.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| is_console) {
            steps.push(Step { words: words(command), output: String::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| is_console) {
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    steps
}

/// Splits at spaces outside of double quotes, which is all of the shell that the document needs.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for letter in command.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            other => words.last_mut().expect("never empty").push(other),
        }
    }
    words
}

struct Tour {
    /// Where the members run, with `target/release/etcd` for the Procfile to find.
    dir: TempDir,
    etcdctl: PathBuf,
    /// Free ports by the document's.
    ports: BTreeMap<u16, Port>,
    members: BTreeMap<String, Process>,
}

impl Tour {
    fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let programs = dir.path().join("target/release");
        let link = programs.join("etcd");
        std::fs::create_dir_all(programs)
            .and_then(|()| std::os::unix::fs::symlink(server_binary(), link))
            .expect("a temporary directory can be written");
        let ports = BTreeMap::new();
        Tour { dir, etcdctl: binary("etcdctl"), ports, members: BTreeMap::new() }
    }

    /// Starts a member by its line in the Procfile, where it may be commented out.
    fn start(&mut self, name: &str) {
        let line = PROCFILE
            .lines()
            .find_map(|line| line.trim_start_matches("# ").strip_prefix(&format!("{name}: ")))
            .unwrap_or_else(|| panic!("the Procfile has no {name}"));
        let mut command = Command::new("sh");
        command.args(["-c", &self.on_free_ports(line)]).current_dir(self.dir.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        self.members.insert(name.to_owned(), Process::spawn(&mut command));
    }

    fn expect_ready(&mut self, name: &str) {
        let member = self.members.get_mut(name).expect("it was started");
        member.expect(READY, PATIENCE);
    }

    fn stop(&mut self, name: &str) {
        let mut member = self.members.remove(name).expect("it was started");
        member.terminate();
        member.wait(PATIENCE);
        // If that was the leader, the others need another one before they can go on.
        let until = Instant::now() + PATIENCE;
        while self.etcdctl(&["get", "any"]).code != 0 {
            assert!(Instant::now() < until, "two of three members do not serve");
        }
    }

    fn play(&mut self, step: &Step) {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        match words[..] {
            ["goreman", "run", "stop", name] => self.stop(name),
            ["goreman", "run", "start", name] | ["goreman", "start", name] => {
                self.start(name);
                self.expect_ready(name);
            }
            ["etcdctl", ref args @ ..] => {
                // A member's own state may be a moment old, and a cluster takes a new member only once all others
                // have been up for five seconds.
                let may_wait =
                    args.contains(&"--consistency=s") || args.starts_with(&["member", "add"]);
                let until = Instant::now() + PATIENCE;
                loop {
                    let outcome = self.etcdctl(args);
                    let agrees = self.agrees(&outcome, &step.output);
                    if agrees || !may_wait || Instant::now() > until {
                        let (stdout, stderr) = (text(&outcome.stdout), text(&outcome.stderr));
                        assert!(agrees, "{step:#?} gave {}\n{stdout}\n{stderr}", outcome.code);
                        return;
                    }
                }
            }
            _ => panic!("nobody knows how to {words:?}"),
        }
    }

    fn etcdctl(&mut self, args: &[&str]) -> Outcome {
        let args: Vec<String> = args.iter().map(|arg| self.on_free_ports(arg)).collect();
        let (endpoints, args): (Vec<&str>, Vec<&str>) =
            args.iter().map(String::as_str).partition(|arg| arg.starts_with("--endpoints="));
        let default = self.on_free_ports("127.0.0.1:2379");
        let endpoint =
            endpoints.first().and_then(|arg| arg.strip_prefix("--endpoints=")).unwrap_or(&default);
        Tool::new(&self.etcdctl, endpoint).run(&args)
    }

    /// Whether a command did what the document says. An error is the last line of stderr; no output in the document
    /// means that it is not shown there.
    fn agrees(&self, outcome: &Outcome, expected: &str) -> bool {
        if expected.starts_with("Error:") {
            let stderr = text(&outcome.stderr);
            return outcome.code == 1 && stderr.lines().last() == Some(expected.trim_end());
        }
        let stdout = self.on_documented_ports(&text(&outcome.stdout));
        outcome.code == 0 && (expected.is_empty() || normal(&stdout) == normal(expected))
    }

    fn on_free_ports(&mut self, text: &str) -> String {
        with_ports(text, |port| self.ports.entry(port).or_insert_with(Port::claim).number())
    }

    fn on_documented_ports(&self, text: &str) -> String {
        with_ports(text, |port| {
            let documented = self.ports.iter().find(|(_, free)| free.number() == port);
            documented.map_or(port, |(documented, _)| *documented)
        })
    }
}

fn text(output: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(output)
}

/// Replaces each port of loopback.
fn with_ports(text: &str, mut replace: impl FnMut(u16) -> u16) -> String {
    const HOST: &str = "127.0.0.1:";
    let mut pieces = text.split(HOST);
    let mut replaced = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(piece.len());
        let port = piece[..end].parse().expect("a port follows the host");
        replaced.push_str(HOST);
        replaced.push_str(&replace(port).to_string());
        replaced.push_str(&piece[end..]);
    }
    replaced
}

/// A text without what depends on ids: a table's borders, the padding of its cells, its first column, and the order of
/// its rows.
fn normal(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter(|line| !line.starts_with(['┌', '├', '└']));
    let cells = rows.map(|line| {
        // Before the first bar, and the id.
        let skipped = if line.starts_with('│') { 2 } else { 0 };
        line.split('│').map(str::trim).skip(skipped).collect()
    });
    let mut cells: Vec<Vec<&str>> = cells.collect();
    if text.starts_with('┌') {
        cells.sort();
    }
    cells
}

fn etcdctl(cluster: &Cluster, slot: usize) -> Tool {
    Tool::new(&binary("etcdctl"), &cluster.endpoint(slot))
}

/// Puts through one member and gets through another.
fn expect_service(cluster: &Cluster, value: &str, put_at: usize, get_at: usize) {
    assert_eq!(etcdctl(cluster, put_at).expect(&["put", "key", value]), "OK\n");
    let found = etcdctl(cluster, get_at).expect(&["get", "key", "--print-value-only"]);
    assert_eq!(found, format!("{value}\n"));
}

#[tokio::test]
async fn five_members_do_without_two_but_not_without_three() {
    let mut cluster = Cluster::start(Plan::new(5)).await;
    let leader = cluster.leader().await;
    let others = cluster.others(&[leader]);
    expect_service(&cluster, "all", others[0], leader);

    cluster.stop(leader).await;
    cluster.stop(others[0]).await;
    let next = cluster.leader().await;
    let follower = cluster.others(&[leader, others[0], next])[0];
    expect_service(&cluster, "three", follower, next);

    cluster.stop(next).await;
    let lonely = etcdctl(&cluster, follower);
    for args in [&["put", "key", "two"][..], &["get", "key"]] {
        let outcome = lonely.run(args);
        let stderr = text(&outcome.stderr);
        let last = stderr.lines().last().unwrap_or_default();
        let is_clear = last.contains("etcdserver: request timed out")
            || last.contains("etcdserver: no leader")
            || last.contains("etcdserver: leader changed")
            || last == "Error: context deadline exceeded";
        assert!(outcome.code == 1 && is_clear, "{args:?}: {outcome:?}");
    }
    let local = lonely.expect(&["get", "key", "--consistency=s", "--print-value-only"]);
    assert_eq!(local, "three\n", "a member knows its own state without the others");

    cluster.start_again(next);
    cluster.leader().await;
    // The put without an answer may have been in the log of the two, and be carried out now.
    expect_service(&cluster, "three again", follower, next);
    cluster.start_again(leader);
    cluster.start_again(others[0]);
    cluster.leader().await;
    expect_service(&cluster, "five again", leader, others[0]);
}

#[tokio::test]
async fn a_cluster_survives_that_all_members_stop() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    expect_service(&cluster, "before", 0, 1);
    for slot in cluster.slots() {
        cluster.stop(slot).await;
    }
    for slot in cluster.slots() {
        cluster.start_again(slot);
    }
    cluster.leader().await;
    for slot in cluster.slots() {
        let found = etcdctl(&cluster, slot).expect(&["get", "key", "--print-value-only"]);
        assert_eq!(found, "before\n", "at member {slot}");
    }
    expect_service(&cluster, "after", 2, 0);
}

#[tokio::test]
async fn one_member_grows_to_three() {
    let mut cluster = Cluster::start(Plan::new(1)).await;
    expect_service(&cluster, "one", 0, 0);
    for size in [2, 3] {
        let new = cluster.add(MemberPlan::new(), false).await;
        cluster.leader().await;
        expect_service(&cluster, &format!("{size} members"), new, 0);
    }
    cluster.stop(0).await;
    cluster.leader().await;
    expect_service(&cluster, "without the first", 1, 2);
}

#[tokio::test]
async fn members_come_as_learners_are_promoted_and_leave() {
    let mut cluster = Cluster::start(Plan::new(3)).await;
    expect_service(&cluster, "early", 0, 1);
    let learner = cluster.add(MemberPlan::new(), true).await;
    let refused = etcdctl(&cluster, learner).run(&["put", "key", "value"]);
    let stderr = text(&refused.stderr);
    assert!(stderr.contains("rpc not supported for learner"), "{refused:?}");
    cluster.promote(learner).await;
    cluster.leader().await;
    // It may still learn of its promotion.
    let until = Instant::now() + PATIENCE;
    while etcdctl(&cluster, learner).run(&["get", "key"]).code != 0 {
        assert!(Instant::now() < until, "a promoted learner serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expect_service(&cluster, "late", learner, 0);

    let leader = cluster.leader().await;
    cluster.remove(leader).await;
    cluster.leader().await;
    let rest = cluster.slots();
    let list = etcdctl(&cluster, rest[0]).expect(&["member", "list"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    expect_service(&cluster, "without", rest[1], rest[2]);
}

/// Members of etcd itself and of this workspace agree with each other: the hashes of all keys are equal.
#[tokio::test]
async fn members_of_both_kinds_form_a_cluster() {
    let Some(dir) = real_etcd() else {
        println!("skipped: ETCD_REAL names no release of etcd");
        return;
    };
    let (ours, theirs) = (MemberPlan::of(&server_binary()), MemberPlan::of(&dir.join("etcd")));
    for plan in [
        vec![ours.clone(), theirs.clone(), ours.clone()],
        vec![theirs.clone(), ours.clone(), theirs.clone()],
    ] {
        let mut cluster = Cluster::start(Plan::of(plan)).await;
        for (put_at, get_at) in [(0, 1), (1, 2), (2, 0)] {
            expect_service(&cluster, &format!("{put_at} to {get_at}"), put_at, get_at);
        }
        // Whoever leads, of whichever kind, is followed.
        let leader = cluster.leader().await;
        cluster.restart(leader).await;
        expect_service(&cluster, "after the restart", leader, (leader + 1) % 3);
        let hash = |slot| hash_kv(&etcdctl(&cluster, slot));
        assert_eq!([hash(0), hash(1)], [hash(1), hash(2)]);
    }
}

/// The hash that one member has of all keys. A linearizable get makes it as new as the others first.
fn hash_kv(tool: &Tool) -> String {
    tool.expect(&["get", "key"]);
    // The endpoint comes first.
    let hashes = tool.expect(&["endpoint", "hashkv"]);
    hashes.trim().split(", ").nth(1).expect("the line has a hash").to_owned()
}

#[test]
fn ports_are_replaced_behind_their_host_only() {
    let text = "a=http://127.0.0.1:2379,b=127.0.0.1:22379 2379";
    assert_eq!(with_ports(text, |port| port + 1), "a=http://127.0.0.1:2380,b=127.0.0.1:22380 2379");
    let names: Vec<Vec<&str>> = normal("┌───┬────┐\n│ 2 │  y │\n│ 10 │ x │\n└───┴────┘\n");
    assert_eq!(names, [["x", ""], ["y", ""]]);
}
