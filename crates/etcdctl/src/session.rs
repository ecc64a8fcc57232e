//! The global flags: from the command line and the environment to a client, a printer and a time limit.

use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::AuthenticateRequest;
use retcd_client::{Builder, Client, Config, Error, Tls};
use tokio::runtime::Runtime;

use crate::failure;
use crate::print::{Format, Printer, Reply};
use crate::{discovery, log, password};
use retcd_command_line::go::in_go_words;
use retcd_command_line::{Exit, Failure};
use retcd_command_line::{Flag, Flags, Invocation};

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
    .short('w')
    .one_of(&["fields", "json", "protobuf", "simple", "table"]),
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
    tls: Option<Tls>,
    client: Client,
    credentials: Option<Credentials>,
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
        let security = Security::read(&flags)?;
        let printer =
            Printer { format: Format::from_name(flags.text("write-out"))?, hex: flags.bool("hex") };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let mut config = config(&flags);
        if let Some(found) = discovered(&flags, &runtime)? {
            config.endpoints = found;
        }
        let tls = security.tls(&config.endpoints)?;
        let credentials = if config.token.is_none() { credentials(&flags)? } else { None };
        let mut client = {
            let _entered = runtime.enter();
            build(&config, tls.as_ref()).map_err(|error| Failure::bad_args(error.to_string()))?
        };
        if let Some(credentials) = &credentials {
            config.token = runtime
                .block_on(log_in(&client, config.dial_timeout, credentials))
                .map_err(|error| failure::request_with(Exit::BadConnection, &error))?;
            client = with_token(&client, config.token.as_deref())
                .map_err(|error| failure::request_with(Exit::BadConnection, &error))?;
        }
        Ok(Session {
            runtime,
            config,
            tls,
            client,
            credentials,
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

    /// The client of commands that have been waiting: tokens that nobody uses end after a while, so there is a new one.
    pub(crate) async fn renewed_client(&self) -> Result<Client, Error> {
        let Some(credentials) = &self.credentials else {
            return Ok(self.client());
        };
        let token = log_in(&self.client, self.config.dial_timeout, credentials).await?;
        with_token(&self.client(), token.as_deref())
    }

    /// The endpoints as they were given.
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.config.endpoints
    }

    /// How long a short command may take.
    pub(crate) fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// A client that only talks to `endpoint`.
    pub(crate) fn client_of(&self, endpoint: &str) -> Result<Client, Error> {
        let config = Config { endpoints: vec![endpoint.to_owned()], ..self.config.clone() };
        let _entered = self.runtime.enter();
        Ok(build(&config, self.tls.as_ref())?.with_timeout(self.command_timeout))
    }

    /// Clients that share no connection, with each other or with any other client.
    pub(crate) fn separate_clients(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let _entered = self.runtime.enter();
        (0..count)
            .map(|_| build(&self.config, self.tls.as_ref()))
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::bad_args(error.to_string()))
    }

    /// A client of another cluster, with the time and size limits of this one.
    pub(crate) fn client_elsewhere(
        &self,
        endpoint: String,
        security: &Security,
        credentials: Option<&Credentials>,
    ) -> Result<Client, Failure> {
        let config = Config { endpoints: vec![endpoint], token: None, ..self.config.clone() };
        let tls = security.tls(&config.endpoints)?;
        let client = {
            let _entered = self.runtime.enter();
            build(&config, tls.as_ref()).map_err(|error| Failure::bad_args(error.to_string()))?
        };
        let Some(credentials) = credentials else {
            return Ok(client);
        };
        let refused = |error| failure::request_with(Exit::BadConnection, &error);
        let token = self
            .runtime
            .block_on(log_in(&client, config.dial_timeout, credentials))
            .map_err(refused)?;
        with_token(&client, token.as_deref()).map_err(refused)
    }
}

fn build(config: &Config, tls: Option<&Tls>) -> Result<Client, Error> {
    let builder = Builder::from(config.clone());
    match tls {
        Some(tls) => builder.tls(tls.clone()).build(),
        None => builder.build(),
    }
}

/// How a connection is encrypted, as the flags say it.
#[derive(Debug, Default)]
pub(crate) struct Security {
    /// Files; empty for none.
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) authorities: String,
    /// Whether connections are only encrypted when an endpoint or a file demands it.
    pub(crate) is_insecure: bool,
    pub(crate) skips_verification: bool,
    /// Whom the certificate must name, if not the endpoint; empty for none.
    pub(crate) server_name: String,
}

impl Security {
    fn read(flags: &Flags) -> Result<Self, Failure> {
        for name in ["cert", "key", "cacert"] {
            if flags.is_changed(name) && flags.text(name).is_empty() {
                return Err(Failure::bad_args(format!(
                    "empty string is passed to --{name} option"
                )));
            }
        }
        let is_found_safely = !flags.bool("insecure-discovery");
        Ok(Security {
            cert: flags.text("cert").to_owned(),
            key: flags.text("key").to_owned(),
            authorities: flags.text("cacert").to_owned(),
            is_insecure: flags.bool("insecure-transport"),
            skips_verification: flags.bool("insecure-skip-tls-verify"),
            server_name: if is_found_safely {
                flags.text("discovery-srv").to_owned()
            } else {
                String::new()
            },
        })
    }

    /// `None` when the endpoints decide by their scheme, without anything special.
    fn tls(&self, endpoints: &[String]) -> Result<Option<Tls>, Failure> {
        if self.cert.is_empty() != self.key.is_empty() {
            return Err(Failure::bad_args(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                self.key, self.cert
            )));
        }
        for file in [&self.authorities, &self.cert, &self.key] {
            require_readable(file)?;
        }
        let has_files = !self.cert.is_empty() || !self.authorities.is_empty();
        let is_wanted = has_files || !self.is_insecure;
        let is_everywhere = endpoints.iter().all(|endpoint| endpoint.starts_with("https://"));
        let is_demanded = is_wanted || self.skips_verification && is_everywhere;
        if !is_demanded {
            return Ok(None);
        }
        let mut tls = Tls::new();
        if !self.authorities.is_empty() {
            tls = tls.ca_file(&self.authorities);
        }
        if !self.cert.is_empty() {
            tls = tls.identity_files(&self.cert, &self.key);
        }
        if !self.server_name.is_empty() {
            tls = tls.server_name(&self.server_name);
        }
        if self.skips_verification {
            tls = tls.insecure_skip_verify();
        }
        Ok(Some(tls))
    }
}

/// Says in Go's words why a file cannot be read; no file at all is fine.
fn require_readable(file: &str) -> Result<(), Failure> {
    if file.is_empty() {
        return Ok(());
    }
    let opened = std::fs::File::open(file);
    opened
        .map(|_| ())
        .map_err(|error| Failure::bad_args(format!("open {file}: {}", in_go_words(&error))))
}

/// The endpoints that `--discovery-srv` leads to, if there are any.
fn discovered(flags: &Flags, runtime: &Runtime) -> Result<Option<Vec<String>>, Failure> {
    let domain = flags.text("discovery-srv");
    if domain.is_empty() {
        return Ok(None);
    }
    let found = runtime
        .block_on(discovery::endpoints(domain, flags.text("discovery-srv-name")))
        .map_err(|error| Failure::new(Exit::Error, error))?;
    let accepts_all = flags.bool("insecure-discovery");
    let accepted = found.into_iter().filter(|endpoint| {
        let is_accepted = accepts_all || !endpoint.starts_with("http://");
        if !is_accepted {
            eprintln!("ignoring discovered insecure endpoint {endpoint:?}");
        }
        is_accepted
    });
    let accepted: Vec<String> = accepted.collect();
    Ok(Some(accepted).filter(|endpoints| !endpoints.is_empty()))
}

/// Who somebody claims to be.
pub(crate) struct Credentials {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Credentials {
    /// `user` is `name` or `name:password`. A password that is given nowhere is asked for, with `prompt`.
    pub(crate) fn read(user: &str, password: &str, prompt: &str) -> Result<Option<Self>, Failure> {
        if user.is_empty() {
            return Ok(None);
        }
        let (name, password) = match user.split_once(':') {
            _ if !password.is_empty() => (user, password.to_owned()),
            Some((name, password)) => (name, password.to_owned()),
            None => (user, password::ask(prompt)?),
        };
        Ok(Some(Credentials { name: name.to_owned(), password }))
    }
}

fn credentials(flags: &Flags) -> Result<Option<Credentials>, Failure> {
    Credentials::read(flags.text("user"), flags.text("password"), "Password: ")
}

/// A token for whoever it is; `None` when nobody is asked, or without a password, which no server would accept.
pub(crate) async fn log_in(
    client: &Client,
    timeout: Duration,
    credentials: &Credentials,
) -> Result<Option<String>, Error> {
    if credentials.name.is_empty() || credentials.password.is_empty() {
        return Ok(None);
    }
    let request = AuthenticateRequest {
        name: credentials.name.clone(),
        password: credentials.password.clone(),
    };
    match client.with_timeout(timeout).authenticate(request).await {
        Ok(reply) => Ok(Some(reply.token)),
        Err(Error::Rpc(RpcError::AuthNotEnabled)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn with_token(client: &Client, token: Option<&str>) -> Result<Client, Error> {
    token.map_or(Ok(client.clone()), |token| client.with_token(token))
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
