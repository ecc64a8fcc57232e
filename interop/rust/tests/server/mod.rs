//! A server of the kind under test, for as long as a test needs it.

use std::fs::File;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// Bounds every wait: long enough for a loaded machine, short enough to fail a hanging test.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    pub address: String,
    peer: String,
    dir: TempDir,
    _held: [TcpSocket; 2],
}

impl Server {
    pub async fn start() -> (Server, Client) {
        let dir = tempfile::tempdir().unwrap();
        let [(address, client_socket), (peer, peer_socket)] = [free_address(), free_address()];
        let child = run(&address, &peer, &dir);
        let server = Server { child, address, peer, dir, _held: [client_socket, peer_socket] };
        let client = server.client().await;
        (server, client)
    }

    /// Waits until the server listens, and connects.
    pub async fn client(&self) -> Client {
        eventually(async || TcpStream::connect(&self.address).is_ok().then_some(())).await;
        Client::connect([&self.address], None).await.unwrap()
    }

    /// Kills the server and starts it again on the same data and ports.
    pub async fn restart(&mut self) -> Client {
        self.kill();
        self.child = run(&self.address, &self.peer, &self.dir);
        self.client().await
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(address: &str, peer: &str, dir: &TempDir) -> Child {
    let binary = std::env::var("ETCD_BIN").expect("ETCD_BIN names the server");
    let log = File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
    Command::new(binary)
        .args(["--name=m", "--log-level=error"])
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .arg(format!("--listen-client-urls=http://{address}"))
        .arg(format!("--advertise-client-urls=http://{address}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .arg(format!("--initial-cluster=m=http://{peer}"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// A free address. It stays so while the socket is there: that is bound to it and never listens.
fn free_address() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // The server may listen there nevertheless, since it sets this, too.
    socket.set_reuseaddr(true).unwrap();
    (socket.local_addr().unwrap().to_string(), socket)
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not true after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends a call that hangs.
pub async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, call).await.expect("the call hangs")
}
