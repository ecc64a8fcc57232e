//! Tests only: what users of the crate `etcd-client` do, against the server named by `ETCD_BIN`.
