//! Ports that stay ours while nobody listens on them.
//!
//! A member that is down must find its port free again when it comes back. A port that the kernel handed out once
//! (bind to 0) does not promise that: the next outgoing connection of any program may get it. So the socket that got
//! the port stays bound to it, and never listens. The kernel gives the port to nobody else by itself, and
//! `SO_REUSEADDR`, which every server sets, lets one other socket listen there.
//!
//! That nothing here listens, not even for a moment, matters for one more reason: a process that another thread
//! starts holds a copy of every socket until it has become its program. A port that was listened on may so be taken
//! after its socket was closed.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of loopback that no other holder of a `Port` uses.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Holds the claim.
    _socket: TcpSocket,
}

impl Port {
    /// Takes a port.
    ///
    /// # Panics
    /// All are taken.
    pub fn claim() -> Self {
        let (number, socket) = claim().expect("loopback has free ports");
        Port { number, _socket: socket }
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }

    /// `https://127.0.0.1:port`
    pub fn https_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.number)
    }
}

fn claim() -> std::io::Result<(u16, TcpSocket)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let number = socket.local_addr()?.port();
    // Not before: the kernel would then hand out one port to several such sockets.
    socket.set_reuseaddr(true)?;
    Ok((number, socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    #[test]
    fn held_ports_differ() {
        let ports: Vec<Port> = (0..200).map(|_| Port::claim()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }

    #[test]
    fn a_claimed_port_can_be_listened_on_again_and_again_while_processes_start() {
        let starting = std::thread::spawn(|| {
            for _ in 0..200 {
                Command::new("true").status().unwrap();
            }
        });
        while !starting.is_finished() {
            let port = Port::claim();
            assert!(TcpStream::connect(("127.0.0.1", port.number())).is_err());
            TcpListener::bind(("127.0.0.1", port.number())).unwrap();
        }
        starting.join().unwrap();
    }

    #[test]
    fn the_kernel_hands_out_no_claimed_port() {
        let port = Port::claim();
        let without_reuse = TcpSocket::new_v4().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        assert!(without_reuse.bind(address).is_err());
    }
}
