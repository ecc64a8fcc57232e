//! The doors: accepting, asking who dials, and joining the two sides.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::head::Head;
use super::pump::pump;
use super::rules::{Direction, Rules};
use retcd_checkers::Dice;

/// Enough for what a dialler sends before it waits for an answer.
const EARLY_BYTES_MAX: usize = 1024 * 1024;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A door to be opened.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) member: usize,
    pub(super) target: u16,
    pub(super) listener: TcpListener,
}

/// Opens doors until the handle is dropped. Then the runtime ends, and with it every connection.
pub(super) fn run(mut doors: mpsc::UnboundedReceiver<Door>, rules: &Rules) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        while let Some(door) = doors.recv().await {
            tokio::spawn(accept(door, rules.clone()));
        }
    });
}

async fn accept(door: Door, rules: Rules) {
    let listener =
        tokio::net::TcpListener::from_std(door.listener).expect("the listener does not block");
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // A connection that is gone already, or too many open files: the latter passes when others close.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let rules = rules.clone();
        // A connection that ends in an error has been closed on both sides, which is all there is to say.
        tokio::spawn(async move { serve(socket, door.member, door.target, &rules).await });
    }
}

async fn serve(mut dialler: TcpStream, to: usize, target: u16, rules: &Rules) -> io::Result<()> {
    let Some(head) = Head::read(&mut dialler).await? else { return Ok(()) };
    let from = head.names().find_map(|name| rules.member(name));
    if let Some(from) = from {
        let there = rules.direction(from, to);
        let back = rules.direction(to, from);
        let (mut refused_there, mut refused_back) = (there.clone(), back.clone());
        tokio::select! {
            biased;
            () = refused_there.refused() => Ok(()),
            () = refused_back.refused() => Ok(()),
            result = named(dialler, target, head.into_bytes(), there, back) => result,
        }
    } else {
        tokio::select! {
            biased;
            () = rules.cut_at(to) => Ok(()),
            result = unnamed(dialler, target, head.into_last_request()) => result,
        }
    }
}

/// Serves a connection between two known members.
async fn named(
    mut dialler: TcpStream,
    target: u16,
    mut early: Vec<u8>,
    mut there: Direction,
    mut back: Direction,
) -> io::Result<()> {
    let mut dice = Dice::random();
    tokio::select! {
        shaken = shake_hands(&mut there, &mut back, &mut dice) => if !shaken { return Ok(()) },
        // A dialler that gave up was never heard of.
        result = collect(&mut dialler, &mut early) => return result,
    }
    let dialled = connect(target).await?;
    dialler.set_nodelay(true)?;
    let (from_dialler, to_dialler) = dialler.into_split();
    let (from_dialled, to_dialled) = dialled.into_split();
    let other_dice = Dice::random();
    tokio::try_join!(
        pump(early, from_dialler, to_dialled, there, dice),
        pump(Vec::new(), from_dialled, to_dialler, back, other_dice),
    )?;
    Ok(())
}

/// Lets a handshake through: one chunk there, one back. Returns whether it succeeded.
async fn shake_hands(there: &mut Direction, back: &mut Direction, dice: &mut Dice) -> bool {
    for direction in [there, back] {
        direction.passable().await;
        let travel = direction.fault().map(|fault| fault.travel(dice));
        match travel {
            Some(None) => return false,
            Some(Some(time)) => tokio::time::sleep(time).await,
            None => {}
        }
    }
    true
}

/// Collects what the dialler sends. Returns when it leaves.
async fn collect(dialler: &mut TcpStream, early: &mut Vec<u8>) -> io::Result<()> {
    while early.len() < EARLY_BYTES_MAX {
        if dialler.read_buf(early).await? == 0 {
            return Ok(());
        }
    }
    std::future::pending().await
}

async fn unnamed(mut dialler: TcpStream, target: u16, request: Vec<u8>) -> io::Result<()> {
    let mut dialled = connect(target).await?;
    dialler.set_nodelay(true)?;
    dialled.write_all(&request).await?;
    tokio::io::copy_bidirectional(&mut dialler, &mut dialled).await?;
    Ok(())
}

async fn connect(target: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", target)).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
