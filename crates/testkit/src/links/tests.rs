//! The network without members: two sockets, and what one hears of the other.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for anything on loopback to arrive that is not held; a slower machine can only make a test pass that
/// should fail, never the other way round.
const QUIET: Duration = Duration::from_millis(200);

/// Two members: 0 dials the door of 1.
struct Pair {
    links: Links,
    listener: TcpListener,
    door: Port,
    /// The URL by which member 0 introduces itself.
    own: Port,
}

impl Pair {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let links = Links::new();
        let own = links.open_door(0, 1);
        let door = links.open_door(1, listener.local_addr().unwrap().port());
        Pair { links, listener, door, own }
    }

    async fn dial(&self) -> TcpStream {
        let mut socket = TcpStream::connect(("127.0.0.1", self.door.number())).await.unwrap();
        let head = format!("GET /raft HTTP/1.1\r\nX-PeerURLs: {}\r\n\r\n", self.own.url());
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
    }

    async fn accept(&self) -> TcpStream {
        let (mut socket, _) = timeout(DEADLINE, self.listener.accept()).await.unwrap().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(DEADLINE, socket.read_u8()).await.expect("in time").expect("a head"));
        }
        socket
    }

    /// A connection in both views: the dialler's and the dialled one's.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let dialler = self.dial().await;
        (dialler, self.accept().await)
    }
}

async fn say(socket: &mut TcpStream, text: &str) {
    socket.write_all(text.as_bytes()).await.unwrap();
}

async fn hear(socket: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    timeout(DEADLINE, socket.read_exact(&mut heard)).await.expect("in time").expect("a message");
    assert_eq!(String::from_utf8(heard).unwrap(), text);
}

async fn hear_nothing(socket: &mut TcpStream) {
    let mut byte = [0];
    assert!(timeout(QUIET, socket.read(&mut byte)).await.is_err(), "something came");
}

async fn hear_the_end(socket: &mut TcpStream) {
    let mut byte = [0];
    // A reset is an end, too.
    let read = timeout(DEADLINE, socket.read(&mut byte)).await.expect("in time").unwrap_or(0);
    assert_eq!(read, 0);
}

#[tokio::test]
async fn a_sound_link_carries_both_directions_and_the_end() {
    let pair = Pair::new().await;
    let (mut dialler, mut dialled) = pair.connect().await;
    say(&mut dialler, "there").await;
    hear(&mut dialled, "there").await;
    say(&mut dialled, "back").await;
    hear(&mut dialler, "back").await;
    drop(dialler);
    hear_the_end(&mut dialled).await;
}

#[tokio::test]
async fn a_silent_direction_holds_what_was_said_and_the_other_goes_on() {
    let pair = Pair::new().await;
    let (mut dialler, mut dialled) = pair.connect().await;
    pair.links.set(1, 0, Fault::Silent);
    say(&mut dialled, "held").await;
    say(&mut dialler, "goes on").await;
    hear(&mut dialled, "goes on").await;
    hear_nothing(&mut dialler).await;
    pair.links.heal();
    hear(&mut dialler, "held").await;
}

#[tokio::test]
async fn connections_across_silence_hang_until_it_ends() {
    let pair = Pair::new().await;
    pair.links.set(1, 0, Fault::Silent);
    let mut dialler = pair.dial().await;
    assert!(timeout(QUIET, pair.listener.accept()).await.is_err(), "no answer, no connection");
    say(&mut dialler, "early").await;
    let mut gone = pair.dial().await;
    gone.shutdown().await.unwrap();
    hear_the_end(&mut gone).await;
    pair.links.heal();
    let mut dialled = pair.accept().await;
    hear(&mut dialled, "early").await;
    assert!(timeout(QUIET, pair.listener.accept()).await.is_err(), "who gave up does not come");
}

#[tokio::test]
async fn refusing_ends_connections_old_and_new() {
    let pair = Pair::new().await;
    let (mut dialler, mut dialled) = pair.connect().await;
    pair.links.set(1, 0, Fault::Refused);
    hear_the_end(&mut dialler).await;
    hear_the_end(&mut dialled).await;
    hear_the_end(&mut pair.dial().await).await;
    pair.links.heal();
    pair.connect().await;
}

#[tokio::test]
async fn delayed_chunks_come_late_and_in_order() {
    const COUNT: u32 = 10;
    let pair = Pair::new().await;
    let (mut dialler, mut dialled) = pair.connect().await;
    let delay = Duration::from_millis(100);
    pair.links.set(0, 1, Fault::Delayed { mean: delay, spread: Duration::ZERO });
    let begun = Instant::now();
    for number in 0..COUNT {
        say(&mut dialler, &format!("slow {number}")).await;
        say(&mut dialled, "quick").await;
        hear(&mut dialler, "quick").await;
    }
    for number in 0..COUNT {
        hear(&mut dialled, &format!("slow {number}")).await;
    }
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_always_lost_breaks_the_connection() {
    let pair = Pair::new().await;
    let (mut dialler, mut dialled) = pair.connect().await;
    pair.links.set(0, 1, Fault::Lossy { percent: 100 });
    say(&mut dialler, "lost").await;
    hear_the_end(&mut dialled).await;
    hear_the_end(&mut pair.dial().await).await;
}

#[tokio::test]
async fn requests_without_a_name_get_one_connection_each_and_none_at_a_cut_member() {
    let pair = Pair::new().await;
    let mut nobody = TcpStream::connect(("127.0.0.1", pair.door.number())).await.unwrap();
    say(&mut nobody, "GET /version HTTP/1.1\r\n\r\n").await;
    let (mut dialled, _) = timeout(DEADLINE, pair.listener.accept()).await.unwrap().unwrap();
    hear(&mut dialled, "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n").await;

    pair.links.set(0, 1, Fault::Silent);
    hear_the_end(&mut nobody).await;
    let mut nobody = TcpStream::connect(("127.0.0.1", pair.door.number())).await.unwrap();
    say(&mut nobody, "GET /version HTTP/1.1\r\n\r\n").await;
    hear_the_end(&mut nobody).await;
}
