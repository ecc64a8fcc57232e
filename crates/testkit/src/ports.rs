//! Ports that stay ours while nobody listens on them.
//!
//! A member that is down must find its port free again when it comes back. A port that the kernel handed out
//! (bind to 0) does not promise that: the next outgoing connection of any program may get it. So these ports come
//! from below the range that Linux takes such ports from, and a locked file tells other test processes that a port
//! is taken. The lock ends with the process, however that ends.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;

use retcd_checkers::Dice;

/// Above the ports of well-known services, below Linux's own choice for outgoing connections (32768 and up).
const RANGE: Range<u16> = 10_240..32_768;

/// A port of loopback that no other holder of a `Port` uses.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Holds the lock.
    _claim: File,
}

impl Port {
    /// Takes a port.
    ///
    /// # Panics
    /// All are taken, or the directory for temporary files cannot be written.
    pub fn claim() -> Self {
        let dir = claims_dir();
        let count = RANGE.end - RANGE.start;
        let first = Dice::random().below(u64::from(count));
        let first = u16::try_from(first).expect("below a 16 bit number");
        (0..count)
            .map(|step| RANGE.start + (first + step) % count)
            .find_map(|number| {
                let claim = File::create(dir.join(number.to_string())).ok()?;
                claim.try_lock().ok()?;
                // Somebody who knows nothing of claims may listen there.
                TcpListener::bind(("127.0.0.1", number)).ok()?;
                Some(Port { number, _claim: claim })
            })
            .expect("some port between 10240 and 32768 is free")
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }
}

/// The files stay: removing one would let two processes lock two files of one name.
fn claims_dir() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("retcd-test-ports-{user}"));
    fs::create_dir_all(&dir).expect("the directory for temporary files can be written");
    dir
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn held_ports_differ_and_are_outside_of_the_kernels_choice() {
        let ports: Vec<Port> = (0..50).map(|_| Port::claim()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        assert!(numbers.iter().all(|number| RANGE.contains(number)));
    }

    #[test]
    fn a_claim_ends_with_its_holder() {
        let port = Port::claim();
        let path = claims_dir().join(port.number().to_string());
        assert!(File::create(&path).unwrap().try_lock().is_err());
        drop(port);
        assert!(File::create(&path).unwrap().try_lock().is_ok());
    }
}
