//! A name server for tests.

use std::net::{Ipv4Addr, UdpSocket};

/// Answers every question for SRV records with ports of `localhost`; no ports means that there is no such name. Returns
/// the port to ask, on loopback. Ends with the test's process.
pub fn name_server(ports: impl Fn(&str) -> Vec<u16> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let port = socket.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let (name, question) = question(&packet[..length]);
            let ports = ports(&name.to_lowercase());
            let _ = socket.send_to(&response(&packet[..2], question, &ports), from);
        }
    });
    port
}

/// The name that is asked for, and the bytes of the question: the name, a type and a class.
fn question(packet: &[u8]) -> (String, &[u8]) {
    const HEAD: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEAD;
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).into_owned());
        at = end;
    }
    (labels.join("."), &packet[HEAD..at + 5])
}

fn response(id: &[u8], question: &[u8], ports: &[u16]) -> Vec<u8> {
    const NO_SUCH_NAME: u16 = 3;
    let flags = 0x8580 | if ports.is_empty() { NO_SUCH_NAME } else { 0 };
    let count = u16::try_from(ports.len()).expect("a few ports");
    let mut packet = id.to_vec();
    for number in [flags, 1, count, 0, 0] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend(question);
    for port in ports {
        let target = b"\x09localhost\x00";
        // The name is the question's, the type SRV, the class IN.
        packet.extend([0xc0, 12, 0, 33, 0, 1]);
        packet.extend(60_u32.to_be_bytes());
        let length = u16::try_from(6 + target.len()).expect("a short name");
        for number in [length, 1, 1, *port] {
            packet.extend(number.to_be_bytes());
        }
        packet.extend(target);
    }
    packet
}
