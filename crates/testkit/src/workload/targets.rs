//! The members that clients may ask.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::transport::Channel;

use crate::Cluster;

/// A connection to each member, shared by all clients.
#[derive(Debug)]
pub(super) struct Targets {
    /// Changes when members come and go; never empty.
    channels: Mutex<Vec<Channel>>,
}

impl Targets {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Targets { channels: Mutex::new(channels(cluster)) }
    }

    pub(super) fn update(&self, cluster: &Cluster) {
        *self.lock() = channels(cluster);
    }

    /// The member whose turn it is.
    pub(super) fn pick(&self, turn: usize) -> Channel {
        let channels = self.lock();
        channels[turn % channels.len()].clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn channels(cluster: &Cluster) -> Vec<Channel> {
    cluster.slots().into_iter().map(|slot| cluster.channel(slot)).collect()
}
