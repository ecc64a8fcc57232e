//! Texts for the terminal: usage, help and version.

use std::fmt::Write;

use super::flags::{Category, FLAGS, Flag};

/// The release whose behaviour and files this server has.
pub const ETCD_VERSION: &str = "3.7.1";

/// What follows a command line that cannot be read.
pub const USAGE: &str = "Usage:

  etcd [flags]
    Start an etcd server.

  etcd --version
    Show the version of etcd.

  etcd -h | --help
    Show the flags and what they mean.

  etcd --config-file PATH
    Read the settings from a YAML or JSON file. All other flags and all ETCD_ variables are then ignored.
    Durations are integers of nanoseconds there (10m is 600000000000), heartbeat-interval and
    election-timeout stay milliseconds.

  etcd gateway start
    Forward TCP connections to members.

  etcd grpc-proxy
    Serve as a proxy for the gRPC API.
";

/// The four lines of etcd, and ours.
pub fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {GIT_SHA}\nGo Version: {GO_VERSION}\n\
         Go OS/Arch: {}/{}\nretcd Version: {}\n",
        go_os(),
        go_arch(),
        env!("CARGO_PKG_VERSION")
    )
}

/// What stands where etcd names the commit and the compiler that it was built from.
pub(super) const GIT_SHA: &str = "Not provided";
pub(super) const GO_VERSION: &str = "none (Rust)";

/// The operating system, by Go's name for it.
pub(super) fn go_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    }
}

/// The kind of processor, by Go's name for it.
pub(super) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        arch => arch,
    }
}

/// Usage and every flag under its heading.
pub(super) fn help() -> String {
    let mut text = USAGE.to_owned();
    for (category, flags) in by_category() {
        let _ = writeln!(text, "\n{}:", category.title());
        for flag in flags {
            let _ = writeln!(text, "  --{} '{}'\n    {}", flag.name, flag.default, flag.help);
        }
    }
    text
}

/// The body of docs/configuration.md: one table per heading.
pub fn markdown() -> String {
    let mut text = String::new();
    for (category, flags) in by_category() {
        let _ = writeln!(text, "\n## {}\n", category.title());
        text.push_str(
            "| flag | default | type | key in the file | meaning |\n|---|---|---|---|---|\n",
        );
        for flag in flags {
            let quoted =
                |word: &str| if word.is_empty() { String::new() } else { format!("`{word}`") };
            let _ = writeln!(
                text,
                "| `--{}` | {} | {} | {} | {} |",
                flag.name,
                quoted(flag.default),
                flag.kind.name(),
                quoted(flag.file_key),
                flag.help.replace('|', "\\|").replace('<', "\\<")
            );
        }
    }
    text
}

fn by_category() -> impl Iterator<Item = (Category, Vec<&'static Flag>)> {
    let mut categories: Vec<Category> = FLAGS.iter().map(|flag| flag.category).collect();
    categories.sort();
    categories.dedup();
    categories
        .into_iter()
        .map(|category| (category, FLAGS.iter().filter(|flag| flag.category == category).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_stands_in_the_help() {
        let help = help();
        for flag in FLAGS {
            let line = format!("\n  --{} '{}'\n", flag.name, flag.default);
            assert_eq!(help.matches(&line).count(), 1, "--{}", flag.name);
        }
        assert!(help.starts_with("Usage:"));
        assert!(help.contains("\nProfiling and Monitoring:\n"));
    }

    #[test]
    fn version_has_the_lines_that_scripts_cut() {
        let version = version();
        let labels: Vec<_> = version.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(
            labels,
            ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "retcd Version"]
        );
        assert!(version.starts_with("etcd Version: 3.7.1\n"));
    }

    /// `UPDATE_DOCS=1 cargo test -p retcd-server` rewrites the tables behind the mark.
    #[test]
    fn the_document_agrees_with_the_table() {
        const MARK: &str = "<!-- the rest is written by a test of config/help.rs -->\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (head, tables) = document.split_once(MARK).expect("the mark stands in the document");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{head}{MARK}{}", markdown())).unwrap();
        } else {
            assert_eq!(tables, markdown(), "run the tests with UPDATE_DOCS=1");
        }
    }
}
