//! Members in one process that talk over loopback, raw requests at the peer port, and a real etcd.

mod go_etcd;
mod loopback;
mod member;
mod port;
mod snapshots;
