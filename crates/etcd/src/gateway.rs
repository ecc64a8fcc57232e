//! `etcd gateway`: its words, read by the rules of cobra, and its texts.

use std::path::PathBuf;
use std::process::ExitCode;

use retcd_server::config::{Kind, Value, duration};
use retcd_server::tcp_proxy::{self, Error, Settings};

const USAGE: &str = "Usage:
  etcd gateway [command]

Available Commands:
  start       start the gateway

Flags:
  -h, --help   help for gateway

Use \"etcd gateway [command] --help\" for more information about a command.
";

const START_USAGE: &str = "Usage:
  etcd gateway start [flags]

Flags:
      --discovery-srv string        DNS domain used to bootstrap initial cluster
      --discovery-srv-name string   service name to query when using DNS discovery
      --endpoints strings           comma separated etcd cluster endpoints (default [127.0.0.1:2379])
  -h, --help                        help for start
      --insecure-discovery          accept insecure SRV records
      --listen-addr string          listen address (default \"127.0.0.1:23790\")
      --retry-delay duration        duration of delay before retrying failed endpoints (default 1m0s)
      --trusted-ca-file string      path to the client server TLS CA file for verifying the discovered endpoints when discovery-srv is provided.
";

/// What the words mean.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    StartHelp,
    Start(Settings),
}

/// A mistake, and the usage that belongs below it.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    message: String,
    usage: &'static str,
}

/// Runs with the words behind `gateway`.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let settings = match read(words) {
        Ok(Command::Help) => return crate::print(&format!("gateway related command\n\n{USAGE}")),
        Ok(Command::StartHelp) => {
            return crate::print(&format!("start the gateway\n\n{START_USAGE}"));
        }
        Ok(Command::Start(settings)) => settings,
        Err(Mistake { message, usage }) => {
            crate::say_to_stderr(&format!("Error: {message}\n{usage}\n{message}\n"));
            return ExitCode::FAILURE;
        }
    };
    crate::log_with_defaults();
    crate::log_arguments();
    let Err(error) = tcp_proxy::run(&settings);
    let text = format!("{error}\n");
    match error {
        Error::Discovery(_) | Error::Tls(_) | Error::Bind(..) | Error::Runtime(_) => {
            crate::say_to_stderr(&text);
        }
        _ => drop(crate::print(&text)),
    }
    ExitCode::FAILURE
}

fn read(words: &[String]) -> Result<Command, Mistake> {
    let Some(place) = subcommand(words).filter(|place| words[*place] == "start") else {
        return read_without_subcommand(words);
    };
    let words = words[..place].iter().chain(&words[place + 1..]);
    read_start(words).map_err(|message| Mistake { message, usage: START_USAGE })
}

/// The first word that is neither a flag nor, behind one that may take a word, its value.
fn subcommand(words: &[String]) -> Option<usize> {
    let mut is_value = false;
    words.iter().position(|word| {
        if std::mem::take(&mut is_value) {
            return false;
        }
        let is_flag = word.starts_with('-');
        let takes_none = word.contains('=') || word == "-h" || word == "--help";
        is_value = is_flag && !takes_none && (word.starts_with("--") || word.len() == 2);
        !is_flag
    })
}

fn read_without_subcommand(words: &[String]) -> Result<Command, Mistake> {
    for word in words {
        let message = match Word::of(word) {
            Word::End | Word::Flag("help", _) => break,
            Word::Other => continue,
            Word::Flag(name, _) => format!("unknown flag: --{name}"),
            Word::Wrong(message) => message,
        };
        return Err(Mistake { message, usage: USAGE });
    }
    Ok(Command::Help)
}

fn read_start<'a>(mut words: impl Iterator<Item = &'a String>) -> Result<Command, String> {
    let mut settings = Settings {
        listen_addr: "127.0.0.1:23790".to_owned(),
        endpoints: vec!["127.0.0.1:2379".to_owned()],
        discovery_srv: String::new(),
        discovery_srv_name: String::new(),
        insecure_discovery: false,
        trusted_ca_file: PathBuf::new(),
        retry_delay: duration::parse("1m").expect("it is a duration"),
    };
    let mut has_endpoints = false;
    while let Some(word) = words.next() {
        let (name, value) = match Word::of(word) {
            Word::End => break,
            Word::Other => continue,
            Word::Flag("help", _) => return Ok(Command::StartHelp),
            Word::Flag(name, value) => (name, value),
            Word::Wrong(message) => return Err(message),
        };
        let mut text = || {
            let value = value.or_else(|| words.next().map(String::as_str));
            value.map(str::to_owned).ok_or_else(|| format!("flag needs an argument: --{name}"))
        };
        let wrong = |value: &str, why: String| {
            format!("invalid argument {value:?} for \"--{name}\" flag: {why}")
        };
        match name {
            "listen-addr" => settings.listen_addr = text()?,
            "discovery-srv" => settings.discovery_srv = text()?,
            "discovery-srv-name" => settings.discovery_srv_name = text()?,
            "trusted-ca-file" => settings.trusted_ca_file = text()?.into(),
            "endpoints" => {
                let Ok(Value::List(list)) = Kind::List.parse(&text()?) else { continue };
                if !std::mem::replace(&mut has_endpoints, true) {
                    settings.endpoints.clear();
                }
                settings.endpoints.extend(list);
            }
            "insecure-discovery" => {
                let value = value.unwrap_or("true");
                let read = Kind::Bool.parse(value).map_err(|_| {
                    wrong(value, format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))
                })?;
                settings.insecure_discovery = read == Value::Bool(true);
            }
            "retry-delay" => {
                let value = text()?;
                settings.retry_delay = duration::parse(&value)
                    .ok_or_else(|| wrong(&value, format!("time: invalid duration {value:?}")))?;
            }
            _ => return Err(format!("unknown flag: --{name}")),
        }
    }
    Ok(Command::Start(settings))
}

/// One word of the command line.
enum Word<'a> {
    /// Name, and value behind an equals sign.
    Flag(&'a str, Option<&'a str>),
    /// No flags any more.
    End,
    Other,
    Wrong(String),
}

impl<'a> Word<'a> {
    fn of(word: &'a str) -> Self {
        if word == "--" {
            return Self::End;
        }
        if let Some(flag) = word.strip_prefix("--") {
            if flag.starts_with(['-', '=']) {
                return Self::Wrong(format!("bad flag syntax: {word}"));
            }
            return match flag.split_once('=') {
                Some((name, value)) => Self::Flag(name, Some(value)),
                None => Self::Flag(flag, None),
            };
        }
        match word.strip_prefix('-').and_then(|letters| letters.chars().next()) {
            Some('h') => Self::Flag("help", None),
            Some(letter) => Self::Wrong(format!("unknown shorthand flag: {letter:?} in {word}")),
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn words(line: &str) -> Result<Command, Mistake> {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn start(line: &str) -> Settings {
        match words(line) {
            Ok(Command::Start(settings)) => settings,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_stand_before_and_behind_start() {
        let default = start("start");
        assert_eq!(default.listen_addr, "127.0.0.1:23790");
        assert_eq!(default.endpoints, ["127.0.0.1:2379"]);
        assert_eq!(default.retry_delay, Duration::from_secs(60));
        assert_eq!(start("start word --trusted-ca-file= -- --nope"), default);
        for line in [
            "--endpoints=a:1,b:2 start --endpoints c:3 --listen-addr=d:4",
            "--endpoints a:1,b:2 --listen-addr d:4 start --endpoints=c:3",
        ] {
            let settings = start(line);
            assert_eq!(settings.endpoints, ["a:1", "b:2", "c:3"], "{line}");
            assert_eq!(settings.listen_addr, "d:4", "{line}");
        }
        let settings = start(
            "start --discovery-srv=a --discovery-srv-name b --insecure-discovery --retry-delay 2s",
        );
        assert_eq!((&*settings.discovery_srv, &*settings.discovery_srv_name), ("a", "b"));
        assert!(settings.insecure_discovery && settings.retry_delay == Duration::from_secs(2));
        assert!(start("start --endpoints=").endpoints.is_empty());
    }

    #[test]
    fn help_is_asked_for_in_many_ways() {
        for line in ["", "-h", "--help", "word", "help start", "word -h --nope"] {
            assert_eq!(words(line), Ok(Command::Help), "{line}");
        }
        for line in ["start -h", "start --help --nope", "-h start", "start --listen-addr=a -h"] {
            assert_eq!(words(line), Ok(Command::StartHelp), "{line}");
        }
    }

    #[test]
    fn mistakes_in_cobras_words() {
        for (line, usage, message) in [
            ("--nope", USAGE, "unknown flag: --nope"),
            ("-x", USAGE, "unknown shorthand flag: 'x' in -x"),
            ("start --nope=1", START_USAGE, "unknown flag: --nope"),
            ("start -xy", START_USAGE, "unknown shorthand flag: 'x' in -xy"),
            ("start --=a", START_USAGE, "bad flag syntax: --=a"),
            ("start --retry-delay", START_USAGE, "flag needs an argument: --retry-delay"),
            (
                "start --retry-delay x",
                START_USAGE,
                "invalid argument \"x\" for \"--retry-delay\" flag: time: invalid duration \"x\"",
            ),
            (
                "start --insecure-discovery=maybe",
                START_USAGE,
                "invalid argument \"maybe\" for \"--insecure-discovery\" flag: \
                 strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(words(line), Err(Mistake { message: message.to_owned(), usage }), "{line}");
        }
    }
}
