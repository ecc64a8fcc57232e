//! The server program: reads the configuration, sets up the log, runs a member.

mod gateway;

use std::io::Write;
use std::process::ExitCode;

use retcd_server::config::{self, Command, Config, Sources, help};
use retcd_server::{logging, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let sources = Sources::of_process();
    match sources.arguments.first().map(String::as_str) {
        Some("gateway") => return gateway::run(&sources.arguments[1..]),
        Some("grpc-proxy") => {
            say_to_stderr("etcd grpc-proxy is not available yet\n");
            return ExitCode::FAILURE;
        }
        _ => {}
    }
    match config::load(&sources) {
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Run(config)) => run(*config),
        Err(error) if error.is_usage() => {
            say_to_stderr(&format!("{error}\n{}", help::USAGE));
            ExitCode::from(error.exit_code())
        }
        Err(error) => {
            log_with_defaults();
            tracing::warn!(error = %error, "failed to verify flags");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs the member until it is told to stop.
fn run(config: Config) -> ExitCode {
    if let Err(error) = logging::install(&config.log) {
        log_with_defaults();
        tracing::warn!(error = %error, "failed to verify flags");
        return ExitCode::FAILURE;
    }
    log_arguments();
    config.log_notices();
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "etcd server failed");
            ExitCode::FAILURE
        }
    }
}

fn log_arguments() {
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    tracing::info!(args = %logging::strings(&arguments), "Running: ");
}

/// For what goes wrong before the wanted log exists.
fn log_with_defaults() {
    // A second logger is refused; then the first one does.
    let _ = logging::install(&logging::Settings::default());
}

/// Prints what was asked for. A closed pipe, as behind `head`, is no failure.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn say_to_stderr(text: &str) {
    // Without a standard error the exit code still tells.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
