//! Signals: asked to stop, and how the process ends then.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A signal that asks the member to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Interrupt,
}

impl Signal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "terminated",
            Signal::Interrupt => "interrupt",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
        }
    }
}

/// The signals as they come.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

/// Ends the process by the signal that asked for it, as etcd does: a supervisor sees why it ended.
#[allow(unsafe_code, reason = "there is no safe call that gives a signal its default action back")]
pub(crate) fn end_by(signal: Signal) {
    if std::process::id() == 1 {
        return;
    }
    // SAFETY: both calls take plain numbers; the handler that is replaced has no work left to do.
    unsafe {
        libc::signal(signal.number(), libc::SIG_DFL);
        libc::raise(signal.number());
    }
}

/// Tells systemd, when it started this process with `Type=notify`, that it serves.
pub(crate) fn notify_supervisor() {
    tracing::info!("notifying init daemon");
    match try_notify() {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify systemd for readiness"),
    }
}

fn try_notify() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let told = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        let path = path.to_string_lossy();
        if let Some(name) = path.strip_prefix('@') {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(b"READY=1", &address)
        } else {
            socket.send_to(b"READY=1", path.as_ref())
        }
    });
    told.map(drop)
}
