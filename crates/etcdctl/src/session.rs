//! The global flags: from the command line and the environment to a client, a printer and a time limit.

use std::time::Duration;

use retcd_client::{Client, Config, Error};
use tokio::runtime::{Builder, Runtime};

use crate::cli::{Flag, Flags, Invocation, not_yet};
use crate::failure::{Exit, Failure};
use crate::log;
use crate::print::{Format, Printer, Reply};

const PREFIX: &str = "ETCDCTL_";

/// Every command takes these.
pub(crate) static GLOBAL_FLAGS: [Flag; 21] = [
    Flag::list("endpoints", "127.0.0.1:2379", "addresses of the members to talk to"),
    Flag::bool("debug", "print the global flags before doing anything"),
    Flag::text(
        "write-out",
        "simple",
        "how to write results (fields, json, protobuf, simple, table)",
    )
    .short('w'),
    Flag::bool("hex", "write bytes as hexadecimal escapes"),
    Flag::duration("dial-timeout", "2s", "how long connecting to a member may take"),
    Flag::duration("command-timeout", "5s", "how long a short command may take once connected"),
    Flag::duration("keepalive-time", "2s", "silence after which a busy connection is probed"),
    Flag::duration("keepalive-timeout", "6s", "how long the answer to a probe may take"),
    Flag::int("max-request-bytes", "largest request to send (0 means 2 MiB)"),
    Flag::int("max-recv-bytes", "largest answer to accept (0 means 2147483647)"),
    Flag::on("insecure-transport", "talk without TLS"),
    Flag::on("insecure-discovery", "accept SRV records of members without TLS"),
    Flag::bool(
        "insecure-skip-tls-verify",
        "do not verify the certificates of members (for tests only)",
    ),
    Flag::text("cert", "", "file with the certificate to show to members"),
    Flag::text("key", "", "file with the key of that certificate"),
    Flag::text("cacert", "", "file with the authorities that may certify members"),
    Flag::text("user", "", "name[:password] to authenticate with (asks for a missing password)"),
    Flag::text("password", "", "password to authenticate with (then --user holds the name only)"),
    Flag::text("auth-jwt-token", "", "token to authenticate with, instead of a user and password"),
    Flag::text("discovery-srv", "", "domain whose SRV records name the members").short('d'),
    Flag::text("discovery-srv-name", "", "suffix of the SRV service name"),
];

/// What a command needs to talk to a cluster.
pub(crate) struct Session {
    runtime: Runtime,
    config: Config,
    client: Client,
    command_timeout: Duration,
    is_timeout_given: bool,
    pub(crate) printer: Printer,
    /// The flags of the command line, completed by the environment.
    pub(crate) flags: Flags,
}

impl Session {
    /// Reads the global flags. Nothing is sent yet.
    ///
    /// # Errors
    /// Flags and environment contradict each other, or ask for something impossible.
    pub(crate) fn open(invocation: &Invocation) -> Result<Self, Failure> {
        let flags = with_environment(invocation)?;
        if flags.bool("debug") {
            print_settings(invocation, &flags);
        }
        refuse_what_is_missing(&flags)?;
        let config = config(&flags);
        let printer =
            Printer { format: Format::from_name(flags.text("write-out"))?, hex: flags.bool("hex") };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let client = {
            let _entered = runtime.enter();
            Client::new(&config).map_err(|error| Failure::bad_args(error.to_string()))?
        };
        Ok(Session {
            runtime,
            config,
            client,
            command_timeout: flags.duration("command-timeout"),
            is_timeout_given: flags.is_changed("command-timeout"),
            printer,
            flags,
        })
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn print(&self, reply: &Reply<'_>) -> Result<(), Failure> {
        self.printer.print(reply)
    }

    /// The client for commands that end soon.
    pub(crate) fn client(&self) -> Client {
        self.client.with_timeout(self.command_timeout)
    }

    /// The client for commands that take their time, unless they were told how long.
    pub(crate) fn patient_client(&self) -> Client {
        if self.is_timeout_given { self.client() } else { self.client.clone() }
    }

    /// The client for streams, which last until somebody ends them.
    pub(crate) fn endless_client(&self) -> Client {
        self.client.clone()
    }

    /// The endpoints as they were given.
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.config.endpoints
    }

    /// A client that only talks to `endpoint`.
    pub(crate) fn client_of(&self, endpoint: &str) -> Result<Client, Error> {
        let config = Config { endpoints: vec![endpoint.to_owned()], ..self.config.clone() };
        let _entered = self.runtime.enter();
        Ok(Client::new(&config)?.with_timeout(self.command_timeout))
    }
}

/// Every inherited flag may be given by an environment variable, but not by both.
fn with_environment(invocation: &Invocation) -> Result<Flags, Failure> {
    let mut flags = invocation.flags.clone();
    let declared: Vec<&'static Flag> = invocation.inherited_flags().collect();
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        if !name.starts_with(PREFIX) {
            continue;
        }
        match declared.iter().find(|flag| variable(flag) == name) {
            Some(flag) if invocation.flags.is_changed(flag.name) => {
                log::shadowed_environment(&name);
                return Err(Failure::silent(Exit::Error));
            }
            Some(_) if value.is_empty() => {}
            Some(flag) => {
                if let Err(error) = flags.set(flag, &value) {
                    log::bad_environment(&name, &error);
                }
            }
            None if invocation.command().name == "watch" && name.starts_with("ETCDCTL_WATCH_") => {}
            None => log::unknown_environment(&format!("{name}={value}")),
        }
    }
    Ok(flags)
}

fn variable(flag: &Flag) -> String {
    format!("{PREFIX}{}", flag.name.to_uppercase().replace('-', "_"))
}

fn print_settings(invocation: &Invocation, flags: &Flags) {
    let mut declared: Vec<&Flag> = invocation.inherited_flags().collect();
    declared.sort_by_key(|flag| flag.name);
    for flag in declared {
        let value = flags.text(flag.name);
        let (open, close) = if flag.name == "endpoints" { ("[", "]") } else { ("", "") };
        eprintln!("{}={open}{value}{close}", variable(flag));
    }
}

/// TLS, passwords and discovery are not there yet; doing without them silently would be worse than refusing.
fn refuse_what_is_missing(flags: &Flags) -> Result<(), Failure> {
    for name in ["cert", "key", "cacert"] {
        if flags.is_changed(name) && flags.text(name).is_empty() {
            return Err(Failure::bad_args(format!("empty string is passed to --{name} option")));
        }
    }
    for name in ["cert", "key", "cacert", "user", "discovery-srv"] {
        if !flags.text(name).is_empty() {
            return Err(not_yet(&format!("--{name}")));
        }
    }
    if !flags.bool("insecure-transport") {
        return Err(not_yet("--insecure-transport=false"));
    }
    Ok(())
}

fn config(flags: &Flags) -> Config {
    let size = |name| usize::try_from(flags.int(name)).unwrap_or(0);
    let token = flags.text("auth-jwt-token");
    Config {
        endpoints: flags.list("endpoints"),
        dial_timeout: flags.duration("dial-timeout"),
        keepalive_time: flags.duration("keepalive-time"),
        keepalive_timeout: flags.duration("keepalive-timeout"),
        request_bytes_max: size("max-request-bytes"),
        response_bytes_max: size("max-recv-bytes"),
        token: (!token.is_empty()).then(|| token.to_owned()),
    }
}
