//! What etcdctl prints, command by command, kept as text.
//!
//! A script in `tests/scripts/` is a session at a prompt, against a new server. A line that begins with `$ ` is a
//! command line for etcdctl, in the shell's quoting, perhaps with variables in front; lines with `< ` after it are its stdin. What follows is what
//! etcdctl did: its stdout, then its stderr with `2> ` in front, then `exit N` if it failed. Lines with `#` are
//! comments. Whatever differs between two runs (ids, times, sizes, ports) is masked by a word in capitals.
//!
//! Two variables are the harness's own: `ASKING=` says whom to ask instead of the script's server, and `DIR` in an
//! argument is a directory that is gone afterwards.
//!
//! `UPDATE_GOLDENFILES=1` rewrites the scripts; then read the diff. The server is the one that `testkit` chooses; the
//! first line of a script may ask for one that knows etcd 3.7's requests, with `# needs 3.7`, or for real etcd, with
//! `# needs real etcd`, for services that this workspace's server does not have yet. A line `# server: FLAGS` gives the
//! server flags of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use retcd_testkit::{Member, Outcome, Tool, real_etcd, server_binary};

#[test]
fn scripts_print_what_they_always_printed() {
    let etcdctl = Path::new(env!("CARGO_BIN_EXE_etcdctl"));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let failed: Vec<String> =
        scripts.iter().filter_map(|script| replay(etcdctl, script).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Plays a script; on failure, says what differs.
fn replay(etcdctl: &Path, script: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(script).unwrap();
    let server = if text.starts_with("# needs real etcd") {
        let Some(dir) = real_etcd() else {
            println!("skipped: {} needs ETCD_REAL", script.display());
            return Ok(());
        };
        dir.join("etcd")
    } else {
        server_binary()
    };
    let flags = text.lines().find_map(|line| line.strip_prefix("# server: ")).unwrap_or_default();
    let member = start(&server, etcdctl, &flags.split_whitespace().collect::<Vec<_>>());
    let tool = Tool::new(etcdctl, &member.endpoint());
    if text.starts_with("# needs 3.7") && !tool.expect(&["endpoint", "status"]).contains(", 3.7.") {
        println!("skipped: {} needs a server of 3.7", script.display());
        return Ok(());
    }
    let mut played = String::new();
    let dir = member.data_dir().parent().unwrap().display().to_string();
    let mut session = Session::new(tool, etcdctl, member.endpoint(), dir);
    for step in steps(&text) {
        played.push_str(&step.kept);
        if let Some(line) = &step.command {
            played.push_str(&session.play(line, &step.stdin));
        }
    }
    if played == text {
        return Ok(());
    }
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(script, played).unwrap();
        return Ok(());
    }
    Err(format!("{}:\n{}", script.display(), difference(&text, &played)))
}

/// A member whose own id and cluster's id both have 16 digits: etcdctl pads shorter ones with blanks, which a mask could
/// not tell from the blanks around them. The ids come from the token and the ports.
fn start(server: &Path, etcdctl: &Path, flags: &[&str]) -> Member {
    let members = (0..64).map(|token: u32| {
        let token = token.to_string();
        Member::start(server, &[&["--initial-cluster-token", token.as_str()], flags].concat())
    });
    let has_long_ids = |member: &Member| {
        let ids = Ids::of(&Tool::new(etcdctl, &member.endpoint()));
        ids.cluster.leading_zeros() < 4 && ids.member.leading_zeros() < 4
    };
    members.into_iter().find(has_long_ids).expect("one in a few has")
}

struct Ids {
    cluster: u64,
    member: u64,
}

impl Ids {
    fn of(tool: &Tool) -> Ids {
        let members = tool.expect(&["member", "list", "-w", "json"]);
        let id = |name: &str| -> u64 {
            let (_, rest) = members.split_once(name).expect("the header has ids");
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().expect("an id is a number")
        };
        Ids { cluster: id("\"cluster_id\":"), member: id("\"member_id\":") }
    }
}

/// A command of a script, with the lines that are copied as they are: comments, and the command itself.
#[derive(Debug, Default)]
struct Step {
    kept: String,
    command: Option<String>,
    stdin: String,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = vec![Step::default()];
    for line in text.lines() {
        let step = steps.last_mut().expect("there is a first step");
        if let Some(input) = line.strip_prefix("< ").or_else(|| line.strip_prefix('<')) {
            writeln!(step.kept, "{line}").unwrap();
            writeln!(step.stdin, "{input}").unwrap();
        } else if let Some(command) = line.strip_prefix("$ ") {
            let step = if step.command.is_some() { push(&mut steps) } else { step };
            writeln!(step.kept, "{line}").unwrap();
            step.command = Some(command.to_owned());
        } else if line.starts_with('#') {
            let step = if step.command.is_some() { push(&mut steps) } else { step };
            writeln!(step.kept, "{line}").unwrap();
        }
    }
    steps
}

fn push(steps: &mut Vec<Step>) -> &mut Step {
    steps.push(Step::default());
    steps.last_mut().expect("one was just added")
}

struct Session {
    tool: Tool,
    etcdctl: PathBuf,
    endpoint: String,
    /// A directory that belongs to the script.
    dir: String,
    /// Texts that differ from run to run, and what to show instead.
    masks: Vec<(String, &'static str)>,
    /// The id of the lease that was granted last, which scripts call `LEASE`.
    lease: String,
    /// The id of the only member, which scripts call `MEMBER_ID`.
    member_id: String,
}

impl Session {
    fn new(tool: Tool, etcdctl: &Path, endpoint: String, dir: String) -> Self {
        let Ids { cluster, member } = Ids::of(&tool);
        let masks = vec![
            (dir.clone(), "DIR"),
            (cluster.to_string(), "CLUSTER"),
            (format!("{cluster:x}"), "CLUSTER_HEX"),
            (member.to_string(), "MEMBER"),
            (format!("{member:x}"), "MEMBER_HEX"),
        ];
        let member_id = format!("{member:x}");
        let etcdctl = etcdctl.to_owned();
        Session { tool, etcdctl, endpoint, dir, masks, lease: String::new(), member_id }
    }

    fn play(&mut self, line: &str, stdin: &str) -> String {
        let line = line
            .replace("LEASE", &self.lease)
            .replace("ENDPOINT", &self.endpoint)
            .replace("MEMBER_ID", &self.member_id)
            .replace("DIR", &self.dir);
        let words = shell_words(&line);
        let mut words = words.iter().map(String::as_str).peekable();
        let mut tool = self.tool.clone();
        // Five seconds are not always enough for machines that run tests.
        if !line.contains("COMMAND_TIMEOUT") && !line.contains("command-timeout") {
            tool = tool.with_env("ETCDCTL_COMMAND_TIMEOUT", "25s");
        }
        if let Some(others) = words.peek().and_then(|word| word.strip_prefix("ASKING=")) {
            tool = Tool::new(&self.etcdctl, others);
            words.next();
        }
        while let Some(word) = words.next_if(|word| word.starts_with("ETCDCTL_")) {
            let (name, value) = word.split_once('=').expect("a variable has a value");
            tool = tool.with_env(name, value);
        }
        let args: Vec<&str> = words.collect();
        let outcome = tool.run_with_input(&args, stdin.as_bytes());
        let stdout = String::from_utf8_lossy(&outcome.stdout);
        if let Some(granted) =
            stdout.strip_prefix("lease ").filter(|rest| rest.contains("granted with"))
        {
            granted[..16].clone_into(&mut self.lease);
        }
        self.mask(&describe(&outcome))
    }

    fn mask(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(String, &str)| text.replace(from, to);
        let text = replace_number(text, &self.endpoint, "ENDPOINT");
        let mut text = self.masks.iter().fold(text, replace);
        if !self.lease.is_empty() {
            let decimal = i64::from_str_radix(&self.lease, 16).unwrap().to_string();
            text = text.replace(&self.lease, "LEASE").replace(&decimal, "LEASE_DECIMAL");
        }
        let masked: Vec<String> = text.lines().map(mask_line).collect();
        masked.iter().fold(String::new(), |all, line| all + line + "\n")
    }
}

/// Replaces `from`, which ends with a number, where the number does not go on.
fn replace_number(text: &str, from: &str, to: &str) -> String {
    let mut parts = text.split(from);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let goes_on = part.starts_with(|c: char| c.is_ascii_digit());
        out = out + if goes_on { from } else { to } + part;
    }
    out
}

fn describe(outcome: &Outcome) -> String {
    let mut text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str(" (no newline)\n");
    }
    for line in String::from_utf8_lossy(&outcome.stderr).lines() {
        writeln!(text, "2> {line}").unwrap();
    }
    if outcome.code != 0 {
        writeln!(text, "exit {}", outcome.code).unwrap();
    }
    text
}

/// Masks what another run would print differently.
fn mask_line(line: &str) -> String {
    let mut line = line.to_owned();
    // JSON and fields name their values.
    let named = [
        ("\"raft_term\":", "TERM"),
        ("\"raftTerm\":", "TERM"),
        ("\"raftIndex\":", "INDEX"),
        ("\"raftAppliedIndex\":", "INDEX"),
        ("\"dbSize\":", "BYTES"),
        ("\"dbSizeInUse\":", "BYTES"),
        ("\"hash\":", "HASH"),
        ("\"size\":", "BYTES"),
        ("cluster version 3.", "Y"),
        ("\"ts\":", "TIME"),
        ("\"took\":", "TIME"),
        ("\"ttl\":", "TTL"),
        ("\"RaftTerm\" : ", "TERM"),
        ("\"RaftIndex\" : ", "INDEX"),
        ("\"RaftAppliedIndex\" : ", "INDEX"),
        ("\"DBSize\" : ", "BYTES"),
        ("\"DBSizeInUse\" : ", "BYTES"),
        ("\"Hash\" : ", "HASH"),
        ("\"Took\" : ", "TIME"),
        ("took = ", "TIME"),
        ("]. took ", "TIME"),
        ("remaining(", "SECONDS"),
        ("\"version\":\"3.", "X.Y\""),
        ("\"Version\" : \"3.", "X.Y\""),
        ("http://127.0.0.1:", "PEER"),
    ];
    for (name, mask) in named {
        line = mask_after(&line, name, mask);
    }
    line
}

/// Replaces the values that follow `name`: digits, or a quoted string, or a word of hexadecimal digits.
fn mask_after(line: &str, name: &str, mask: &str) -> String {
    let mut parts = line.split(name);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = if let Some(quoted) = part.strip_prefix('"') {
            quoted.find('"').map_or(part.len(), |end| end + 2)
        } else {
            part.find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(part.len())
        };
        if end == 0 {
            out = out + name + part;
            continue;
        }
        // A version loses its closing quote as well, which the mask brings back.
        let rest =
            if mask.ends_with('"') { part[end..].trim_start_matches('"') } else { &part[end..] };
        out = out + name + mask + rest;
    }
    out
}

/// Splits as a shell would: spaces, and both kinds of quotes without any escapes.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The lines from the first difference on.
fn difference(expected: &str, played: &str) -> String {
    let same =
        expected.lines().zip(played.lines()).take_while(|(left, right)| left == right).count();
    let shown = |text: &str, mark: &str| {
        let lines = text.lines().skip(same).take(8).map(|line| format!("{mark} {line}\n"));
        lines.collect::<String>()
    };
    format!("from line {} on\n{}{}", same + 1, shown(expected, "-"), shown(played, "+"))
}
